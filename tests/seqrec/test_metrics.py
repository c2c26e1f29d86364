"""Ranking metrics against hand-worked numbers, scikit-learn and brute force."""

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from src.seqrec import metrics


def test_parse_metrics_keeps_the_order_and_drops_repeats():
    assert metrics.parse_metrics("hit@1, NDCG@10,hit@1", 10) == ["hit@1", "ndcg@10"]


@pytest.mark.parametrize("text", ["hits@1", "hit", "hit@0", "hit@ten", "precision@5", ""])
def test_unknown_metrics_are_errors(text):
    with pytest.raises(ValueError):
        metrics.parse_metrics(text)


def test_hit_at_10_needs_ten_beams():
    with pytest.raises(ValueError, match="num_beams 5"):
        metrics.parse_metrics("hit@1,hit@10", num_beams=5)


def test_ranks_of_hand_made_lists():
    ranked = np.array([[4, 2, 9], [4, 2, 9], [4, -1, -1], [7, 8, -1]])
    assert metrics.ranks_of(ranked, np.array([4, 9, 5, 8])).tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("ranked", "target", "message"),
    [([[3, 1, 3]], 3, "twice"), ([[3, -1, 1]], 1, "padding before"), ([[3, -1, -1]], -1, "item ids start at 0")],
)
def test_impossible_lists_are_errors(ranked, target, message):
    with pytest.raises(ValueError, match=message):
        metrics.ranks_of(np.array(ranked), np.array([target]))


def test_lists_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match=r"\(2, 1\) do not fit targets of shape \(3,\)"):
        metrics.ranks_of(np.array([[1], [2]]), np.array([1, 2, 3]))


def test_lists_are_as_long_as_needed():
    assert metrics.list_length(50, 20, ["hit@10"]) == 20  # there are no more items
    assert metrics.list_length(50, 20, ["hit@10", "ndcg@30"]) == 30  # but a metric looks as far
    assert metrics.list_length(10, 20, ["hit@10"]) == 10


def test_values_by_hand():
    values = metrics.per_sample_metrics(np.array([0, 2, 5]), ["hit@3", "recall@3", "ndcg@3", "mrr@5"])
    assert values["hit@3"].tolist() == values["recall@3"].tolist() == [1, 1, 0]
    assert values["ndcg@3"].tolist() == [1, 0.5, 0]
    assert values["mrr@5"].tolist() == pytest.approx([1, 1 / 3, 0])


def test_ndcg_equals_scikit_learn():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(30)[:20] for _ in range(200)])
    targets = rng.integers(30, size=200)
    scores = np.zeros((200, 30))
    np.put_along_axis(scores, ranked, np.arange(20, 0, -1.0)[None].repeat(200, 0), axis=1)
    scores[scores == 0] = -np.arange((scores == 0).sum())  # distinct: scikit-learn averages over ties
    relevance = np.eye(30)[targets]
    ranks = metrics.ranks_of(ranked, targets)
    for k in (1, 5, 10, 20):
        ours = metrics.per_sample_metrics(ranks, [f"ndcg@{k}"])[f"ndcg@{k}"].mean()
        assert ours == pytest.approx(ndcg_score(relevance, scores, k=k), abs=1e-12)


def test_sid_ranks_by_hand():
    ranked = np.array([[4, 4, 2, 4, 9], [4, 4, 2, 2, 9], [1, 1, -1, -1, -1], [5, 6, 5, 7, -1]])
    assert metrics.sid_ranks_of(ranked, np.array([9, 9, 4, 7])).tolist() == [2, 2, 5, 2]


@pytest.mark.parametrize("num_sids", [30, 7])
def test_sids_rank_no_lower_than_their_items(num_sids):
    """Equal where no items share a SID."""
    rng = np.random.default_rng(5)
    sid_of = np.arange(30) % num_sids
    ranked = np.stack([rng.permutation(30)[:12] for _ in range(300)])
    targets = rng.integers(30, size=300)
    by_item, by_sid = metrics.ranks_of(ranked, targets), metrics.sid_ranks_of(sid_of[ranked], sid_of[targets])
    expected = [list(dict.fromkeys(row)).index(sid) if sid in row else 12
                for row, sid in zip(sid_of[ranked].tolist(), sid_of[targets].tolist(), strict=True)]  # fmt: skip
    assert by_sid.tolist() == expected
    assert (by_sid <= by_item).all()
    assert np.array_equal(by_sid, by_item) == (num_sids == 30)


def test_slices_split_every_sample_once():
    values = {"hit@1": np.array([1.0, 0, 1, 0, 1])}
    parts = metrics.slices(values, np.array([0, 3, 7, 500, 0]), np.array([1, 4, 5, 10, 60]))
    assert parts["target"]["unseen in training"] == {"num_samples": 2, "hit@1": 1.0}
    assert parts["history_length"]["1-4"] == {"num_samples": 2, "hit@1": 0.5}
    assert list(parts["target_popularity"]) == ["0", "1-4", "5-19", "100+"]
    for buckets in parts.values():
        assert sum(bucket["num_samples"] for bucket in buckets.values()) == 5
    assert "history_length" not in metrics.slices(values, np.zeros(5))


def test_list_statistics_by_hand_and_by_brute_force():
    item_ids = np.array([0, 1, 2, 5])
    popularity = np.array([7, 3, 0, 0, 0, 2])
    ranked = np.array([[0, 1, -1], [0, 5, 1]])
    ours = metrics.list_statistics(ranked, popularity, item_ids, cutoff=2)
    assert ours["coverage@2"] == 0.75
    assert ours["mean_popularity@2"] == (7 + 3 + 7 + 2) / 4
    assert ours["novelty@2"] == pytest.approx(-sum(math.log2((count + 1) / 16) for count in (7, 3, 7, 2)) / 4)
    times = [2, 1, 0, 1]
    pairs = sum(abs(left - right) for left in times for right in times)
    assert ours["gini@2"] == pytest.approx(pairs / (2 * 4 * sum(times)))
    assert "coverage@3" in metrics.list_statistics(ranked, popularity, item_ids)  # lists of 3 have no first 10


def test_short_lists_count_the_items_that_they_hold():
    item_ids, popularity = np.arange(3), np.array([4, 2, 0])
    ours = metrics.list_statistics(np.array([[0, 1, -1], [0, -1, -1]]), popularity, item_ids)
    assert ours["coverage@3"] == pytest.approx(2 / 3)
    assert ours["mean_popularity@3"] == pytest.approx((4 + 2 + 4) / 3)
    with pytest.raises(ValueError, match="the ranked lists are empty"):
        metrics.list_statistics(np.full((2, 3), -1), popularity, item_ids)
