"""src.verify on what was made from pictures."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from src.verify import verify
from tests.lineage.conftest import run

NAME = "Seen"
DATA = Path("data", NAME)
EMBEDDINGS = DATA / f"{NAME}.emb-simple.npy"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("data_process.make_demo_data", f"--dataset {NAME} --items 40 --users 20")
        run("data_process.simple_embeddings", f"--dataset {NAME} --dim 4")
    return folder


@pytest.fixture(autouse=True)
def _copy(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def faults(tmp_path: Path, *paths: str) -> dict[str, list[str]]:
    file = tmp_path / "found.json"
    verify([Path(path) for path in paths or (str(DATA),)], [], file)
    rows = json.loads(file.read_text())["artefacts"]
    return {row["path"]: [fault["reason"] for fault in row["faults"]] for row in rows if row["faults"]}


def two_pictures() -> list[Path]:
    return sorted((DATA / "images").iterdir())[:2]


def test_pictures_are_an_input(tmp_path, capsys):
    record = json.loads(EMBEDDINGS.with_suffix(".run.json").read_text())
    entry = record["inputs"]["pictures"]
    assert (entry["path"], entry["pictures"], entry["image_path"]) == (str(DATA), 40, "images")
    assert not faults(tmp_path)
    assert "no link is broken" in capsys.readouterr().out


def test_the_hash_is_that_of_what_sha256sum_prints(tmp_path):
    """So names count: a picture that went over to an item without one is told, too."""
    entry = json.loads(EMBEDDINGS.with_suffix(".run.json").read_text())["inputs"]["pictures"]
    names = sorted(str(path.relative_to(DATA)) for path in (DATA / "images").iterdir())
    listed = subprocess.run(["sha256sum", *names], cwd=DATA, capture_output=True, check=True).stdout
    assert hashlib.sha256(listed).hexdigest() == entry["sha256"]


def test_pictures_that_changed_places_are_told(tmp_path):
    """The trap of this field: every file is there, and each is of another item."""
    first, second = two_pictures()
    first.rename("kept"), second.rename(first), Path("kept").rename(second)
    found = faults(tmp_path)
    assert list(found) == [str(EMBEDDINGS)]
    (reason,) = found[str(EMBEDDINGS)]
    assert reason.startswith(f"made from other pictures of {DATA}: 40 pictures, ")
    assert "then; 40 pictures, " in reason


def test_a_lost_picture_is_told(tmp_path):
    two_pictures()[0].unlink()
    (reason,) = faults(tmp_path)[str(EMBEDDINGS)]
    assert "40 pictures, " in reason
    assert "then; 39 pictures, " in reason


def test_pictures_of_nobody_break_nothing(tmp_path):
    (DATA / "images" / "further.jpg").write_bytes(b"of no item")
    assert not faults(tmp_path)


def test_a_dataset_may_move_with_its_pictures(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    Path("data").rename("there/data")
    monkeypatch.chdir(tmp_path / "there")
    assert not faults(tmp_path)


def test_embeddings_apart_from_their_data(tmp_path):
    Path("kept").mkdir()
    for file in DATA.glob(f"{EMBEDDINGS.stem}*"):
        file.rename(Path("kept", file.name))
    assert not faults(tmp_path, "kept")
    Path("data").rename("gone")
    (reasons,) = faults(tmp_path, "kept").values()
    assert any(reason.startswith(f"pictures {DATA} (") and reason.endswith(") is nowhere") for reason in reasons)


def test_items_that_cannot_be_read_are_told_once(tmp_path, capsys):
    items = DATA / f"{NAME}.item.json"
    items.write_text(items.read_text()[:100])
    found = faults(tmp_path)
    assert list(found) == [str(DATA)]  # the demo's own record tells that its items have changed
    assert f"the pictures of {DATA} cannot be found without its items: " in capsys.readouterr().out


def test_what_asks_no_picture_names_none():
    run("data_process.simple_embeddings", f"--dataset {NAME} --dim 4 --no_image --name words")
    record = json.loads((DATA / f"{NAME}.emb-words.run.json").read_text())
    assert record["inputs"].keys() == {"items"}
