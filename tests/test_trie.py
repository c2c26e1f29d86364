"""The trie of legal SIDs against brute force, whatever SIDs there are and however many items share one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.trie import Trie, _order

SIDS = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.tuples(*(st.integers(151_000, 151_003),) * levels), min_size=1, max_size=25)
)


def prefixes(sids: np.ndarray, level: int) -> list[tuple[int, ...]]:
    """The nodes of a level: distinct prefixes of that many tokens, in order."""
    return sorted({tuple(row[:level]) for row in sids.tolist()})


@given(SIDS)
def test_children_are_the_tokens_that_may_follow(sids):
    sids = np.array(sids)
    trie = Trie(sids)
    for level in range(sids.shape[1]):
        nodes, following = prefixes(sids, level), prefixes(sids, level + 1)
        child, token, exists = trie.children(level, torch.arange(len(nodes)))
        for number, node in enumerate(nodes):
            assert token[number][exists[number]].tolist() == [n[-1] for n in following if n[:-1] == node]
            assert [following[c] for c in child[number][exists[number]]] == [n for n in following if n[:-1] == node]
        parents = trie.ancestors(level + 1, np.arange(len(following)))
        assert [nodes[parent] for parent in parents] == [node[:-1] for node in following]


@given(SIDS)
def test_rows_stand_under_the_prefixes_of_their_sid(sids):
    sids = np.array(sids)
    trie = Trie(sids)
    leaves = prefixes(sids, sids.shape[1])
    assert trie.num_leaves == len(leaves)
    assert [leaves[leaf] for leaf in trie.leaf_of] == [tuple(row) for row in sids.tolist()]
    for leaf in range(len(leaves)):
        rows = trie.rows[trie.leaf_pointer[leaf] : trie.leaf_pointer[leaf + 1]]
        assert rows.tolist() == np.flatnonzero(trie.leaf_of == leaf).tolist()
    for level in range(sids.shape[1] + 1):
        nodes = prefixes(sids, level)
        counts = [sum(tuple(row[:level]) == node for row in sids.tolist()) for node in nodes]
        assert trie.num_rows(level, np.arange(len(nodes))).tolist() == counts


@given(SIDS, st.lists(st.lists(st.integers(0, 24), max_size=30), min_size=1, max_size=4))
def test_a_node_is_blocked_where_all_of_its_rows_are_left_out(sids, left_out):
    sids = np.array(sids)
    trie = Trie(sids)
    asked = [np.array([row for row in rows if row < len(sids)], np.int64) for rows in left_out]
    for level, blocked in enumerate(trie.blocked_nodes(asked), 1):
        nodes = prefixes(sids, level)
        for rows, found in zip(asked, blocked.tolist(), strict=True):
            open_nodes = {tuple(sid[:level]) for row, sid in enumerate(sids.tolist()) if row not in rows}
            expected = [number for number, node in enumerate(nodes) if node not in open_nodes]
            assert found[: len(expected)] == expected
            assert all(number > len(nodes) for number in found[len(expected) :])  # and so are those that no node has


@pytest.mark.parametrize("bits", [(20, 20, 20), (21, 21, 21), (21, 21, 22), (30, 30, 30), (62,), (1, 62), (2, 62)])
def test_rows_are_sorted_however_large_tokens_are(bits):
    """SIDs are packed into one number where they fit, and a bit too many would spoil the order."""
    rng = np.random.default_rng(0)
    ends = [np.array([0, 2**size - 1]) for size in bits]
    sids = np.stack([rng.choice(np.r_[end, rng.integers(0, end[1], 5)], 200) for end in ends], axis=1)
    np.testing.assert_array_equal(_order(sids), np.lexsort(sids.T[::-1]))
    np.testing.assert_array_equal(_order(sids - 7), np.lexsort(sids.T[::-1]))
