"""Result files: what they hold, and that predictions survive a round trip."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from src.baselines.config import BaselineConfig
from src.baselines.core import run_baseline
from src.common.sid import SidIndex
from src.seqrec import results
from src.tasks.catalogue import load_catalogue
from tests.baselines.test_baselines import write_dataset
from tests.toy import NAME, toy_path

DOCUMENTED = {
    *("test_prompt_ids", "mean_results", "min_results", "max_results", "all_prompt_results", "is_lora", "base_model"),
    *("num_samples", "num_beams", "dataset", "index", "checkpoint", "commit", "confidence_intervals", "slices"),
    "protocol",
}
ASKED = {"split": "test", "filter_history": True, "test_task": "seqrec"}  # what settles the protocol


@pytest.fixture
def predictions():
    return results.Predictions(
        users=["ann", "bob", "42"],
        targets=np.array([2, 0, 4]),
        ranked=np.array([[2, 1, 0], [1, 0, -1], [3, 2, 1]]),
        scores=np.array([[-0.5, -1, -2], [-0.1, -3, -np.inf], [-1, -1, -1]], np.float32),
        prompt_id=3,
        history_lengths=np.array([2, 5, 9]),
    )


@pytest.fixture
def catalogue(tmp_path):
    write_dataset(tmp_path, "Toy", {"ann": [0, 1, 2, 3, 2], "bob": [1, 2, 4, 0]})
    return load_catalogue(tmp_path, "Toy")


def test_predictions_survive_a_round_trip(tmp_path, predictions):
    other = replace(predictions, prompt_id=7, scores=predictions.scores - 1)
    path = tmp_path / "a.predictions.parquet"
    results.write_predictions(path, [predictions, other])
    for written, read in zip([predictions, other], results.read_predictions(path), strict=True):
        assert (read.users, read.prompt_id) == (written.users, written.prompt_id)
        for field in ("targets", "ranked", "scores", "history_lengths"):
            np.testing.assert_array_equal(getattr(read, field), getattr(written, field))
            assert getattr(read, field).dtype == getattr(written, field).dtype


def test_columns_are_those_documented(tmp_path, predictions):
    import polars as pl

    path = tmp_path / "a.predictions.parquet"
    results.write_predictions(path, replace(predictions, history_lengths=None))
    table = pl.read_parquet(path)
    assert tuple(table.columns) == results.COLUMNS
    assert table["ranked"].to_list()[1] == [1, 0, -1]
    assert results.read_predictions(path)[0].history_lengths is None


def test_summary_of_two_prompts(predictions, catalogue):
    worse = replace(predictions, prompt_id=4, ranked=np.array([[1, 2, 0], [1, 2, 3], [3, 2, 1]]))
    summary = results.summarize([predictions, worse], catalogue, "hit@1,hit@3,mrr@2", {"is_lora": True, **ASKED})
    assert set(summary) >= DOCUMENTED
    assert summary["test_prompt_ids"] == [3, 4]
    assert summary["all_prompt_results"][0] == pytest.approx({"hit@1": 1 / 3, "hit@3": 2 / 3, "mrr@2": 0.5})
    assert summary["mean_results"] == pytest.approx({"hit@1": 1 / 6, "hit@3": 0.5, "mrr@2": (0.5 + 1 / 6) / 2})
    assert summary["min_results"]["hit@1"] == 0
    assert summary["max_results"]["hit@1"] == pytest.approx(1 / 3)
    assert (summary["num_samples"], summary["num_beams"], summary["dataset"]) == (3, 3, "Toy")
    assert (summary["is_lora"], summary["base_model"], summary["split"]) == (True, None, "test")
    assert summary["slices"]["history_length"]["1-4"]["num_samples"] == 1
    assert summary["list_statistics"]["coverage@3"] == pytest.approx((4 / 5 + 4 / 5) / 2)
    low, high = summary["confidence_intervals"]["hit@3"]
    assert 0 <= low <= 0.5 <= high <= 1
    json.dumps(summary, allow_nan=False)


def test_sids_are_judged_beside_items(predictions, catalogue):
    """Items 0 and 1 share a SID, and item 4 has that of item 2."""
    assert "sid_results" not in results.summarize(predictions, catalogue, "hit@1", ASKED)  # a baseline knows no SIDs
    index = SidIndex(np.arange(5), np.array([[0, 0], [0, 0], [0, 1], [1, 0], [0, 1]]), ("a", "b"), (2, 2))
    summary = results.summarize(predictions, replace(catalogue, sid_index=index), "hit@1,hit@2,ndcg@2,mrr@3", ASKED)
    assert summary["mean_results"] == pytest.approx(
        {"hit@1": 1 / 3, "hit@2": 2 / 3, "ndcg@2": (1 + 1 / math.log2(3)) / 3, "mrr@3": (1 + 1 / 2) / 3}
    )
    ndcg = (1 + 1 + 1 / math.log2(3)) / 3  # bob's first item has the right SID; 42's second
    assert summary["sid_results"] == pytest.approx(
        {"sid_hit@1": 2 / 3, "sid_hit@2": 1, "sid_ndcg@2": ndcg, "sid_mrr@3": (1 + 1 + 1 / 2) / 3}
    )
    ends = summary["sid_confidence_intervals"]
    assert ends.keys() == summary["sid_results"].keys()
    assert ends["sid_hit@2"] == [1, 1]
    assert ends["sid_hit@1"][0] < 2 / 3 < ends["sid_hit@1"][1]


def test_results_and_predictions_stand_side_by_side(tmp_path, predictions, catalogue):
    summary = results.summarize(predictions, catalogue, "hit@1", ASKED)
    path = results.write_results(tmp_path / "deep" / "run.json", predictions, summary)
    assert results.read_results(path)["mean_results"] == summary["mean_results"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["run.json", "run.predictions.parquet"]


def test_hit_at_10_of_lists_of_3_is_an_error(predictions, catalogue):
    with pytest.raises(ValueError, match="num_beams"):
        results.summarize(predictions, catalogue, "hit@10", ASKED)


def test_prompts_of_other_samples_are_an_error(predictions, catalogue):
    with pytest.raises(ValueError, match="different samples"):
        results.summarize([predictions, replace(predictions, targets=np.array([1, 1, 1]))], catalogue, "hit@1", ASKED)


def test_arrays_that_do_not_fit_are_an_error(predictions):
    with pytest.raises(ValueError, match="do not belong together"):
        replace(predictions, targets=np.array([1]))


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "a.predictions.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"a\.predictions\.parquet"):
        results.read_predictions(path)


def test_results_of_two_runs_never_share_their_predictions(tmp_path):
    """`run.5` and `run.6` used to write one file of predictions, `run.predictions.parquet`."""
    results.check_results_file(tmp_path / "run.5.json")
    with pytest.raises(ValueError, match=r"run\.5 must end in \.json: .* would lie in run\.predictions\.parquet"):
        run_baseline("popularity", BaselineConfig(NAME, tmp_path / "run.5", toy_path()))
