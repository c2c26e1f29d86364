"""Intervals and paired tests against formulas and exact counts."""

import math
from itertools import product

import numpy as np
import pytest

from src.common import uncertainty


def test_interval_is_that_of_the_binomial_and_repeats():
    rng = np.random.default_rng(1)
    values = {"hit@10": (rng.random(4000) < 0.3).astype(float)}
    low, high = uncertainty.bootstrap_intervals(values, range(4000))["hit@10"]
    mean = values["hit@10"].mean()
    half = 1.96 * math.sqrt(mean * (1 - mean) / 4000)
    assert (low, high) == (pytest.approx(mean - half, abs=0.003), pytest.approx(mean + half, abs=0.003))
    assert uncertainty.bootstrap_intervals(values, range(4000))["hit@10"] == (low, high)


def test_users_are_resampled_whole():
    """Ten copies of each user's sample carry no more information than one."""
    values = (np.random.default_rng(2).random(300) < 0.4).astype(float)
    once = uncertainty.bootstrap_intervals({"hit@1": values}, range(300))["hit@1"]
    tenfold = uncertainty.bootstrap_intervals({"hit@1": values.repeat(10)}, np.arange(300).repeat(10))["hit@1"]
    assert tenfold == pytest.approx(once)


def test_sign_flips_approach_the_exact_test():
    base, new = np.zeros(10), np.array([0.4, 0.3, -0.1, 0.5, 0.2, 0.6, -0.3, 0.1, 0.45, 0.05])
    signs = np.array(list(product([-1, 1], repeat=10)))
    exact = (np.abs(signs @ new) >= abs(new.sum()) - 1e-12).mean()
    outcome = uncertainty.paired_test(base, new, range(10))
    assert outcome.p_value == pytest.approx(exact, abs=0.006)
    assert outcome.difference == pytest.approx(0.22)
    assert outcome.effect_size == pytest.approx(new.mean() / new.std(ddof=1))
    assert outcome.low < 0.22 < outcome.high


def test_paired_test_of_equal_and_of_far_apart_systems():
    rng = np.random.default_rng(3)
    hits = (rng.random(500) < 0.2).astype(float)
    assert uncertainty.paired_test(hits, hits, range(500)).p_value == 1
    assert uncertainty.paired_test(hits, np.ones(500), range(500)).p_value == pytest.approx(1 / 10_001)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(4)
    values = []
    for seed in range(100):
        base, new = rng.normal(size=(2, 40))
        values.append(uncertainty.paired_test(base, new, range(40), num_flips=500, seed=seed).p_value)
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.11


def test_p_values_are_raised_for_their_number():
    """Worked by hand: .005 x 4, .01 x 3, .03 x 2, and .04, which never falls below the one before it."""
    np.testing.assert_allclose(uncertainty.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(uncertainty.holm([0.6, 0.7]), [1, 1])
    assert uncertainty.holm([0.04]).tolist() == [0.04]
    assert uncertainty.holm([]).shape == (0,)


def test_chance_findings_among_many_tests_stay_rare():
    rng = np.random.default_rng(5)
    families = rng.random((2000, 10))
    found = [(uncertainty.holm(family) < 0.05).any() for family in families]
    assert np.mean(found) == pytest.approx(0.05, abs=0.02)
    assert (families < 0.05).any(1).mean() > 0.3
