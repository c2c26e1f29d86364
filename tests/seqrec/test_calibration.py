"""Chances against outcomes: known bins, known intervals, and chances that add up."""

import json

import numpy as np
import pytest

from src.common.artifacts import read_json, write_json
from src.seqrec.calibration import read_promises, reliability, wilson_interval
from src.seqrec.core import evaluate
from tests.seqrec.toy_runs import config_for, write_checkpoint
from tests.toy import NUM_ITEMS, toy_catalogue, toy_path


def test_bins_equal_a_count_by_hand():
    chances = np.array([[0.1, 0.1, 0.1, 0.1], [0.6, 0.6, 0.8, 0.8]])
    came_true = np.array([[True, False, False, False], [True, True, True, False]])
    found = reliability(chances, came_true, num_bins=2)
    np.testing.assert_allclose(found.promised, [0.1, 0.7])
    np.testing.assert_allclose(found.came_true, [0.25, 0.75])
    assert found.counts.tolist() == [4, 4]
    assert found.error == pytest.approx((0.15 + 0.05) / 2)


def test_honest_chances_have_almost_no_error():
    rng = np.random.default_rng(0)
    chances = rng.random(50_000)
    honest, vain = (reliability(chances, rng.random(50_000) < chances**power) for power in (1, 2))
    assert honest.error < 0.01
    assert ((honest.low <= honest.promised) & (honest.promised <= honest.high)).mean() > 0.8
    assert vain.error == pytest.approx(1 / 2 - 1 / 3, abs=0.01)
    assert (vain.came_true < vain.promised).all()
    assert honest.counts.sum() == 50_000
    assert np.ptp(honest.counts) <= 1


def test_equal_chances_stay_together():
    found = reliability(np.array([0.2] * 9 + [0.5]), np.arange(10) < 2, num_bins=5)
    assert found.counts.tolist() == [9, 1]


def test_intervals_are_wilsons():
    low, high = wilson_interval(np.array([0, 0.5, 1]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("chances", "came_true", "message"),
    [
        ([0.1, 1.5], [True, False], r"must lie in \[0, 1\]"),
        ([], [], "one or more are needed"),
        ([0.1], [True, False], "as many of both"),
        ([float("nan")], [True], r"must lie in \[0, 1\]"),
    ],
)
def test_what_is_no_chance(chances, came_true, message):
    with pytest.raises(ValueError, match=message):
        reliability(np.array(chances), np.array(came_true))


@pytest.mark.parametrize("sid_digits", [0, 1])
def test_chances_of_all_items_make_one(tmp_path, sid_digits):
    """Of SIDs that are spelt with two tokens a level, chances used to be worked out as if these were one."""
    checkpoint = write_checkpoint(tmp_path / "model", "qwen2", toy_path(), max_his_len=6, sid_digits=sid_digits)
    config = config_for(
        tmp_path, ckpt_model=checkpoint, num_beams=NUM_ITEMS, legal_softmax=True, metrics=("hit@1", "hit@10")
    )
    evaluate(config)
    promises = read_promises(config.results_file, toy_catalogue())
    np.testing.assert_allclose(promises.chances.sum(1), 1, atol=1e-4)
    assert (promises.hits.sum(1) == 1).all()
    results = json.loads(config.results_file.read_text())["mean_results"]
    assert promises.hits[:, :10].any(1).mean() == pytest.approx(results["hit@10"])
    assert promises.hits[:, 0].mean() == pytest.approx(results["hit@1"])

    table = read_json(config.results_file)
    write_json(config.results_file, {**table, "fusion": {"weights": {}}})  # of which scores are chances
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        reliability(*read_promises(config.results_file, toy_catalogue())[:1], promises.hits)
    for change, message in (
        ({"dataset": "Games"}, "is of Games, and the catalogue of Toy"),
        ({"checkpoint": None, "model": "Popularity"}, "is of Popularity, whose scores are no probabilities"),
        (
            {"index": "data/Toy/index/b/Toy.index_b.json"},
            r"was made with the index Toy\.index_b\.json, not with Toy\.ind",
        ),
    ):
        write_json(config.results_file, {**table, **change})
        with pytest.raises(ValueError, match=message):
            read_promises(config.results_file, toy_catalogue())
    write_json(config.results_file, {name: value for name, value in table.items() if name != "score_tokens"})
    with pytest.raises(ValueError, match="does not say of how many tokens its scores are means"):
        read_promises(config.results_file, toy_catalogue())
