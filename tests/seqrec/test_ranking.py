"""From ranked SIDs to ranked items: against a loop that says plainly what is meant."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.seqrec.ranking import items_of_leaves
from src.trie import Trie


def plainly(leaves, scores, members, length, left_out):
    items, values = [], []
    for row, beams in enumerate(leaves):
        mine, worth = [], []
        for leaf, score in zip(beams, scores[row], strict=True):
            for item in members[leaf] if leaf >= 0 else ():
                if item not in mine and item not in left_out[row]:
                    mine.append(item)
                    worth.append(score)
        fill = length - len(mine[:length])
        items.append(mine[:length] + [-1] * fill)
        values.append(worth[:length] + [-np.inf] * fill)
    return np.array(items), np.array(values, np.float32)


@given(st.data())
def test_as_a_plain_loop_does_it(data):
    """Items with several SIDs, SIDs of several items, left-out items and short lists."""
    sids = np.array(data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)))
    item_of_row = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(sids), max_size=len(sids))))
    trie = Trie(sids)
    orders = data.draw(st.lists(st.permutations(range(trie.num_leaves)), min_size=1, max_size=3))
    beams = data.draw(st.integers(1, trie.num_leaves))
    leaves = np.array([order[:beams] for order in orders])
    leaves[0, data.draw(st.integers(0, beams)) :] = -1
    scores = np.where(leaves >= 0, -np.arange(beams, dtype=np.float32), -np.inf)
    left_out = [np.array(data.draw(st.lists(st.integers(0, 7), max_size=3)), int) for _ in orders]
    length = data.draw(st.integers(1, 8))
    members = [[int(item_of_row[row]) for row in np.flatnonzero(trie.leaf_of == leaf)] for leaf in range(len(sids))]
    found = items_of_leaves(leaves, scores, trie, length, left_out, item_of_row)
    for mine, expected in zip(found, plainly(leaves, scores, members, length, left_out), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_a_row_is_an_item_where_nothing_else_is_said():
    trie = Trie(np.array([[5, 1], [5, 1], [4, 2]]))
    items, scores = items_of_leaves(np.array([[1, 0, -1]]), np.array([[-1.0, -2.0, -np.inf]]), trie, 4)
    assert items.tolist() == [[0, 1, 2, -1]]
    assert scores.tolist() == [[-1, -1, -2, -np.inf]]
