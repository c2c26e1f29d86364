"""k-core, order and ids against the plainest way to say what they are."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.interactions import (
    Interactions,
    core_rows,
    in_order,
    read_interactions,
    renumbered,
    temporal_ends,
    without_repeats,
)

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)
TIMED = st.lists(
    st.tuples(st.sampled_from("zyxa"), st.sampled_from("qponm"), st.integers(-3, 3)), min_size=1, max_size=60
)


def make(rows, block=1000) -> Interactions:
    frames = [
        pl.DataFrame(
            rows[start : start + block], schema={"user": pl.String, "item": pl.String, "time": pl.Int64}, orient="row"
        )
        for start in range(0, len(rows), block)
    ]
    return read_interactions(frames)


def plain(interactions: Interactions) -> list[tuple[str, str, int]]:
    users, items = (
        interactions.user_names.gather(interactions.users),
        interactions.item_names.gather(interactions.items),
    )
    return list(zip(users, items, interactions.times.tolist(), strict=True))


@settings(deadline=None)
@given(PAIRS, st.integers(1, 4), st.integers(1, 4))
def test_core_is_the_largest_part_where_everybody_has_enough(pairs, user_k, item_k):
    """Removes one row at a time, whichever comes first: what cannot be removed is the core, whatever the order."""
    left = list(range(len(pairs)))
    while True:
        users, items = (Counter(pairs[row][side] for row in left) for side in (0, 1))
        poor = [row for row in left if users[pairs[row][0]] < user_k or items[pairs[row][1]] < item_k]
        if not poor:
            break
        left.remove(poor[0])
    users, items = (np.array([pair[side] for pair in pairs], np.uint32) for side in (0, 1))
    assert core_rows(users, items, user_k, item_k).tolist() == left


def test_core_of_a_chain_that_falls_link_by_link():
    """User i has items i and i + 1: with k = 2 the end falls, then its neighbour, until nothing is left."""
    users = np.repeat(np.arange(200), 2)
    items = (users + np.tile([0, 1], 200)).astype(np.uint32)
    assert len(core_rows(users.astype(np.uint32), items, 2, 2)) == 0
    closed = np.where(items == 200, 0, items)
    assert len(core_rows(users.astype(np.uint32), closed, 2, 2)) == 400


@settings(deadline=None)
@given(TIMED)
def test_order_is_stable_and_the_first_of_repeats_stays(rows):
    appeared = list(dict.fromkeys(user for user, _, _ in rows))
    expected = sorted(rows, key=lambda row: (appeared.index(row[0]), row[2]))  # stable: ties as in the input
    ordered = in_order(make(rows))
    assert plain(ordered) == expected
    firsts = {}
    for row in expected:
        firsts.setdefault(row[:2], row)
    assert plain(without_repeats(ordered)) == list(firsts.values())


@settings(deadline=None)
@given(TIMED, st.integers(1, 7))
def test_codes_do_not_depend_on_where_blocks_end(rows, block):
    """polars forgets codes between two blocks unless something holds them: then users of two blocks were one."""
    whole, parts = make(rows), make(rows, block)
    assert plain(parts) == rows
    assert parts.users.tolist() == whole.users.tolist()
    assert parts.user_names.to_list() == list(dict.fromkeys(user for user, _, _ in rows))


def test_ids_follow_the_first_appearance_and_leave_no_gap():
    left = renumbered(make([("c", "x", 1), ("a", "y", 1), ("c", "z", 1), ("b", "y", 1)]).take(np.array([0, 2, 3])))
    assert left.user_names.to_list() == ["c", "b"]
    assert left.item_names.to_list() == ["x", "y", "z"]
    assert left.users.tolist() == [0, 0, 1]
    assert left.items.tolist() == [0, 2, 1]


def test_times_too_fine_for_one_key_are_sorted_as_well():
    far = 1 << 62
    rows = [("a", "x", far), ("b", "y", -far + 1), ("a", "z", 5), ("b", "x", 7), ("a", "w", 5)]
    ordered = plain(in_order(make(rows)))
    assert ordered == [("a", "z", 5), ("a", "w", 5), ("a", "x", far), ("b", "y", -far + 1), ("b", "x", 7)]


def test_no_interaction_at_all():
    empty = without_repeats(in_order(read_interactions([])))
    assert empty.num_rows == len(core_rows(empty.users, empty.items, 5, 5)) == 0


def test_temporal_split_parts_at_one_moment():
    users, times = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)
    assert temporal_ends(users, times, 0.2, 0.2).tolist() == [[3, 1]] * 4
    late = np.repeat(np.arange(4), 5)  # user 0 is over before user 3 begins
    assert temporal_ends(users, late, 0.25, 0.25).tolist() == [[5, 0], [5, 0], [0, 5], [0, 0]]
    with pytest.raises(ValueError, match="nothing is left to train"):
        temporal_ends(users, np.zeros(20, np.int64), 0.1, 0.1)
