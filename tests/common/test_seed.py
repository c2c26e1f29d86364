"""Orders that are not listed: each is a permutation, all are equally likely, and a place does not depend on others."""

from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.common.seed import shuffled


@given(total=st.integers(1, 3000), key=st.text(max_size=3))
def test_every_number_comes_once(total, key):
    order = shuffled(key, np.arange(total), total)
    assert np.array_equal(np.sort(order), np.arange(total))
    some = np.arange(0, total, 7)[::-1]
    assert np.array_equal(shuffled(key, some, total), order[some])


def test_orders_are_equally_likely():
    found = Counter(tuple(shuffled(f"{key}", np.arange(4), 4).tolist()) for key in range(4800))
    assert found.keys() == set(permutations(range(4)))
    assert sum((count - 200) ** 2 / 200 for count in found.values()) < 49.7  # chi-squared with 23 degrees, p > .001


def test_neighbours_are_parted():
    order = shuffled("a", np.arange(100_000), 100_000)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02


def test_a_huge_total_costs_no_memory():
    total = 10**15
    found = shuffled("b", np.array([0, 1, total - 1]), total)
    assert len(set(found.tolist())) == 3
    assert ((found >= 0) & (found < total)).all()
