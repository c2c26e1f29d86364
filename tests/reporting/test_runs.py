"""What a report is given: runs that are found, named and read, what belongs to them, clear errors."""

import json
import re

import pytest

from src.report import main
from src.reporting import runs as finding
from src.reporting.runs import find_runs
from src.reporting.settings import sort_settings
from tests.reporting.pages import checked, page_of, rows_of
from tests.toy import NAME


# ---- training and codebooks ------------------------------------------------------------------------------------------
def test_what_belongs_to_results_is_found(made):
    index = made.data / NAME / "index" / "simple" / f"{NAME}.index_simple.json"
    folder = made.finetuning("sft", 4.0, index=str(index))
    meta = index.with_name(f"{NAME}.index_simple.meta.json")
    run = made.rqvae("simple", 1.0)
    table = json.loads(meta.read_text()) | {"checkpoint": {"path": str(run / "best_loss_model.pth")}}
    meta.write_text(json.dumps(table))
    one = made.ranked("one", 0.5, checkpoint=str(folder), index=str(index))
    page = page_of(made, one)
    for title in ("fine-tuning – Toy, seqrec", "semantic IDs – Toy", "Semantic IDs – Toy"):
        assert f"{title}</h2>" in page
    gone = made.ranked("gone", 0.5, checkpoint="nowhere/sft", index="nowhere/index.json")
    page = page_of(made, gone)
    assert "No training curves of what these were made with" in page
    assert "No codebooks of what these used" in page
    assert find_runs([str(folder)]).indexes.keys() == {f"{NAME}.index_simple"}


def test_curves_overlay_runs_of_one_dataset_and_task(made):
    folders = [made.finetuning("a", 4.0), made.finetuning("b", 2.0), made.finetuning("c", 1.0, tasks=("index2item",))]
    runs = [made.rqvae("small", 1.0), made.rqvae("large", 2.0)]
    page = page_of(made, *folders, *runs)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        f"Training: fine-tuning – {NAME}, seqrec",
        f"Training: fine-tuning – {NAME}, index2item",
        f"Training: semantic IDs – {NAME}",
    ]
    first, second, third = page.split("<section")[1:]
    assert first.count('stroke-width="1.8"') == 6  # training loss, validation loss, learning rate of two runs
    assert "stroke-dasharray" in first
    assert second.count('stroke-width="1.8"') == 3
    for title in ("collision rate", "utilization, level 0", "utilization, level 1", "validation reconstruction"):
        assert f"<h3>{title}" in third
    assert "small/2026-01-01_10-00-00" in third  # a time alone would say nothing
    assert [row[0] for row in rows_of(first, "What differs")] == ["setting", "learning_rate"]
    assert rows_of(first, "What differs")[1][1:] == ["4", "2"]


def test_codebooks_of_several_indexes(made):
    index = made.data / NAME / "index" / "simple" / f"{NAME}.index_simple.json"
    other = index.with_name(f"{NAME}.index_other.json")
    table = json.loads(index.read_text())
    table["1"] = table["0"]
    other.write_text(json.dumps(table))
    words = [made.ranked("one", 0.5, index=str(index)), made.ranked("two", 0.4, index=str(other))]
    rows = rows_of(page_of(made, *words), "Codebooks")
    places = [f"{place} ({letter})" for place, letter in enumerate("abc")]
    assert [row[:2] for row in rows[1:4]] == [[f"{NAME}.index_simple", place] for place in places]
    assert [row[:2] for row in rows[4:]] == [[f"{NAME}.index_other", place] for place in places]
    assert rows[3][6] == "0.0%"  # all SIDs differ
    assert rows[6][6] == "2.5%"  # one of forty shared
    assert rows[1][3:5] == ["4 of 4", "100.0%"]


def test_settings_that_differ():
    found = sort_settings({"a": {"x": 1, "y": 2, "only": 3}, "b": {"x": 1, "y": 4}})
    assert found == ({"y": [2, 4]}, {"only": [3, None]}, 1)


# ---- what was given --------------------------------------------------------------------------------------------------
def test_names(made):
    one = made.ranked("one", 0.5)
    for folder in ("x", "y"):
        (made.folder / folder).mkdir()
        (made.folder / folder / "same.json").write_text(one.read_text())
    runs = find_runs([f"mine={one}", str(made.folder / "x"), str(made.folder / "y" / "same.json"), str(one)])
    assert [result.name for result in runs.results] == ["mine", "x/same", "y/same"]
    assert runs.notes[-1] == f"{one} was given twice and is shown once."
    with pytest.raises(ValueError, match=r"two runs are called 'a'.*NAME=RUN"):
        find_runs([f"a={one}", f"a={made.folder / 'x' / 'same.json'}"])
    with pytest.raises(ValueError, match=r"would both be called 'one'"):
        find_runs([f"one={made.folder / 'x' / 'same.json'}", str(one)])


def test_a_folder_stands_for_what_is_in_it(made):
    made.ranked("one", 0.5)
    made.ranked("two", 0.4)
    made.finetuning("a", 4.0)
    results = made.folder / "results"
    (results / "summary.json").write_text('{"rows": []}')
    (results / "cut.json").write_text('{"mean_results": {"hit@')
    runs = find_runs([str(results), str(made.folder / "output")])
    assert [result.name for result in runs.results] == ["one", "two"]
    assert list(runs.finetunings) == ["a"]
    assert any("cut.json is not valid JSON" in note and "left out" in note for note in runs.notes)
    assert any("summary.json" in note for note in runs.notes)
    assert [result.name for result in find_runs([str(results.parent)]).results] == ["one", "two"]


BROKEN = {
    "truncated": ('{"mean_results": {"hit@', "not valid JSON"),
    "no results": ('{"rows": []}', "is no results file: it has no mean_results"),
    "a list": ("[1]", "is no results file"),
    "words for numbers": ('{"mean_results": {"hit@10": "high"}}', "has hit@10 'high', which is no number"),
    "one end": ('{"mean_results": {"a": 1}, "confidence_intervals": {"a": [0]}}', "no two numbers"),
    "samples": ('{"mean_results": {"a": 1}, "num_samples": "many"}', "num_samples is 'many'"),
    "slices of one number": ('{"mean_results": {"a": 1}, "slices": {"x": 1}}', "slices must be a table"),
    "a slice of words": ('{"mean_results": {"a": 1}, "slices": {"x": {"y": {"num_samples": "n"}}}}', "slices must be"),
    "a task of two": ('{"mean_results": {"a": 1}, "model_name": "m", "test_task": ["x"]}', "must be words"),
    "newer": ('{"mean_results": {"a": 1}, "protocol": {"name": "x", "tempo": 3}}', "another version of GRec wrote it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_errors(tmp_path, kind):
    content, message = BROKEN[kind]
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        find_runs([str(tmp_path / "x.json")])
    assert "x.json" in str(error.value)


def test_a_broken_log_is_an_error_and_one_that_belongs_is_noted(made):
    """Rows after a broken one were left out without a word."""
    folder = made.finetuning("a", 4.0)
    log = folder / "trainer_log.jsonl"
    log.write_text("\n" + log.read_text() + '\n{"step": 5, "loss": 1}\n')
    with pytest.raises(
        ValueError, match=r"trainer_log\.jsonl: row 5 of 6 is no JSON object: \{\"step\": 4, \"lo\. Delete"
    ):
        find_runs([str(folder)])
    assert any("row 5 of 6" in note for note in find_runs([str(made.ranked("one", 0.5, checkpoint=str(folder)))]).notes)
    log.write_text("[1]\n")
    with pytest.raises(ValueError, match="row 1 of 1 is no JSON object"):
        find_runs([str(folder)])


def test_no_run_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        find_runs([str(tmp_path / "nowhere.json")])
    with pytest.raises(ValueError, match=r"is no run: it has neither results"):
        find_runs([str(tmp_path)])
    with pytest.raises(ValueError, match="names no run"):
        find_runs(["=x.json"])
    (tmp_path / "x.predictions.parquet").write_bytes(b"PAR1\xd0")
    with pytest.raises(ValueError, match=r"is no \.json: name the results file"):
        find_runs([str(tmp_path / "x.predictions.parquet")])
    monkeypatch.setattr(finding, "LARGEST", 1)
    (tmp_path / "big.json").write_text('{"mean_results": {}}')
    with pytest.raises(ValueError, match="is no run"):
        find_runs([str(tmp_path)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give RUN"),
        (["--dataset", "Toy", "--against", "first"], "--against first belongs to a report of RUN"),
        (["x.json", "--dataset", "Toy"], "--dataset Toy belongs to a report of --dataset"),
        (["x.json", "--sft_dir", "y"], "--sft_dir y belongs"),
        (["x.json"], "x.json does not exist"),
    ],
)
def test_flags_of_one_form_beside_the_other(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_entry(made, capsys, monkeypatch):
    one = made.ranked("one", 0.5)
    monkeypatch.chdir(made.folder)
    main([str(one), "--data_path", str(made.data)])
    assert "results/comparison.html" in capsys.readouterr().out
    checked(made.folder / "results" / "comparison.html")
