"""Making SIDs unique: find items that share one, and move as few and as little as possible.

All functions take numpy arrays. Letters as in index/quantizer.py; M reserved SIDs belong to items that may not move.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from index.metrics import prefix_groups

SINKHORN_ROUNDS = 20  # as LC-Rec's generate_indices.py
SINKHORN_EPSILON = 0.003  # LC-Rec's, where training used none on the last level
CHUNK = 16_384  # rows whose distances to a codebook are held at a time


class Resolution(NamedTuple):
    """Codes without collisions, and what it took."""

    codes: np.ndarray  # (N, L), or (N, L + 1) with a suffix level
    num_moved: int  # items with another code than before on some level (a suffix moves nobody)
    num_spilled: int  # of these, items that left a prefix with more items than SIDs
    suffix_size: int  # codewords of the extra level; 0 without one


def resolve_collisions(
    latents: np.ndarray,
    codebooks: Sequence[np.ndarray],
    codes: np.ndarray,
    method: str = "assign",
    reserved: np.ndarray | None = None,
    sk_epsilon: float = SINKHORN_EPSILON,
    sk_iters: int = 50,
) -> Resolution:
    """Gives every item a SID of its own; the same input always gives the same output.

    Args:
        latents: (N, D) float.
        codebooks: L arrays of shape (K, D), coarsest level first.
        codes: (N, L) int, as the quantizer chose them.
        method: `assign` settles collisions by optimal assignment; `sinkhorn` runs Sinkhorn-Knopp rounds on the last
            level first; `suffix` appends a level that counts the items of a SID; `none` leaves collisions.
        reserved: (M, L) int, SIDs that are taken; (M, L + 1) where they have a suffix level, which then goes on.

    Raises:
        ValueError: reserved SIDs leave too little room, and a suffix level would change them.
    """
    num_levels = len(codebooks)
    original, codes = codes, codes.astype(np.int64)
    reserved = np.empty((0, num_levels), np.int64) if reserved is None else reserved.astype(np.int64)
    if method == "none":
        return Resolution(codes, 0, 0, 0)
    if method == "suffix" or reserved.shape[1] > num_levels:
        return _with_suffix(codes, reserved)
    reserved = np.unique(reserved, axis=0)
    capacity = _capacities(codebooks)[0]
    if len(codes) + len(reserved) > capacity:
        return _with_suffix(codes, reserved)
    latents = latents.astype(np.float64)
    codebooks = [codebook.astype(np.float64) for codebook in codebooks]
    if method == "sinkhorn":
        codes = _sinkhorn_rounds(latents, codebooks, codes, reserved, sk_epsilon, sk_iters)
    codes, spilled = _spill(latents, codebooks, codes, reserved)
    codes = _assign_last_level(latents, codebooks, codes, reserved)
    return Resolution(codes, int((codes != original).any(1).sum()), int(spilled.sum()), 0)


def quantization_error(latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray) -> float:
    """Mean over items of the squared distance between (N, D) latents and the sum of their codewords."""
    left = _residuals(latents, codebooks, codes[:, : len(codebooks)])
    return float(np.square(left, dtype=np.float64).sum(1).mean())


# ---- optimal assignment on the last level ----------------------------------------------------------------------------
def _assign_last_level(
    latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray, reserved: np.ndarray
) -> np.ndarray:
    """Inside each prefix that holds a collision, the assignment of least total squared error; others keep theirs."""
    codes = codes.copy()
    last = len(codebooks) - 1
    groups, reserved_groups = _joint_groups(codes, reserved, last)
    rows = np.flatnonzero(np.isin(groups, np.unique(groups[_colliding(codes, reserved)])))
    if not len(rows):
        return codes
    rows = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(groups[rows]) != 0])
    ends = np.r_[starts[1:], len(rows)]
    taken_by_group = _rows_by_group(reserved_groups)
    codebook = codebooks[last]
    chunk_start = chunk_end = 0
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end > chunk_end:  # distances of the next groups, whole groups at a time, in one matrix product
            chunk_start = start
            chunk_end = ends[max(number, np.searchsorted(ends, start + CHUNK, side="right") - 1)]
            members = rows[chunk_start:chunk_end]
            distances = _distances(_residuals(latents[members], codebooks[:last], codes[members]), codebook)
        costs = distances[start - chunk_start : end - chunk_start]
        free = np.arange(len(codebook))
        if (taken := taken_by_group.get(groups[rows[start]])) is not None:
            free = np.setdiff1d(free, reserved[taken, last])
            costs = costs[:, free]
        picked_rows, picked_columns = linear_sum_assignment(costs)
        codes[rows[start:end][picked_rows], last] = free[picked_columns]
    return codes


# ---- prefixes with more items than SIDs ------------------------------------------------------------------------------
def _spill(
    latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray, reserved: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Moves the surplus of over-full prefixes to siblings with room, from the coarsest level down.

    Returns:
        codes: (N, L); no prefix holds more items than it has SIDs.
        spilled: (N,) bool.
    """
    codes, spilled = codes.copy(), np.zeros(len(codes), bool)
    capacities = _capacities(codebooks)
    for level in range(len(codebooks) - 1):
        children, reserved_children = _joint_groups(codes, reserved, level + 1)
        num_children = 1 + max(children.max(), reserved_children.max(initial=0))
        counts = np.bincount(children, minlength=num_children) + np.bincount(reserved_children, minlength=num_children)
        overfull = counts[children] > capacities[level + 1]
        if not overfull.any():
            continue
        parents, reserved_parents = _joint_groups(codes, reserved, level)
        for parent in np.unique(parents[overfull]):
            rows = np.flatnonzero(parents == parent)
            taken = np.bincount(reserved[reserved_parents == parent, level], minlength=len(codebooks[level]))
            residuals = _residuals(latents[rows], codebooks[:level], codes[rows])
            new = _rebalance(_distances(residuals, codebooks[level]), codes[rows, level], capacities[level + 1] - taken)
            moved = rows[new != codes[rows, level]]
            codes[rows, level] = new
            spilled[moved] = True
            residuals = _residuals(latents[moved], codebooks[: level + 1], codes[moved])
            for deeper in range(level + 1, len(codebooks)):
                codes[moved, deeper] = _nearest(residuals, codebooks[deeper])
                residuals = residuals - codebooks[deeper][codes[moved, deeper]]
    return codes, spilled


def _rebalance(costs: np.ndarray, chosen: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Moves items out of over-full codes, those first whose next best code with room adds the least error.

    Args:
        costs: (m, K) squared error of each item under each code.
        chosen: (m,) present code.
        room: (K,) items that each code may hold; their sum is at least m.

    Returns:
        (m,) codes, none with more items than its room.
    """
    chosen = chosen.copy()
    while True:
        free = room - np.bincount(chosen, minlength=len(room))
        rows = np.flatnonzero(free[chosen] < 0)
        if not len(rows):
            return chosen
        open_codes = np.flatnonzero(free > 0)
        targets = open_codes[costs[np.ix_(rows, open_codes)].argmin(1)]
        added = costs[rows, targets] - costs[rows, chosen[rows]]
        order = np.argsort(added, kind="stable")
        order = order[_rank_in_group(chosen[rows[order]]) < -free[chosen[rows[order]]]]  # each gives up its surplus
        order = order[_rank_in_group(targets[order]) < free[targets[order]]]  # and each takes what it has room for
        chosen[rows[order]] = targets[order]


# ---- the other methods -----------------------------------------------------------------------------------------------
def _sinkhorn_rounds(
    latents: np.ndarray,
    codebooks: Sequence[np.ndarray],
    codes: np.ndarray,
    reserved: np.ndarray,
    epsilon: float,
    num_iterations: int,
) -> np.ndarray:
    """Up to 20 rounds of LC-Rec's rule: each group of colliding items is spread by Sinkhorn-Knopp on the last level."""
    import torch

    from index.clustering import sinkhorn_codes

    codes = codes.copy()
    last = len(codebooks) - 1
    for _ in range(SINKHORN_ROUNDS):
        rows = np.flatnonzero(_colliding(codes, reserved))
        if not len(rows):
            break
        groups = prefix_groups(codes[rows], last + 1)
        rows = rows[np.argsort(groups, kind="stable")]
        sizes = np.bincount(groups)
        starts = np.cumsum(sizes) - sizes
        for size in np.unique(sizes):  # groups of one size are solved together
            for some in np.array_split(starts[sizes == size], -(-int((sizes == size).sum()) * int(size) // CHUNK)):
                members = rows[some[:, None] + np.arange(size)]
                flat = members.reshape(-1)
                costs = _distances(_residuals(latents[flat], codebooks[:last], codes[flat]), codebooks[last])
                problems = torch.from_numpy(costs).view(len(some), int(size), -1)
                codes[flat, last] = sinkhorn_codes(problems, epsilon, num_iterations).reshape(-1).numpy()
    return codes


def _with_suffix(codes: np.ndarray, reserved: np.ndarray) -> Resolution:
    """Appends a level that numbers the items of a SID in their order, after the numbers that are reserved."""
    num_levels = codes.shape[1]
    if len(reserved) and reserved.shape[1] == num_levels:
        raise ValueError(
            "the old index has no extra level, and new items cannot be told apart without one: make the index again"
            " without --extend, or train with larger codebooks (--num_emb_list)"
        )
    groups, reserved_groups = _joint_groups(codes, reserved, num_levels)
    suffix = _rank_in_group(groups)
    if len(reserved):
        first = np.zeros(1 + max(groups.max(initial=0), reserved_groups.max()), np.int64)
        np.maximum.at(first, reserved_groups, reserved[:, num_levels] + 1)
        suffix = suffix + first[groups]
    size = 1 + max(suffix.max(initial=0), reserved[:, num_levels:].max(initial=0))
    return Resolution(np.column_stack([codes, suffix]), 0, 0, int(size))


# ---- small tools -----------------------------------------------------------------------------------------------------
def _joint_groups(codes: np.ndarray, reserved: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Prefix groups of items and of reserved SIDs, numbered together."""
    num_levels = codes.shape[1]
    groups = prefix_groups(np.concatenate([codes, reserved[:, :num_levels]]), length)
    return groups[: len(codes)], groups[len(codes) :]


def _colliding(codes: np.ndarray, reserved: np.ndarray) -> np.ndarray:
    """(N,) bool: items whose SID another item or a reserved SID has too."""
    groups, reserved_groups = _joint_groups(codes, reserved, codes.shape[1])
    return np.bincount(np.concatenate([groups, reserved_groups]))[groups] > 1


def _rows_by_group(groups: np.ndarray) -> dict[int, np.ndarray]:
    if not len(groups):
        return {}
    order = np.argsort(groups, kind="stable")
    values, starts = np.unique(groups[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(N,) int64: how many earlier rows are in the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]][: len(groups)]
    positions = np.arange(len(groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return ranks


def _capacities(codebooks: Sequence[np.ndarray]) -> list[int]:
    """SIDs under a prefix of 0, 1, ... L levels; cut at 2^62, which no catalogue reaches."""
    capacities = [1]
    for codebook in reversed(codebooks):
        capacities.append(min(capacities[-1] * len(codebook), 2**62))
    return capacities[::-1]


def _residuals(latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """(N, D): latents minus the codewords of the given levels."""
    for level, codebook in enumerate(codebooks):
        latents = latents - codebook[codes[:, level]]
    return latents


def _distances(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """(N, K) squared Euclidean distances."""
    distances = np.square(vectors).sum(1)[:, None] + np.square(codebook).sum(1) - 2 * vectors @ codebook.T
    return np.maximum(distances, 0, out=distances)


def _nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    return _distances(vectors, codebook).argmin(1)
