"""Several runs in one page: what compares stands together, known numbers, cases, escaping, bounds."""

import html
import json
import re

import numpy as np
from PIL import Image

from src.common.artifacts import write_json
from src.common.uncertainty import holm
from src.reporting import several
from src.reporting.people import choose_disputed
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


def test_p_values_count_how_many_runs_are_paired(made):
    good, *others = made.ranked("good", 0.5), made.ranked("near", 0.45), made.ranked("far", 0.4)
    alone = [compare(good, other, ["hit@10"])[0].test.p_value for other in others]
    page = page_of(made, good, *others)
    shown = {row[0]: row[3] for row in rows_of(page, "Metrics")[1:]}
    for run, p_value in zip(("near", "far"), holm(alone), strict=True):
        assert f", p {p_value:.3f}, " in shown[run].replace("p < .001", "p 0.000")
    assert "corrected for the number of runs (Holm)" in page


def test_hashes_of_what_each_run_wrote_are_no_differences(made):
    page = page_of(made, made.ranked("one", 0.5), made.ranked("two", 0.4))
    shown = [row[0] for row in rows_of(page, "What differs")]
    assert "file" in shown
    assert not [name for name in shown if name.startswith(("outputs", "record_sha256"))]


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
