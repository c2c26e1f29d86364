"""Trie of legal SIDs: compressed rows in tensors, level by level."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from src.common.sid import sid_keys


class Trie:
    """Level-wise compressed rows over the sorted SIDs of all items.

    Node n of level l (a distinct prefix of l tokens) has as children the entries pointer[l][n] : pointer[l][n + 1] of
    token[l], and the place of an entry is the child's node number in level l + 1. Leaves are numbered likewise. All
    arrays are int32: for 4 levels some 20 bytes an item.

    Attributes:
        num_levels: L.
        num_leaves: distinct SIDs.
        pointer: L tensors (nodes of the level + 1,).
        token: L tensors (nodes of the next level,).
        leaf_of: (N,) leaf of each row.
        rows: (N,) all rows, those of a leaf together, in their own order.
        leaf_pointer: (num_leaves + 1,) where the rows of each leaf stand in `rows`.
    """

    def __init__(self, sids: np.ndarray, device: torch.device | str = "cpu"):
        """
        Args:
            sids: (N, L) token ids. A row is an item, or one of the SIDs of an item; rows may share a SID.
        """
        self.num_levels, self.device = sids.shape[1], torch.device(device)
        order = _order(sids)
        fresh = np.zeros(len(order), bool)
        fresh[0] = True  # the first row opens a node of every level
        node_of = np.zeros(len(order), np.int32)
        pointer, token, num_nodes = [], [], 1
        for level in range(self.num_levels):
            column = sids[order, level]
            fresh[1:] |= column[1:] != column[:-1]
            first = np.flatnonzero(fresh)
            pointer.append(_pointer(node_of[first], num_nodes))
            token.append(column[first].astype(np.int32))
            node_of = np.cumsum(fresh, dtype=np.int32) - 1
            num_nodes = len(first)
        self.pointer = [torch.from_numpy(array).to(self.device) for array in pointer]
        self.token = [torch.from_numpy(array).to(self.device) for array in token]
        self._pointer = pointer  # for what is done on the processor; without a GPU the same memory
        self.num_leaves = num_nodes
        self.rows = order.astype(np.int32)
        self.leaf_of = np.empty(len(order), np.int32)
        self.leaf_of[order] = node_of
        self.leaf_pointer = _pointer(node_of, num_nodes)

    def children(self, level: int, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Children of nodes (...): their numbers, their tokens, and which of the C places hold one; each (..., C)."""
        start = self.pointer[level][node].long()
        size = self.pointer[level][node + 1] - start
        place = torch.arange(int(size.max()), device=node.device)
        exists = place < size[..., None]
        child = torch.where(exists, start[..., None] + place, start[..., None].clamp_max(len(self.token[level]) - 1))
        return child, self.token[level][child].long(), exists

    def ancestors(self, level: int, nodes: np.ndarray) -> np.ndarray:
        """Parents of nodes of `level`, which are nodes of `level` - 1."""
        return np.searchsorted(self._pointer[level - 1], nodes, side="right") - 1

    def num_rows(self, level: int, nodes: np.ndarray) -> np.ndarray:
        """Rows under nodes of `level`."""
        first, last = nodes, nodes + 1
        for pointer in self._pointer[level:]:
            first, last = pointer[first], pointer[last]
        return self.leaf_pointer[last] - self.leaf_pointer[first]

    def blocked_nodes(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """Nodes that hold nothing but left-out rows.

        Args:
            rows: for each prompt, rows to leave out.

        Returns:
            one (B, M) int64 tensor per level 1..L, ascending, filled up at the end with numbers that no node has.
        """
        left_out = [np.unique(part) for part in rows]
        owner = np.repeat(np.arange(len(rows)), [len(part) for part in left_out])
        nodes = self.leaf_of[np.concatenate(left_out).astype(np.int64)].astype(np.int64) if len(owner) else owner
        levels = []
        for level in range(self.num_levels, 0, -1):
            span = len(self._pointer[level]) if level < self.num_levels else self.num_leaves + 1
            keys, counts = np.unique(owner * span + nodes, return_counts=True)
            who, which = keys // span, keys % span
            full = counts == self.num_rows(level, which)
            who, which = who[full], which[full]
            sizes = np.bincount(who, minlength=len(rows))
            table = np.full((len(rows), max(1, sizes.max(initial=0))), span)
            table[who, np.arange(len(who)) - (sizes.cumsum() - sizes)[who]] = which
            levels.append(torch.from_numpy(table).to(self.device))
            nodes = self.ancestors(level, nodes)
        return levels[::-1]


def _order(sids: np.ndarray) -> np.ndarray:
    """(N,) rows sorted by SID, equal ones in their own order."""
    keys = sid_keys(sids)
    return np.lexsort(sids.T[::-1]) if keys is None else np.argsort(keys, kind="stable")


def _pointer(owners: np.ndarray, num_owners: int) -> np.ndarray:
    """(num_owners + 1,) int32: where the entries of each owner begin, if entries stand in the order of their owners."""
    pointer = np.zeros(num_owners + 1, np.int32)
    np.cumsum(np.bincount(owners, minlength=num_owners), out=pointer[1:])
    return pointer
