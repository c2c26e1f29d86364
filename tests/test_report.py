"""The report: whole, self-contained, escaped, and written even where most of its pieces are missing."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from src.common.index_files import save_sid_index
from src.common.sid import SidIndex
from src.report import ReportConfig, main, write_report
from src.reporting import charts
from src.reporting.people import NUM_SHOWN, NUM_USERS, choose_samples
from src.seqrec.results import Predictions, write_predictions
from tests.reporting.pages import checked

NUM_ITEMS = 12
ROW = {"model": "<b>Ours</b>", "hit@10": 0.2, "ndcg@10": 0.1, "ci": {"hit@10": [0.15, 0.25]}}


@pytest.fixture
def folder(tmp_path):
    """A dataset of 12 items, the first half with pictures, one of them broken; a summary; predictions."""
    data = tmp_path / "data" / "Toy"
    (data / "images").mkdir(parents=True)
    items = {str(item): {"title": f"<script>alert({item})</script>"} for item in range(NUM_ITEMS)}
    (data / "Toy.item.json").write_text(json.dumps(items))
    sequences = {f"u&{user}": [(user + step) % NUM_ITEMS for step in range(6)] for user in range(20)}
    (data / "Toy.inter.json").write_text(json.dumps(sequences))
    for item in range(NUM_ITEMS // 2):
        Image.new("RGB", (300, 200), (item * 20, 90, 90)).save(data / "images" / f"{item}.jpg")
    (data / "images" / "0.jpg").write_bytes(b"no picture")
    results = tmp_path / "results"
    results.mkdir()
    summary = {"dataset": "Toy", "seconds": {"index": 3.2, "training": 130}, "rows": [ROW, {"model": "Popularity"}]}
    (results / "summary.json").write_text(json.dumps(summary))
    targets = np.array([sequence[-1] for sequence in sequences.values()])
    ranked = np.stack([(targets + shift) % NUM_ITEMS for shift in (1, 0, 3)], axis=1)
    ranked[10:] = (targets[10:, None] + [1, 2, 3]) % NUM_ITEMS
    write_predictions(
        results / "grec.predictions.parquet", Predictions(list(sequences), targets, ranked, np.zeros((20, 3)))
    )
    return tmp_path


def test_everything_there(folder):
    index = SidIndex(np.arange(NUM_ITEMS), np.arange(NUM_ITEMS)[:, None] % [4, 9], ("a", "b"), (4, 9))
    save_sid_index(folder / "toy.json", index, {"collisions_before": {"collision_rate": 0.25}})
    run = folder / "data" / "Toy" / "index" / "toy" / "2026-01-01"
    run.mkdir(parents=True)
    row = {"loss": 0.5, "eval_loss": math.nan, "collision_rate": 0.1, "utilization": [1, 0.5], "perplexity": [4, 3]}
    (run / "metrics.jsonl").write_text("".join(json.dumps({"epoch": epoch, **row}) + "\n" for epoch in (1, 2)) + '{"ep')
    (run / "config.json").write_text(json.dumps({"config": {"epochs": 2}, "commit": "abc"}))
    log = [{"step": 1, "loss": 3.0, "learning_rate": 1e-4}, {"step": 2, "eval_loss": 2.0, "eval_loss_seqrec": 2.5}]
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    config = ReportConfig(
        "Toy", folder / "data", folder / "results", index_file=str(folder / "toy.json"), sft_dir=folder
    )
    path = write_report(config)
    page = checked(path)
    assert path == folder / "results" / "report.html"
    assert 'class="note"' not in page
    for words in ("&lt;b&gt;Ours", "25.00%", "perplexity 4.0", "validation loss seqrec", "2 min 10 s", "hit at rank 2"):
        assert words in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(7)" in page  # a title where there is no picture
    assert page.count('<div class="person">') == NUM_USERS
    assert page.count('figure class="hit"') == 6
    assert re.search(r'title="item 7: &lt;script&gt;.*?<figcaption><b>(\d\. )?#7</b></figcaption>', page)
    scrolling = re.findall(r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+"><table', page)
    assert page.count("<table") == len(scrolling) == 2  # wide tables scroll, not the page
    for svg in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(svg)
        assert "nan" not in svg


def test_nothing_but_a_summary(folder):
    (folder / "results" / "grec.predictions.parquet").unlink()
    page = checked(write_report(ReportConfig("Toy", folder / "data", folder / "results")))
    assert page.count('class="note"') == 4  # users, index, two training runs


def test_no_summary_is_an_error(folder):
    (folder / "results" / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"summary\.json"):
        write_report(ReportConfig("Toy", folder / "data", folder / "results"))


@pytest.mark.parametrize("flag", ["rqvae_dir", "sft_dir", "predictions"])
def test_what_a_flag_names_must_be_there(folder, flag):
    """A misspelt path gave a page with a note that there is nothing to show."""
    config = ReportConfig("Toy", folder / "data", folder / "results", **{flag: folder / "misspelt"})
    with pytest.raises(FileNotFoundError, match=rf"--{flag} .*misspelt does not exist"):
        write_report(config)


def test_predictions_of_another_dataset_are_noted(folder):
    path = folder / "results" / "grec.predictions.parquet"
    write_predictions(path, Predictions(["stranger"], np.array([1]), np.array([[1]]), np.zeros((1, 1))))
    assert "stranger" in checked(write_report(ReportConfig("Toy", folder / "data", folder / "results")))


def test_entry(folder, capsys):
    output = folder / "out.html"
    flags = ["--data_path", str(folder / "data"), "--results_dir", str(folder / "results"), "--output", str(output)]
    main(["--dataset", "Toy", *flags])
    assert str(output) in capsys.readouterr().out
    checked(output)


@pytest.mark.parametrize(("num_hits", "num_others", "shown"), [(50, 50, 6), (2, 50, 2), (50, 3, 9), (4, 3, 4)])
def test_users_drawn(num_hits, num_others, shown):
    ranks = np.array([0] * num_hits + [NUM_SHOWN] * num_others)
    rows = choose_samples(ranks, seed=1)
    assert len(rows) == len(set(rows.tolist())) == min(NUM_USERS, num_hits + num_others)
    assert (ranks[rows] < NUM_SHOWN).sum() == shown
    assert choose_samples(ranks, seed=1).tolist() == rows.tolist()


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1e-6, 1e3], [-1.0, 5.0], [3, 4] * 900])
def test_line_charts_of_odd_data(values):
    chart = charts.line_chart("x", {"y": list(enumerate(values))}, "step", may_be_log=True)
    ElementTree.fromstring(re.search(r"<svg.*</svg>", chart)[0])
    assert len(chart) < 30_000


@pytest.mark.parametrize("counts", [[5], [0, 0, 9], list(range(300)), [1] * 5000])
def test_usage_charts_of_any_size(counts):
    chart = charts.usage_chart(np.array(counts))
    ElementTree.fromstring(chart)
    assert len(chart) < 30_000
