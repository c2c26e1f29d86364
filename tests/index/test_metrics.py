"""Measures of codes alone, by known answers."""

import numpy as np
import pytest
from scipy import stats

from index.metrics import all_prefix_groups, entropy, format_table, measure, prefix_groups
from tests.index.conftest import random_codes


def test_measures_of_a_tiny_index():
    metrics = measure(np.array([[0, 0], [0, 0], [0, 1], [2, 1], [2, 1], [2, 1]]), (4, 2))
    assert (metrics.num_items, metrics.num_sids, metrics.collision_rate) == (6, 3, 0.5)
    assert (metrics.colliding_items, metrics.colliding_groups, metrics.largest_group) == (5, 2, 3)
    assert metrics.utilization == (0.5, 1.0)
    assert metrics.entropy == pytest.approx((1.0, stats.entropy([2, 4], base=2)))
    assert metrics.perplexity == pytest.approx((2.0, np.exp(stats.entropy([2, 4]))))
    assert (metrics.prefixes, metrics.mean_prefix_group, metrics.largest_prefix_group) == ((2, 3), (3.0, 2.0), (3, 3))
    assert "50.0000%" in format_table(metrics, (4, 2))


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [7, 0, 0], [1, 2, 3, 0, 94]])
def test_entropy_is_scipys_in_bits(counts):
    assert entropy(np.array(counts)) == pytest.approx(stats.entropy(counts, base=2))


def test_groups_of_all_prefixes_are_those_of_each():
    codes = random_codes()
    for length, groups in enumerate(all_prefix_groups(codes), 1):
        assert np.array_equal(groups, prefix_groups(codes, length))
