"""Traces of beam searches: the beams of each level, where the right answer went, and whose fault it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.decoding import beam_search
from src.seqrec.core import evaluate
from src.seqrec.recommender import Recommender
from src.seqrec.results import Ranked
from src.seqrec.tracing import (
    KEPT,
    LEFT_OUT,
    Trace,
    config_of_results,
    outcomes,
    survival,
    trace,
    traced_cases,
)
from src.tasks.task import load_task
from src.trie import Trie
from tests.seqrec.test_core import config_for, predictions_of
from tests.toy import NUM_ITEMS, toy_catalogue, toy_path


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> tuple[Trace, Recommender]:
    config = config_for(tmp_path_factory.mktemp("trace"), num_beams=4, metrics=("hit@1",))
    found, catalogue = trace(config)
    return found, Recommender(config, catalogue, torch.device("cpu"))


def test_beams_of_a_level_are_those_of_a_search_that_ends_there(traced):
    """Prefixes of a length, searched for as if they were whole SIDs."""
    found, ranker = traced
    template, targets = load_task("seqrec").templates[0], found.targets
    rows = np.searchsorted(ranker.catalogue.item_ids, targets)
    for level in range(3):
        trie = Trie(ranker.sids[:, : level + 1])
        for question in range(0, len(targets), 7):
            history = found.samples.history(ranker.catalogue, question)
            inputs = ranker.collate([ranker.builder.question(template, history, int(targets[question]), 4)])
            beams = beam_search(ranker.model, inputs, trie, 4, None)
            number = beams.leaves.shape[1]
            expected = beams.scores[0] * (level + 1)
            np.testing.assert_allclose(found.scores[question, level, :number], expected, atol=1e-4)
            is_right = beams.leaves[0].numpy() == trie.leaf_of[rows[question]]
            assert found.places[question, level] == (is_right.argmax() if is_right.any() else -1)
    assert {-1, 0} < set(found.places.ravel().tolist())


def test_what_is_found_is_what_evaluation_finds(traced, tmp_path):
    found, _ = traced
    for exact, ours in ((False, found.found), (True, found.exact)):
        config = config_for(tmp_path, num_beams=4, metrics=("hit@1",), exact=exact, test_batch_size=5)
        evaluate(config)
        (part,) = predictions_of(config)
        np.testing.assert_array_equal(part.ranked, ours.items)
        np.testing.assert_allclose(part.scores, ours.scores, atol=1e-4)


def test_a_trace_of_results_asks_as_these_were_asked(tmp_path):
    """Histories used to be as long as in training, whatever --max_his_len the results were made with."""
    config = config_for(tmp_path, max_his_len=1, bf16=True)
    evaluate(config)
    again = config_of_results(config.results_file, toy_path(), 0)
    assert (again.max_his_len, again.bf16) == (1, True)
    found, _ = trace(again)
    np.testing.assert_array_equal(found.found.items, predictions_of(config)[0].ranked)


def test_a_prefix_that_is_lost_stays_lost(traced):
    found, _ = traced
    gone = found.places < 0
    assert (gone[:, 1:] >= gone[:, :-1]).all()
    np.testing.assert_array_equal(found.lost_at, 3 - gone.sum(1))
    np.testing.assert_array_equal(found.ranks < 4, found.lost_at == 3)  # no items share SIDs here


def test_with_as_many_beams_as_items_nothing_is_lost(tmp_path):
    found, _ = trace(config_for(tmp_path, num_beams=NUM_ITEMS, sample_num=6))
    assert (found.lost_at == 3).all()
    assert [(end.name, end.questions, end.search_lost) for end in outcomes(found)] == [
        (KEPT, 6, 0), ("lost at level a", 0, 0), ("lost at level b", 0, 0), ("lost at level c", 0, 0)
    ]  # fmt: skip


def hand_made(places: list[list[int]], found: list[list[int]], exact: list[list[int]], left_out=None) -> Trace:
    """Questions whose right answer is item 7."""
    samples = type("Samples", (), {"targets": np.full(len(places), 7)})()
    lists = [Ranked(np.array(items), np.zeros((len(items), len(items[0])))) for items in (found, exact)]
    left_out = np.zeros(len(places), bool) if left_out is None else np.array(left_out)
    return Trace(samples, ("a", "b"), np.array(places), np.zeros((len(places), 2, 2)), *lists, left_out)


def test_whose_fault_it_was():
    found = hand_made(
        [[0, 1], [1, -1], [-1, -1], [1, -1], [0, 1], [-1, -1]],
        [[1, 7], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]],
        [[1, 7], [7, 2], [1, 2], [1, 2], [1, 2], [1, 2]],
        [False, False, False, False, False, True],
    )
    assert [(end.name, end.questions, end.search_lost) for end in outcomes(found)] == [
        (KEPT, 1, 0),
        ("lost at level a", 1, 0),
        ("lost at level b", 3, 1),  # one of them kept its SID, and its item fell behind others that share it
        (LEFT_OUT, 1, 0),
    ]
    shares = survival(found, (1, 2))
    np.testing.assert_allclose(shares[1], [2 / 5, 0])
    np.testing.assert_allclose(shares[2], [4 / 5, 2 / 5])


def test_nothing_to_survive_is_said():
    with pytest.raises(ValueError, match="filter_history=False"):
        survival(hand_made([[-1, -1]], [[1, 2]], [[1, 2]], [True]), (1,))


def test_cases_of_a_trace(traced):
    found, ranker = traced
    first, second = traced_cases(found, ranker.catalogue, [0, 5])
    assert first.name.startswith("user ")
    assert (second.target, second.items) == (found.targets[5], found.found.items[5].tolist())
    assert second.history == found.samples.history(ranker.catalogue, 5).tolist()
    assert [case.rank for case in (first, second)] == [
        rank + 1 if rank < 4 else None for rank in found.ranks[[0, 5]].tolist()
    ]


# ---- from results to a trace -----------------------------------------------------------------------------------------
def test_settings_come_from_the_results(tmp_path):
    config = config_for(tmp_path, num_beams=3, metrics=("hit@1",), filter_history=True, test_prompt_ids="2,1")
    evaluate(config)
    given = config_of_results(config.results_file, config.data_path, 9)
    index = str(toy_catalogue().sid_index.path)
    same = {"metrics", "results_file", "test_batch_size", "device"}
    expected = replace(config, index_file=index, sample_num=9, test_prompt_ids="2", base_model=None)
    for name, value in vars(expected).items():
        assert name in same or getattr(given, name) == value, name
    assert len(trace(given)[0].targets) == 9


def test_results_of_a_baseline_are_refused(tmp_path):
    (tmp_path / "popularity.json").write_text('{"dataset": "Toy", "num_beams": 20, "checkpoint": null}')
    with pytest.raises(ValueError, match=r"popularity\.json does not name checkpoint, index: give results of"):
        config_of_results(tmp_path / "popularity.json", "data", 9)
    (tmp_path / "old.json").write_text('{"dataset": "Toy", "num_beams": 20, "checkpoint": "c", "index": "i"}')
    with pytest.raises(ValueError, match=r"old\.json does not name base_model, is_lora, test_task"):
        config_of_results(tmp_path / "old.json", "data", 9)
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        config_of_results(tmp_path / "gone.json", "data", 9)
