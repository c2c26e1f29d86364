"""Several runs in one page: what compares stands together, known numbers, escaping, bounds, clear errors."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image

from src.common.artifacts import write_json
from src.report import main
from src.reporting import runs as finding
from src.reporting import several
from src.reporting.people import choose_disputed
from src.reporting.runs import find_runs
from src.reporting.settings import sort_settings
from src.reporting.several import MOST_CASES, SeveralConfig, write_comparison
from src.seqrec.compare import compare
from src.text_generation.results import Answered, intervals, score
from src.text_generation.results import write_predictions as write_text_predictions
from tests.reporting.pages import EVIL, checked, page_of, rows_of
from tests.toy import NAME


# ---- metrics ---------------------------------------------------------------------------------------------------------
def test_known_numbers_intervals_and_paired_tests(made):
    good, bad = made.ranked("good", 0.5), made.ranked("bad", 0.25)
    page = page_of(made, bad, good)
    head, first, second = rows_of(page, "Metrics")
    assert head == ["run", "samples", "hit@1", "hit@10", "ndcg@10"]
    table = json.loads(good.read_text())
    low, high = table["confidence_intervals"]["hit@10"]
    assert first[0] == "good"  # the best stands first, whatever was given first
    assert first[1] == str(table["num_samples"])
    assert first[3].split() == [f"{table['mean_results']['hit@10']:.4f}", f"[{low:.4f},", f"{high:.4f}]", "reference"]
    (test,) = (row.test for row in compare(good, bad, ["hit@10"]))
    assert test.p_value < 0.05
    p = f"p {test.p_value:.3f}" if test.p_value >= 0.001 else "p < .001"
    assert f"{test.difference:+.4f}, {p}, d {test.effect_size:+.2f}".replace("-", "−") in second[3]
    assert f"good: {table['mean_results']['hit@10']:.4f}, 95 % interval {low:.4f} to {high:.4f}" in page
    assert "Paired with good" in page
    assert "Paired with bad" in page_of(made, bad, good, against="first")


def test_what_does_not_compare_never_shares_a_table(made):
    paths = [made.ranked("one", 0.5), made.ranked("two", 0.3, masked=True), made.ranked("three", 0.4)]
    paths.append(made.changed(paths[0], "elsewhere", dataset="Other"))
    paths.append(made.changed(paths[0], "older", protocol=None, confidence_intervals=None, slices=None))
    page = page_of(made, *paths)
    groups = page.split('<h2 class="group-name">')[1:]
    assert [[row[0] for row in rows_of(group, "Metrics")[1:]] for group in groups] == [
        ["one", "three"], ["two"], ["elsewhere"], ["older"],
    ]  # fmt: skip
    assert "older.json is of an older form and states no protocol" in page
    assert "No intervals in the file: older" in page
    assert "No slices in the file: older" in page
    assert "No predictions (*.predictions.parquet) beside the results, so no cases." in groups[2]


def test_records_of_docs_results(made):
    ends = {"mean": 0.25, "interval": [0.2, 0.3]}
    protocol = json.loads(made.ranked("one", 0.5).read_text())["protocol"]
    record = {"row": "Toy/x", "dataset": NAME, "model": "m", "protocol": protocol, "num_samples": 9, "commit": "c"}
    for name, extra in (("items", {"item": {"hit@10": ends}}), ("sids", {"sid": {"hit@10": {**ends, "mean": 0.75}}})):
        table = record | {"item": {"hit@10": ends}} | extra
        table["protocol"] = protocol | ({"hits": "sid"} if name == "sids" else {})
        (made.folder / f"{name}.json").write_text(json.dumps(table))
    page = page_of(made, made.folder / "items.json", made.folder / "sids.json")
    cells = [row[2].split()[0] for row in rows_of(page, "Metrics") if row[0] != "run"]
    assert cells == ["0.2500", "0.7500"]  # where a hit is a SID, its metrics come first


def test_slices_are_small_multiples_on_one_scale(made):
    page = page_of(made, made.ranked("one", 0.5), made.ranked("two", 0.25))
    table = json.loads((made.folder / "results" / "one.json").read_text())
    panel = re.search(r'By length of the history</h3>.*?<h4>one</h4><div class="bars">(.*?)</div>', page)[1]
    for bucket, row in table["slices"]["history_length"].items():
        assert f">{bucket}<" in panel
        assert f"{row['hit@10']:.3f} <small>of {row['num_samples']}</small>" in panel
    assert "unseen in training" in page or "seen in training" in page
    assert 'class="few"' in page  # fewer than 30 samples


def test_samples_that_differ_are_not_paired(made):
    one, two = made.ranked("one", 0.5), made.ranked("two", 0.25)
    two.with_suffix(".predictions.parquet").write_bytes(one.with_suffix(".predictions.parquet").read_bytes())
    page = html.unescape(page_of(made, one, two))
    assert "two is not paired" in page
    assert "they are of different runs" in page


# ---- cases -----------------------------------------------------------------------------------------------------------
def test_cases_show_the_same_users_under_all_runs_and_escape_titles(made):
    page = page_of(made, made.ranked("one", 0.5), made.ranked("two", 0.25))
    assert "<script>alert" not in page
    assert "<b onload" not in page
    assert html.escape(EVIL, quote=True) in page
    cards = page.split('<div class="person">')[1:]
    assert len(cards) == 12
    for card in cards:
        assert "<b>one</b>: " in card
        assert "<b>two</b>: " in card
        assert "came next" in card
        assert "history (last " in card
    disputed = [card for card in cards[:6] if "1 of 2 runs have it" in card]
    assert len(disputed) == 6  # they are there, and those that both find or miss are not among the first half
    assert '<figure class="hit"' in page

    def drawn(seed):
        return re.findall(r"<b>user (\w+)</b>", page_of(made, made.folder / "results", seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)


def test_disputed_rows():
    values = np.array([[1, 0, 0.5, 0, 1, 0], [0, 0, 0.5, 0, 0.9, 0.2]])
    disputed, rest = choose_disputed(values, seed=3, count=4)
    assert disputed.tolist() == [0, 5]
    assert len(set(rest.tolist()) - {0, 5}) == 2
    none, rest = choose_disputed(np.ones((2, 3)), seed=3, count=4)
    assert none.tolist() == []
    assert sorted(rest.tolist()) == [0, 1, 2]


def test_pictures_are_bounded_and_the_bound_is_stated(made, monkeypatch):
    monkeypatch.setattr(several, "MOST_PICTURES", 1 << 20)
    rng = np.random.default_rng(0)
    for file in (made.data / NAME / "images").glob("*.jpg"):
        Image.fromarray(rng.integers(0, 256, (164, 124, 3), dtype=np.uint8)).save(file)
    page = page_of(made, made.ranked("one", 0.5), made.ranked("two", 0.25))
    pictures = sum(map(len, re.findall(r"data:image/jpeg;base64,[^\"]+", page)))
    assert 0.9 * (1 << 20) < pictures <= 1 << 20
    assert len(page) - pictures < 1 << 19
    assert "Pictures take at most 1 MB." in page
    assert re.search(r"\d more found no room: their titles stand for them", page)


def test_cases_of_many_runs_are_those_of_the_best(made):
    page = page_of(made, *(made.ranked(f"run{number}", number / 12) for number in range(MOST_CASES + 2)))
    assert f"Of {MOST_CASES + 2} runs with predictions the best {MOST_CASES} are shown" in page
    card = page.split('<div class="person">')[1]
    assert "<b>run9</b>" in card
    assert "<b>run1</b>" not in card
    assert len(rows_of(page, "Metrics")) == MOST_CASES + 3


def written(made, name, tags):
    """Results of generated texts: the titles are right, and half of the tags where `tags` is not."""
    keys = [str(item) for item in range(9)]
    right = [{"enhanced_title": f"title {key} {EVIL}", "tags": f"red; tag {key}"} for key in keys]
    mine = [{**fields, "tags": fields["tags"] if tags else "red; blue"} for fields in right]
    answered = Answered(keys, np.arange(9), [str(fields) for fields in mine], mine, right)
    scores = score(answered, "en")
    path = made.folder / "texts" / f"{name}.json"
    write_text_predictions(path.with_suffix(".predictions.parquet"), [(answered, scores)])
    about = {"model_name": name, "test_task": "text_enrich", "dataset": NAME, "split": "test", "prompt_lang": "en"}
    about |= {"num_samples": 9, "confidence_intervals": intervals([scores], keys), "shuffle_images": not tags}
    write_json(path, {"mean_results": scores.means(), **about})
    return path


def test_generated_texts_side_by_side(made):
    page = page_of(made, written(made, "sees", True), written(made, "guesses", False), made.ranked("one", 0.5))
    texts, ranked = page.split('<h2 class="group-name">')[1:]
    head, first, second = rows_of(texts, "Metrics")
    assert head == ["run", "samples", "bleu", "chrf", "rougeL", "token_f1", "parsed"]
    assert first[0] == "sees"
    assert first[4].split()[0] == "1.0000"
    assert "p 0.00" in second[4]
    assert "p " not in second[2]  # BLEU has no value of a single sample
    assert "By field" in texts
    cards = texts.split('<div class="person">')[1:]
    assert len(cards) == 8
    for card in cards:
        assert card.index("reference") < card.index("sees") < card.index("guesses")
        assert "red; blue" in card
        assert "<img" in card or 'class="words"' in card
    assert "<script>alert" not in page
    assert [row[0] for row in rows_of(ranked, "Metrics")] == ["run", "one"]


def test_no_dataset_no_cases(made):
    one = made.ranked("one", 0.5)
    output = made.folder / "page.html"
    write_comparison(SeveralConfig((str(one),), data_path=made.folder / "nowhere", output=output))
    assert "No cases: there is no dataset folder" in checked(output)


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
    "newer": ('{"mean_results": {"a": 1}, "protocol": {"name": "x", "tempo": 3}}', "another version of GRec wrote it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_errors(tmp_path, kind):
    content, message = BROKEN[kind]
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        find_runs([str(tmp_path / "x.json")])
    assert "x.json" in str(error.value)


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
