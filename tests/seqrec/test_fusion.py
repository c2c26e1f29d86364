"""Several lists and scores as one, against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.seqrec.fusion import (
    MISS,
    Mix,
    Pool,
    candidate_ranks,
    chances_of,
    choose_mix,
    distinct,
    look_up,
    mixed,
    rank_candidates,
    weight_grid,
)
from src.seqrec.results import Ranked

ROW = st.lists(st.integers(-1, 12), min_size=6, max_size=6)


@given(st.lists(ROW, min_size=1, max_size=4))
def test_candidates_are_distinct(rows):
    found = distinct(np.array(rows))
    expected = [sorted({item for item in row if item >= 0}) for row in rows]
    assert found.tolist() == [row + [-1] * (found.shape[1] - len(row)) for row in expected]
    assert found.shape[1] == max(1, *map(len, expected))


@given(st.integers(0, 1000))
def test_mixes_equal_brute_force(seed):
    """Every candidate's chance by the formula; lists and ranks by sorting in Python."""
    rng = np.random.default_rng(seed)
    num_models, num_scores = rng.integers(1, 4), rng.integers(0, 3)
    items = distinct(rng.integers(-1, 9, (3, 7)))
    chances = rng.choice([0, 0.125, 0.25, 0.5], (num_models + num_scores, *items.shape)).astype(np.float32)
    tie_rank = rng.permutation(9)
    weights = tuple(np.round(rng.dirichlet(np.ones(num_scores + 1))[1:], 2).tolist()) if num_scores else ()
    targets = rng.integers(0, 9, 3)
    for kind, join in (("mean", lambda values: sum(values) / len(values)), ("best", max)):
        scores = mixed(Pool(items, chances), num_models, Mix(kind, weights))
        ranked = rank_candidates(items, scores, tie_rank, 5)
        ranks = candidate_ranks(items, scores, tie_rank, targets)
        for row in range(3):
            expected = {}
            for column, item in enumerate(items[row].tolist()):
                own = chances[:, row, column].tolist()
                total = (1 - sum(weights)) * join(own[:num_models])
                total += sum(w * value for w, value in zip(weights, own[num_models:], strict=True))
                if item >= 0:
                    assert scores[row, column] == pytest.approx(total, abs=1e-6)
                    expected[item] = scores[row, column]
            order = sorted(expected, key=lambda item: (-expected[item], tie_rank[item]))
            assert ranked.items[row].tolist() == (order + [-1] * 5)[:5]
            target = int(targets[row])
            assert ranks[row] == (order.index(target) if target in order else MISS)


def test_chances_are_found_by_item():
    items = np.array([[4, 7, -1], [1, 2, 3]])
    ranked = np.array([[7, 9, -1, -1], [3, 1, -1, -1]])
    values = np.array([[0.5, 0.25, 0, 0], [0.75, 0.125, 0, 0]], np.float32)
    assert look_up(items, ranked, values).tolist() == [[0, 0.5, 0], [0.125, 0, 0.75]]


def test_items_that_share_a_sid_share_its_chance():
    ranked = Ranked(np.array([[2, 0, 1, -1]]), np.array([[-0.1, -0.5, -0.5, -np.inf]], np.float32))
    chances = chances_of(ranked, 4, np.array([2, 2, 1]))
    np.testing.assert_allclose(chances, [[np.exp(-0.4), np.exp(-2) / 2, np.exp(-2) / 2, 0]], rtol=1e-6)


def test_unlikely_items_keep_their_order():
    """In float32 their chances used to be 0, and so ranked by popularity."""
    ranked = Ranked(np.array([[2, 0, 1]]), np.array([[-0.01, -25, -26]], np.float32))
    pool = Pool(np.array([[0, 1, 2]]), chances_of(ranked, 5, np.ones(3, np.int64))[None, :, [1, 2, 0]])
    scores = mixed(pool, 1, Mix("mean", ()))
    assert rank_candidates(pool.items, scores, np.array([2, 1, 0]), 3).items.tolist() == [[2, 0, 1]]
    assert candidate_ranks(pool.items, scores, np.array([2, 1, 0]), np.array([0])).tolist() == [1]


def test_what_is_no_candidate_is_no_hit():
    """A miss used to count as the rank after the last candidate, a hit where these were fewer than 10."""
    pool = Pool(np.array([[0, 1]]), np.array([[[0.5, 0.25]]]))
    assert choose_mix([pool], 1, np.arange(3), [np.array([2])], ["mean"], [()])[1] == 0


def test_scores_that_have_all_weight_leave_the_models_none():
    assert 1 - sum((0.7, 0.2, 0.1)) != 0
    assert Mix("mean", (0.7, 0.2, 0.1)).rest == 0
    assert Mix("mean", (0.3,)).rest == pytest.approx(0.7)


def test_weights_cover_the_simplex():
    assert weight_grid(0) == [()]
    assert weight_grid(1)[0] == (0.0,)
    assert weight_grid(1)[-1] == (1.0,)
    assert len(weight_grid(1)) == 21
    assert (len(set(weight_grid(2))), len(set(weight_grid(3)))) == (66, 286)
    assert all(sum(row) <= 1 + 1e-9 for row in weight_grid(2))


def test_the_best_mix_is_chosen():
    """The model knows the first sample, the score the second; only together do both stand first."""
    items = np.array([[0, 1, 2], [0, 1, 2]])
    chances = np.array([[[0.4, 0.2, 0.0], [0.2, 0.1, 0.1]], [[0.0, 0.1, 0.0], [0.0, 0.0, 0.9]]], np.float32)
    mix, value = choose_mix([Pool(items, chances)], 1, np.arange(3), [np.array([0, 2])], ["mean"], weight_grid(1))
    assert value == 1
    assert 0 < mix.weights[0] < 1


def test_models_that_do_not_help_get_no_share():
    """The second model knows both samples; the mean with the first, and the best of both, are wrong about one."""
    items = np.array([[0, 1], [0, 1]])
    chances = np.array([[[0.1, 0.9], [0.1, 0.9]], [[0.4, 0.2], [0.1, 0.3]]])
    pool, targets = Pool(items, chances), [np.array([0, 1])]
    for kinds in (["weighted"], ["mean", "best", "weighted"]):
        mix, value = choose_mix([pool], 2, np.arange(2), targets, kinds, weight_grid(0))
        assert (mix.ensemble_by, mix.shares, value) == ("weighted", (0.0, 1.0), 1)
    assert choose_mix([pool], 2, np.arange(2), targets, ["mean", "best"], weight_grid(0))[1] < 1
