"""src.verify where artefacts lie in unusual places: records by hand, so that each case is a few lines."""

import os
from pathlib import Path

import pytest

from src.common.record import begins_as_record, run_record, write_record
from src.verify import verify


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def record(path: str, kind: str, inputs: dict[str, str], outputs: dict[str, str] | None = None) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    entries = run_record(None, {name: Path(given) for name, given in inputs.items()})
    write_record(path, {**entries, "artefact": kind}, outputs or {})


def model(folder: str, weights: str, **inputs: str) -> None:
    write(f"{folder}/adapter_config.json", weights)
    record(f"{folder}/run.json", "fine-tuned model", inputs, {"model": folder})


def seen(capsys, *paths: str) -> tuple[bool, list[str]]:
    whole = verify([Path(path) for path in paths or (".",)], [])
    return whole, capsys.readouterr().out.splitlines()


def test_models_that_were_made_from_each_other_are_all_shown(capsys):
    """An adapter was merged, and what came out was trained on into the folder of the adapter."""
    model("adapter", "1")
    model("merged", "2", adapter="adapter")
    model("adapter", "3", base="merged")
    whole, printed = seen(capsys)
    assert not whole
    assert sorted(line.split("fine-tuned model ")[1].split(":")[0] for line in printed[:-1]) == ["adapter", "merged"]
    assert any("merged: OTHER VERSION - made from another version of adapter adapter" in line for line in printed)


def test_models_that_have_changed_places(capsys):
    model("first", "1")
    model("second", "2", base="first")
    for old, new in (("first", "third"), ("second", "first"), ("third", "second")):
        os.rename(old, new)
    whole, printed = seen(capsys)
    assert whole
    assert printed[:2] == [
        "fine-tuned model second: ok", "└─ fine-tuned model first: ok - base first was found by its hash: second"
    ]  # fmt: skip


def test_a_result_in_the_folder_of_its_model(capsys):
    model("mine", "1")
    write("mine/test.predictions.parquet", "x")
    record("mine/test.json", "results", {"checkpoint": "mine"}, {"predictions": "mine/test.predictions.parquet"})
    assert seen(capsys) == (
        True, ["fine-tuned model mine: ok", "└─ results mine/test.json: ok", "2 artefacts: 2 ok; no link is broken"]
    )  # fmt: skip
    write("mine/tokenizer.json", "{}")
    whole, printed = seen(capsys)
    assert not whole
    assert printed[0] == "fine-tuned model mine: CHANGED - mine is not as it was written: tokenizer.json"


def test_broken_json_of_others_breaks_nothing(capsys):
    record("results/a.json", "results", {})
    write("raw/Games.json", '{"asin": 1}\n{"asin": 2}\n')
    write("notes.json", "// a comment\n{}")
    assert seen(capsys)[0]
    for path in ("results/a.json", "results/b.json"):  # a record begins with what it is of
        record(path, "results", {})
        assert begins_as_record(Path(path))
        write(path, Path(path).read_text()[:40])
    write("results/c.json", "")
    write("results/c.predictions.parquet", "x")
    whole, printed = seen(capsys)
    assert not whole
    assert printed[-1].startswith("3 artefacts: 3 unreadable")


def test_folders_behind_links_are_looked_into(capsys):
    write("disk/Games/x.npy", "x")
    record("disk/Games/a.json", "results", {"embeddings": "disk/Games/x.npy"})
    Path("data").mkdir()
    os.symlink("../disk/Games", "data/Games")
    os.symlink("..", "disk/Games/loop")
    whole, printed = seen(capsys, "data")
    assert whole
    assert printed[-1] == "1 artefacts: 1 ok; no link is broken"
    write("disk/Games/x.npy", "y")
    assert not seen(capsys, "data")[0]


@pytest.mark.parametrize("digest", [5, {}, [1]])
def test_an_input_without_a_true_hash_ends_nothing(capsys, digest):
    write_record("a.json", {"artefact": "results", "inputs": {"x": {"path": "x.npy", "sha256": digest}}}, {})
    assert seen(capsys)[0]


def test_interactions_that_came_later_are_told(capsys):
    write("data/D/D.inter.parquet/0.parquet", "first")
    write("x.json", "x")
    record("x.run.json", "model", {"interactions": "data/D/D.inter.parquet/0.parquet"}, {"x": "x.json"})
    write("data/D/D.inter.parquet/notes.txt", "no shard")
    assert seen(capsys)[0]
    write("data/D/D.inter.parquet/1.parquet", "second")
    write("data/D/D.inter.parquet/2.parquet", "third")
    whole, printed = seen(capsys)
    assert not whole
    assert any("made without data/D/D.inter.parquet/1.parquet and 1 more" in line for line in printed)


@pytest.mark.parametrize("table", ["D.inter.json", "D.inter.parquet", "D.inter.parquet/0.parquet"])
def test_a_split_that_came_later_is_told(capsys, table):
    """Results of leave-one-out used to stand as made from a dataset that is split by time now."""
    write(f"data/D/{table}", "interactions")
    record("x.json", "results", {"interactions": f"data/D/{table}"})
    assert seen(capsys)[0]
    write("data/D/D.split.json", "{}")
    whole, printed = seen(capsys)
    assert not whole
    assert any("x.json: OTHER VERSION - made without data/D/D.split.json" in line for line in printed)
    record("x.json", "results", {"interactions": f"data/D/{table}", "split": "data/D/D.split.json"})
    assert seen(capsys)[0]
