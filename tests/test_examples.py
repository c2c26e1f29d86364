"""Examples that are counted and not listed: the same as a list of all of them, whatever is kept and shared."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.common.artifacts import DatasetPaths
from src.common.interactions import leave_one_out_ends
from src.examples import NextItemExamples, draw_users, unpack_users
from src.tasks.catalogue import Catalogue

SPLITS = ("train", "valid", "test")


def catalogue(lengths: list[int], parts: list[tuple[int, int]] | None = None) -> Catalogue:
    lengths = np.array(lengths, np.int64)
    ends = leave_one_out_ends(lengths)
    if parts is not None:
        ends = tuple(np.minimum(part, lengths) for part in np.array(parts).cumsum(1).T)
    offsets = np.concatenate([[0], lengths.cumsum()])
    items = np.arange(offsets[-1])
    return Catalogue(DatasetPaths(None, "X"), [*map(str, lengths)], offsets, items, *ends, items, {})


def listed(data: Catalogue, split: str, kept: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """All examples, one user after another: the targets up to `limit` as one, each other alone."""
    pairs = [pair for pair in zip(*map(np.ndarray.tolist, data.next_item_targets(split)), strict=True) if kept[pair[0]]]
    rows = []
    for user, places in groupby(pairs, key=lambda pair: pair[0]):
        places = [place for _, place in places]
        shared = [place for place in places if place <= limit]
        rows += [(user, shared[0], shared[-1])] if shared else []
        rows += [(user, place, place) for place in places if place > limit]
    return rows


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=200),
    split=st.sampled_from(SPLITS),
    ratio=st.sampled_from([1.0, 0.5, 0.05]),
    limit=st.none() | st.integers(0, 9),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_they_are_those_of_a_list(lengths, split, ratio, limit, seed, data):
    parts = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=len(lengths), max_size=len(lengths))
    whole = catalogue(lengths, data.draw(st.none() | parts))
    drawn = draw_users(len(lengths), ratio, seed) if ratio < 1 else None
    kept = np.ones(len(lengths), bool) if drawn is None else unpack_users(drawn, len(lengths))
    examples = NextItemExamples(whole, split, drawn, None if limit is None else lambda longest: min(limit, longest))
    expected = listed(whole, split, kept, limit or 0)
    assert [tuple(row) for row in examples.array().tolist()] == expected
    assert len(examples) == len(expected)
    assert examples.longest == max((last for _, _, last in expected), default=0)
    order = np.random.default_rng(0).permutation(len(expected))
    assert examples[order].tolist() == [list(expected[i]) for i in order]
    assert [tuple(examples[i].tolist()) for i in range(min(3, len(expected)))] == expected[:3]
    assert whole.num_targets(split) == len(whole.next_item_targets(split).users)


@pytest.mark.parametrize("num_users", [1, 63, 64, 65, 70_000])
def test_users_are_drawn_as_one_stream(num_users):
    drawn = unpack_users(draw_users(num_users, 0.3, 5), num_users)
    assert np.array_equal(drawn, np.random.default_rng(5).random(num_users) < 0.3)
