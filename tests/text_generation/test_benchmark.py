"""A list of models gives one table, which no run spoils for another."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from src.text_generation import benchmark, evaluate
from src.text_generation.config import TextConfig
from src.text_generation.results import upsert
from tests.seqrec.toy_runs import checkpoint
from tests.toy import INDEX_FILE, NAME, tiny_model, toy_path


# ---- the table -------------------------------------------------------------------------------------------------------
def row(model: str, **more) -> dict:
    return {"model": model, "dataset": "D", "task": "t", "split": "test", "prompts": "0", "pictures": "own", **more}


def test_no_row_is_lost_when_many_write(tmp_path):
    path = tmp_path / "table.csv"
    with ThreadPoolExecutor(8) as pool:  # each opens the lock anew, as a process of its own would
        list(pool.map(lambda number: upsert(path, [row(f"model {number}", rougeL=number)]), range(60)))
    table = pl.read_csv(path)
    assert sorted(table["rougeL"].to_list()) == list(range(60))


def test_rows_are_replaced_and_columns_added(tmp_path):
    path = tmp_path / "table.csv"
    upsert(path, [row("a", rougeL=1), row("b, c", rougeL=2)])
    upsert(path, [row("a", rougeL=3, bleu=4)])
    table = pl.read_csv(path)
    assert table["model"].to_list() == ["a", "b, c"]
    assert table["rougeL"].to_list() == [3, 2]
    assert table["bleu"].to_list() == [4, None]
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="a table of something else"):
        upsert(path, [row("a")])
    assert path.read_text() == "x,y\n1,2\n"


# ---- a list of models ------------------------------------------------------------------------------------------------
def write_list(folder: Path, **changes) -> Path:
    settings = {"dataset": NAME, "data_path": str(toy_path()), "device": "cpu", "max_new_tokens": 4, "sample_num": 2}
    models = [
        {"model_name": "ours", "ckpt_model": str(checkpoint("qwen2_vl")), "index_file": INDEX_FILE},
        {"model_name": "published", "ckpt_model": str(tiny_model("qwen2_vl")), "zero_shot": True},
    ]
    table = {"table_file": str(folder / "table.csv"), "settings": settings, "models": models, **changes}
    path = folder / "list.yml"
    path.write_text(json.dumps(table))  # JSON is YAML
    return path


def test_a_list_of_models_gives_one_table(tmp_path, capsys, monkeypatch):
    """Each in this process here, instead of one of its own; the first fails."""

    start = subprocess.run

    def run_here(command, **options):
        if "src.text_generation.evaluate" not in command:
            return start(command, **options)
        if "ours" not in command:
            evaluate.main(command[command.index("src.text_generation.evaluate") + 1 :])
        return subprocess.CompletedProcess(command, int("ours" in command))

    monkeypatch.setattr(benchmark.subprocess, "run", run_here)
    path = write_list(tmp_path)
    table = json.loads(path.read_text())
    for entry in table["models"]:
        entry["results_file"] = str(tmp_path / f"{entry['model_name']}.json")
    path.write_text(json.dumps(table))
    assert benchmark.main(["--config", str(path)]) == 1
    assert pl.read_csv(tmp_path / "table.csv")["model"].to_list() == ["published", "copy title", "copy input"]
    out, err = capsys.readouterr()
    assert out.splitlines()[-3].startswith("published")
    assert "rougeL" in out.splitlines()[-4]
    assert "failed: ours" in err


def test_the_table_of_a_list_holds_its_task_only(tmp_path):
    """All tasks of a dataset share one file."""
    upsert(tmp_path / "t.csv", [row("a", task="text_enrich", bleu=1), row("b", task="index2item", bleu=2)])
    lines = benchmark.table_lines(tmp_path / "t.csv", TextConfig("D", Path(), test_task="mmitemenrich"))
    assert [line.split()[0] for line in lines[1:]] == ["a"]


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"models": []}, [], "must hold a list `models`"),
        ({"speed": 3}, [], "there is no setting 'speed'"),
        ({"models": [{"ckpt_model": "x"}]}, [], "every model needs a model_name"),
        (
            {"models": [{"model_name": "x", "ckpt_model": "gone", "sped": 2}]},
            [],
            "model x: unrecognized arguments: --sped",
        ),
        ({"models": [{"model_name": "x", "ckpt_model": "gone"}]}, [], "model x: --ckpt_model gone is no folder"),
        ({"settings": ["dataset"]}, [], "`settings` must be flags with their values"),
        ({"nproc_per_node": "all"}, [], "nproc_per_node 'all' is no whole number"),
        (
            {"settings": {"dataset": NAME, "results_file": "one.json"}},
            [],
            "several models would write one.json: give each a results_file of its own",
        ),
        ({"nproc_per_node": 0}, [], "--nproc_per_node 0: it must be at least 1"),
        ({}, ["--only", "mine"], "--only mine: .* has the models ours, published"),
    ],
)
def test_faults_of_a_list_are_found_before_any_run(tmp_path, monkeypatch, capsys, changes, flags, message):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--config", str(write_list(tmp_path, **changes)), *flags])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_list_that_is_shipped_is_well_formed():
    runs, processes = benchmark.read_runs(Path(__file__).parents[2] / "config" / "text_generation_benchmark.yml", [])
    assert processes == 1
    assert [run.config.zero_shot for run in runs] == [False, True, True, True, True, True]
