"""How sure a mean is, and whether two systems differ beyond chance: by users, whose samples belong together.

Shape letters: M samples, U users. What has no users, such as items, counts each sample as one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


def _sums_by_user(values: np.ndarray, users: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """(U, ...) sums of `values` (M, ...) over the samples of each user, and the (U,) numbers of samples."""
    if len(users) != len(values) or not len(values):
        raise ValueError(f"{len(values)} values for {len(users)} users: one or more are needed, one user a value")
    _, rows, counts = np.unique(np.asarray(users), return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, rows, values)
    return sums, counts.astype(np.float64)


def bootstrap_intervals(
    values: Mapping[str, np.ndarray], users: Sequence, num_resamples: int = 1000, seed: int = 42, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of the mean of each metric, over users: the samples of one user stay together.

    Args:
        values: (M,) of each metric.
        users: (M,) user of each sample.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    names = list(values)
    sums, counts = _sums_by_user(np.stack([values[name] for name in names], axis=1), users)
    rng = np.random.default_rng(seed)
    means = np.empty((num_resamples, len(names)))
    for row in range(num_resamples):
        drawn = np.bincount(rng.integers(len(counts), size=len(counts)), minlength=len(counts)).astype(np.float64)
        means[row] = drawn @ sums / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(names)}


class PairedTest(NamedTuple):
    """Outcome of `paired_test`; `low` and `high` enclose the difference (95 %), `effect_size` is Cohen's d of users."""

    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float
    num_users: int


def paired_test(
    base: np.ndarray, new: np.ndarray, users: Sequence, num_flips: int = 10_000, seed: int = 42
) -> PairedTest:
    """Sign-flip permutation test of the mean difference `new - base` on the same samples, user by user, two-sided.

    Args:
        base, new: (M,) one metric of two systems.
        users: (M,) user of each sample; a user's samples flip together.

    Returns:
        The p value counts the observed signs among the flips, so that it is never 0.
    """
    if np.shape(base) != np.shape(new):
        raise ValueError(f"{len(base)} and {len(new)} samples cannot be paired")
    difference = np.asarray(new, np.float64) - np.asarray(base, np.float64)
    sums, counts = _sums_by_user(difference, users)
    low, high = bootstrap_intervals({"difference": difference}, users, seed=seed)["difference"]
    moving = sums[sums != 0]  # the others add 0 whatever their sign
    extreme = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()  # equal sums in another order differ by rounding
    rng = np.random.default_rng(seed)
    hits, done = 0, 0
    while done < num_flips:
        chunk = min(num_flips - done, max(1, (1 << 22) // max(1, len(moving))))
        flips = rng.integers(0, 2, size=(chunk, len(moving)), dtype=np.int8).astype(np.float64)
        hits += int((np.abs(2 * (flips @ moving) - moving.sum()) >= extreme).sum())
        done += chunk
    means = sums / counts
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    effect = float(means.mean() / spread) if spread else 0.0
    return PairedTest(float(difference.mean()), low, high, (hits + 1) / (num_flips + 1), effect, len(counts))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """(N,) p values of N tests, each raised so that one chance finding among all is as rare as a single p says.

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    raised = np.empty_like(given)
    raised[order] = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)).clip(max=1)
    return raised
