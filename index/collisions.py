"""Making SIDs unique: find items that share one, and move as few and as little as possible.

All functions take numpy arrays. Letters as in index/quantizer.py; M reserved SIDs belong to items that may not move.
One sort of the SIDs finds all that share a prefix, and distances are taken CHUNK rows at a time: time grows with
N log N, and memory hardly beyond the codes, so that latents may lie in a memory map.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

SINKHORN_ROUNDS = 20  # as LC-Rec's generate_indices.py
SINKHORN_EPSILON = 0.003  # LC-Rec's, where training used none on the last level
SPILL_ROUNDS = 8  # after which few are left, and those are placed where there is room
CHUNK = 4096  # rows whose distances to a codebook are held at a time: 8 MB for 256 codewords


class Resolution(NamedTuple):
    """Codes without collisions, and what it took."""

    codes: np.ndarray  # (N, L) int64, or (N, L + 1) with a suffix level
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
    reserved = _distinct(reserved)
    capacities = _capacities(codebooks)
    if len(codes) + len(reserved) > capacities[0]:
        return _with_suffix(codes, reserved)
    codebooks = [codebook.astype(np.float64) for codebook in codebooks]
    if method == "sinkhorn":
        _sinkhorn_rounds(latents, codebooks, codes, reserved, sk_epsilon, sk_iters)
    sids = _sort(codes, reserved)
    for level in range(num_levels - 1):
        if sids.sizes(level + 1).max(initial=0) > capacities[level + 1]:
            _spill(latents, codebooks, codes, sids, level, capacities[level + 1])
            sids = _sort(codes, reserved)
    _assign_last_level(latents, codebooks, codes, reserved, sids)
    moved = codes != original
    return Resolution(codes, int(moved.any(1).sum()), int(moved[:, :-1].any(1).sum()), 0)


def quantization_error(latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray) -> float:
    """Mean over items of the squared distance between (N, D) latents and the sum of their codewords."""
    codebooks = [codebook.astype(np.float64) for codebook in codebooks]
    total = 0.0
    for chunk in _chunks(len(codes)):
        total += float(np.square(_residuals(latents, codebooks, codes, chunk)).sum())
    return total / len(codes)


# ---- who shares a prefix with whom -----------------------------------------------------------------------------------
class _Sids(NamedTuple):
    """N items and M reserved SIDs in the order of their codes, equal ones by their rows."""

    order: np.ndarray  # (N + M,) rows; reserved SIDs are those from N on
    codes: np.ndarray  # (L, N + M), in this order
    shared: np.ndarray  # (N + M,) how many first codes each has in common with the one before; -1 for the first

    def starts(self, length: int) -> np.ndarray:
        """Where in the order each prefix of `length` codes begins."""
        return np.flatnonzero(self.shared < length)

    def sizes(self, length: int) -> np.ndarray:
        """How many SIDs each prefix of `length` codes holds."""
        return np.diff(self.starts(length), append=len(self.order))


def _sort(codes: np.ndarray, reserved: np.ndarray) -> _Sids:
    """Sorts (N, L) codes and (M, L) reserved ones together."""
    largest = max(codes.max(initial=0), reserved.max(initial=0))
    columns = np.concatenate([codes, reserved]).T.astype(np.uint16 if largest < 2**16 else np.int64)
    order = np.lexsort(columns[::-1])  # of 16-bit columns a radix sort
    columns = np.take(columns, order, axis=1)
    shared = np.zeros(len(order), np.int16)
    shared[:1] = -1
    is_equal = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        is_equal &= column[1:] == column[:-1]
        shared[1:] += is_equal
    return _Sids(order, columns, shared)


def _distinct(codes: np.ndarray) -> np.ndarray:
    """The distinct rows of (M, L) codes, in their order."""
    sids = _sort(codes, codes[:0])
    return codes[sids.order[sids.starts(codes.shape[1])]]


def _crowded(sids: _Sids) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prefixes of all but the last code that hold a collision, prefix by prefix, and how many each has."""
    num_levels = len(sids.codes)
    starts, sizes = sids.starts(num_levels - 1), sids.sizes(num_levels - 1)
    holds_collision = np.add.reduceat(sids.shared == num_levels, starts) > 0 if len(starts) else starts > 0
    return sids.order[np.repeat(holds_collision, sizes)], sizes[holds_collision]


# ---- optimal assignment on the last level ----------------------------------------------------------------------------
def _assign_last_level(
    latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray, reserved: np.ndarray, sids: _Sids
) -> None:
    """Inside each prefix that holds a collision, the assignment of least total squared error; others keep theirs."""
    last = len(codebooks) - 1
    rows, sizes = _crowded(sids)
    is_item = rows < len(codes)
    items, taken = rows[is_item], reserved[rows[~is_item] - len(codes), last]
    group = np.repeat(np.arange(len(sizes)), sizes)
    item_bounds, taken_bounds = _bounds(group[is_item], len(sizes)), _bounds(group[~is_item], len(sizes))
    first = 0
    while first < len(sizes):  # whole groups, as many as fit into a chunk
        start = item_bounds[first]
        final = max(first + 1, bisect_right(item_bounds, start + CHUNK) - 1)
        members = items[start : item_bounds[final]]
        costs = _costs(_residuals(latents, codebooks[:last], codes, members), codebooks[last])
        chosen = np.empty(len(members), np.int64)
        for number in range(first, final):
            own = slice(item_bounds[number] - start, item_bounds[number + 1] - start)
            problem = costs[own]
            if taken_bounds[number] < taken_bounds[number + 1]:
                problem[:, taken[taken_bounds[number] : taken_bounds[number + 1]]] = np.inf
            chosen[own] = linear_sum_assignment(problem)[1]  # a few microseconds: most groups are small
        codes[members, last] = chosen
        first = final


# ---- prefixes with more items than SIDs ------------------------------------------------------------------------------
def _spill(
    latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray, sids: _Sids, level: int, capacity: int
) -> None:
    """Moves the surplus of prefixes with more than `capacity` SIDs below code `level` to siblings with room.

    Those leave, and choose first, whose best sibling with room adds the least error. Where it fills up before their
    turn, all think again; after SPILL_ROUNDS they take what is left. Their deeper codes are the nearest ones.
    """
    codebook = codebooks[level]
    room, rows, families = _find_room(codes, sids, level, len(codebook), capacity)
    places, moved = room.reshape(-1), []
    for number in range(SPILL_ROUNDS):
        own = families * len(codebook) + codes[rows, level]
        is_overfull = places[own] < 0
        rows, families, own = rows[is_overfull], families[is_overfull], own[is_overfull]
        wanted, added = np.empty(len(rows), np.int64), np.empty(len(rows))
        for chunk in _chunks(len(rows)):
            costs = _costs(_residuals(latents, codebooks[:level], codes, rows[chunk]), codebook)
            present = costs[np.arange(len(costs)), codes[rows[chunk], level]]
            costs[room[families[chunk]] <= 0] = np.inf
            wanted[chunk] = costs.argmin(1)
            added[chunk] = costs.min(1) - present
        order = np.lexsort((added, own))
        leaving = order[_rank_in_group(own[order]) < -places[own[order]]]
        leaving = leaving[np.argsort(added[leaving], kind="stable")]
        if number < SPILL_ROUNDS - 1:
            cells = families[leaving] * len(codebook) + wanted[leaving]
            is_served = _rank_in_group(cells) < places[cells]
            leaving = leaving[is_served]
            np.subtract.at(places, cells[is_served], 1)
            np.add.at(places, own[leaving], 1)
            codes[rows[leaving], level] = wanted[leaving]
        else:
            for chunk in _chunks(len(leaving)):
                moving = leaving[chunk]
                costs = _costs(_residuals(latents, codebooks[:level], codes, rows[moving]), codebook)
                codes[rows[moving], level] = _place(costs, families[moving], room)
        moved.append(rows[leaving])

    rows = np.concatenate(moved)
    for chunk in _chunks(len(rows)):
        residuals = _residuals(latents, codebooks[: level + 1], codes, rows[chunk])
        for deeper in range(level + 1, len(codebooks)):
            codes[rows[chunk], deeper] = _costs(residuals, codebooks[deeper]).argmin(1)
            residuals -= codebooks[deeper][codes[rows[chunk], deeper]]


def _find_room(
    codes: np.ndarray, sids: _Sids, level: int, codebook_size: int, capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where prefixes of `level + 1` codes hold more than `capacity` SIDs, and what room their siblings have.

    Returns:
        room: (P, K), SIDs left below each code of each parent that has an over-full child, negative where over-full.
        rows: (m,) items of over-full prefixes.
        families: (m,) their row of `room`.
    """
    starts, sizes = sids.starts(level + 1), sids.sizes(level + 1)
    parent = np.searchsorted(sids.starts(level), starts, side="right") - 1
    is_overfull = sizes > capacity
    parents = np.unique(parent[is_overfull])
    siblings = np.isin(parent, parents)
    room = np.full((len(parents), codebook_size), capacity)
    room[np.searchsorted(parents, parent[siblings]), sids.codes[level, starts[siblings]]] -= sizes[siblings]
    rows = sids.order[np.repeat(is_overfull, sizes)]
    families = np.repeat(np.searchsorted(parents, parent[is_overfull]), sizes[is_overfull])
    return room, rows[rows < len(codes)], families[rows < len(codes)]


def _place(costs: np.ndarray, families: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Gives each item its best code with room, the first items first, and takes that room.

    Args:
        costs: (m, K) of each item under each code.
        families: (m,) row of `room` that the item draws from.
        room: (P, K) items that each code may still take; changed in place.

    Returns:
        (m,) int64 codes.
    """
    chosen = np.empty(len(costs), np.int64)
    waiting = np.arange(len(costs))
    while len(waiting):
        wanted = np.where(room[families[waiting]] > 0, costs[waiting], np.inf).argmin(1)
        cells = families[waiting] * room.shape[1] + wanted
        is_served = _rank_in_group(cells) < room.reshape(-1)[cells]
        chosen[waiting[is_served]] = wanted[is_served]
        np.subtract.at(room.reshape(-1), cells[is_served], 1)
        waiting = waiting[~is_served]
    return chosen


# ---- the other methods -----------------------------------------------------------------------------------------------
def _sinkhorn_rounds(
    latents: np.ndarray,
    codebooks: Sequence[np.ndarray],
    codes: np.ndarray,
    reserved: np.ndarray,
    epsilon: float,
    num_iterations: int,
) -> None:
    """Up to 20 rounds of LC-Rec's rule: each group of colliding items is spread by Sinkhorn-Knopp on the last level."""
    import torch

    from index.transport import sinkhorn_codes

    last = len(codebooks) - 1
    rows, _ = _crowded(_sort(codes, reserved))  # no other prefix will hold a collision
    items, taken = rows[rows < len(codes)], reserved[rows[rows >= len(codes)] - len(codes)]
    for _ in range(SINKHORN_ROUNDS):
        sids = _sort(codes[items], taken)
        starts, sizes = sids.starts(last + 1), sids.sizes(last + 1)
        num_items = np.diff(np.cumsum(sids.order < len(items))[starts + sizes - 1], prepend=0)
        is_colliding = (sizes > 1) & (num_items <= len(codebooks[last]))  # more can but spill
        if not is_colliding.any():
            break
        for size in np.unique(num_items[is_colliding]):  # groups of one size are solved together
            begins = starts[is_colliding & (num_items == size)]
            for some in np.array_split(begins, -(-len(begins) * int(size) // CHUNK)):
                members = items[sids.order[some[:, None] + np.arange(size)]].reshape(-1)
                residuals = _residuals(latents, codebooks[:last], codes, members)
                costs = _costs(residuals, codebooks[last]) + np.square(residuals).sum(1)[:, None]
                problems = torch.from_numpy(costs).view(len(some), int(size), -1)
                codes[members, last] = sinkhorn_codes(problems, epsilon, num_iterations).reshape(-1).numpy()


def _with_suffix(codes: np.ndarray, reserved: np.ndarray) -> Resolution:
    """Appends a level that numbers the items of a SID in their order, after the numbers that are reserved."""
    num_levels = codes.shape[1]
    if len(reserved) and reserved.shape[1] == num_levels:
        raise ValueError(
            "the old index has no extra level, and new items cannot be told apart without one: make the index again"
            " without --extend, or train with larger codebooks (--num_emb_list)"
        )
    sids = _sort(codes, reserved[:, :num_levels])
    group = np.empty(len(sids.order), np.int64)
    group[sids.order] = np.cumsum(sids.shared < num_levels) - 1
    suffix = _rank_in_group(group[: len(codes)])
    if len(reserved):
        first = np.zeros(len(group), np.int64)
        np.maximum.at(first, group[len(codes) :], reserved[:, num_levels] + 1)
        suffix += first[group[: len(codes)]]
    size = 1 + max(suffix.max(initial=0), reserved[:, num_levels:].max(initial=0))
    return Resolution(np.column_stack([codes, suffix]), 0, 0, int(size))


# ---- small tools -----------------------------------------------------------------------------------------------------
def _chunks(num_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, num_rows)) for start in range(0, num_rows, CHUNK))


def _bounds(groups: np.ndarray, num_groups: int) -> list[int]:
    """Where each of the ascending `groups` begins, and after the last one where it ends."""
    return [0, *np.cumsum(np.bincount(groups, minlength=num_groups)).tolist()]


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
    """SIDs under a prefix of 0, 1, ... L codes; cut at 2^62, which no catalogue reaches."""
    capacities = [1]
    for codebook in reversed(codebooks):
        capacities.append(min(capacities[-1] * len(codebook), 2**62))
    return capacities[::-1]


def _residuals(
    latents: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray, rows: np.ndarray | slice
) -> np.ndarray:
    """(m, D) float64: latents of some rows, minus their codewords of the given levels."""
    residuals = np.array(latents[rows], np.float64)  # a copy, also of a memory map
    for level, codebook in enumerate(codebooks):
        residuals -= codebook[codes[rows, level]]
    return residuals


def _costs(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """(m, K): squared distance of each vector to each codeword, less the squared norm of the vector."""
    costs = vectors @ codebook.T
    costs *= -2
    costs += np.square(codebook).sum(1)
    return costs
