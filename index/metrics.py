"""Measures of codes: do items share SIDs, and are the codebooks used? Pure functions of numpy arrays.

What shared prefixes mean (categories, neighbours, sequences) is measured in index/semantics.py.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np


class IndexMetrics(NamedTuple):
    """How well the codes tell items apart, and how evenly each level is used."""

    num_items: int
    num_sids: int  # distinct SIDs
    collision_rate: float  # 1 - distinct SIDs / items
    colliding_items: int  # items that share their SID
    colliding_groups: int  # SIDs that several items share
    largest_group: int  # items of the most crowded SID
    utilization: tuple[float, ...]  # of each level: used codewords / K
    perplexity: tuple[float, ...]  # of each level: 2 ** entropy, 1 to K
    entropy: tuple[float, ...]  # of each level, of the use of its codewords, in bits: 0 to log2 K
    prefixes: tuple[int, ...]  # distinct prefixes of 1, 2, ... L codes
    mean_prefix_group: tuple[float, ...]  # items / prefixes of that length
    largest_prefix_group: tuple[int, ...]  # items of the most crowded prefix of that length

    def table(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


def prefix_groups(codes: np.ndarray, length: int) -> np.ndarray:
    """(N,) int64: equal numbers for rows with equal first `length` codes, 0 to groups - 1, in order of the codes."""
    groups = np.zeros(len(codes), np.int64)
    for level in range(length):
        groups = _split(groups, codes[:, level])
    return groups


def all_prefix_groups(codes: np.ndarray) -> np.ndarray:
    """(L, N) int64: row l holds the `prefix_groups` of the first l + 1 of (N, L) codes."""
    groups, rows = np.zeros(len(codes), np.int64), np.empty(codes.shape[::-1], np.int64)
    for level in range(codes.shape[1]):
        groups = rows[level] = _split(groups, codes[:, level])
    return rows


def _split(groups: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Groups split by one more code, and numbered anew: so numbers never overflow, however large the code space is."""
    codes = codes.astype(np.int64)
    return np.unique(groups * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1].reshape(-1)


def number_labels(labels: Sequence[Hashable]) -> np.ndarray:
    """(N,) int64: equal numbers for equal labels, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(label, len(numbers)) for label in labels), np.int64, len(labels))


def entropy(counts: np.ndarray) -> float:
    """Entropy of (K,) counts in bits: log2 K where all are equal, 0 where one has everything."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # never -0.0


def measure(codes: np.ndarray, codebook_sizes: Sequence[int]) -> IndexMetrics:
    """Measures (N, L) int codes of levels with `codebook_sizes` codewords."""
    prefixes = [np.bincount(groups) for groups in all_prefix_groups(codes)]
    counts = [np.bincount(column, minlength=size) for column, size in zip(codes.T, codebook_sizes, strict=True)]
    entropies = tuple(entropy(used) for used in counts)
    sizes = prefixes[-1]
    return IndexMetrics(
        num_items=len(codes),
        num_sids=len(sizes),
        collision_rate=1 - len(sizes) / len(codes),
        colliding_items=int(sizes[sizes > 1].sum()),
        colliding_groups=int((sizes > 1).sum()),
        largest_group=int(sizes.max()),
        utilization=tuple(float((used > 0).mean()) for used in counts),
        perplexity=tuple(float(2**bits) for bits in entropies),
        entropy=entropies,
        prefixes=tuple(len(groups) for groups in prefixes),
        mean_prefix_group=tuple(len(codes) / len(groups) for groups in prefixes),
        largest_prefix_group=tuple(int(groups.max()) for groups in prefixes),
    )


def format_table(metrics: IndexMetrics, codebook_sizes: Sequence[int]) -> str:
    """The measures as people read them; the last three columns are of the prefix that ends with the level."""
    lines = [
        f"items {metrics.num_items:,}   distinct SIDs {metrics.num_sids:,}   collision rate"
        f" {metrics.collision_rate:.4%}",
        f"colliding items {metrics.colliding_items:,} in {metrics.colliding_groups:,} groups, the largest of"
        f" {metrics.largest_group:,}",
        "level  codewords  utilization  perplexity  entropy/bits   prefixes  mean group  largest group",
    ]
    levels = zip(
        codebook_sizes,
        metrics.utilization,
        metrics.perplexity,
        metrics.entropy,
        metrics.prefixes,
        metrics.mean_prefix_group,
        metrics.largest_prefix_group,
        strict=True,
    )
    lines += [
        f"{level:5}  {size:9,}  {used:11.1%}  {even:10.1f}  {bits:12.2f}  {prefixes:9,}  {mean:10.2f}  {largest:13,}"
        for level, (size, used, even, bits, prefixes, mean, largest) in enumerate(levels)
    ]
    return "\n".join(lines)
