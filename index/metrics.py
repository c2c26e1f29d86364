"""Measures of codes: do items share SIDs, and are the codebooks used? Pure functions of numpy arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class IndexMetrics(NamedTuple):
    """How well the codes tell items apart, and how evenly each level is used."""

    num_items: int
    num_sids: int  # distinct SIDs
    collision_rate: float  # 1 - distinct SIDs / items
    colliding_items: int  # items that share their SID
    colliding_groups: int  # SIDs that several items share
    largest_group: int
    utilization: tuple[float, ...]  # of each level: used codewords / K
    perplexity: tuple[float, ...]  # of each level: exp of the entropy of their use, 1 to K

    def table(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


def prefix_groups(codes: np.ndarray, length: int) -> np.ndarray:
    """(N,) int64: equal numbers for rows with equal first `length` codes, 0 to groups - 1, in the order of the codes.

    Numbers are packed again after every level, so they never overflow, however large the code space is.
    """
    groups = np.zeros(len(codes), np.int64)
    for level in range(length):
        column = codes[:, level].astype(np.int64)
        groups = np.unique(groups * (column.max(initial=0) + 1) + column, return_inverse=True)[1].reshape(-1)
    return groups


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of (K,) counts: K where all are equal, 1 where one has everything."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def measure(codes: np.ndarray, codebook_sizes: Sequence[int]) -> IndexMetrics:
    """Measures (N, L) int codes of levels with `codebook_sizes` codewords."""
    sizes = np.bincount(prefix_groups(codes, codes.shape[1]))
    counts = [np.bincount(column, minlength=size) for column, size in zip(codes.T, codebook_sizes, strict=True)]
    return IndexMetrics(
        num_items=len(codes),
        num_sids=len(sizes),
        collision_rate=1 - len(sizes) / len(codes),
        colliding_items=int(sizes[sizes > 1].sum()),
        colliding_groups=int((sizes > 1).sum()),
        largest_group=int(sizes.max()),
        utilization=tuple(float((used > 0).mean()) for used in counts),
        perplexity=tuple(perplexity(used) for used in counts),
    )


def format_table(metrics: IndexMetrics, codebook_sizes: Sequence[int]) -> str:
    """The measures as people read them."""
    lines = [
        f"items {metrics.num_items:,}   distinct SIDs {metrics.num_sids:,}   collision rate"
        f" {metrics.collision_rate:.4%}",
        f"colliding items {metrics.colliding_items:,} in {metrics.colliding_groups:,} groups, the largest of"
        f" {metrics.largest_group:,}",
        "level  codewords  utilization  perplexity",
    ]
    levels = zip(codebook_sizes, metrics.utilization, metrics.perplexity, strict=True)
    lines += [f"{level:5}  {size:9,}  {used:11.1%}  {even:10.1f}" for level, (size, used, even) in enumerate(levels)]
    return "\n".join(lines)
