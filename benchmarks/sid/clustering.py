"""K-means and Sinkhorn-Knopp, where the codebooks of the RQ-VAE come from and how its codes are balanced."""

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.harness import Row, alternate, median, peak_megabytes, timed
from benchmarks.rivals.plain_rqvae import centred, sinkhorn_plan
from index.clustering import kmeans, nearest_codes, squared_distances
from index.transport import balanced_codes, balancing_prices, sinkhorn_codes

NUM_CENTRES, NUM_LEVELS, WIDTH = 256, 4, 32
MOST_ERROR = 1.005  # of scikit-learn's


def hierarchical(num_rows: int, seed: int = 0) -> Tensor:
    """(N, 32): 64 clusters of 32 clusters each, with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(64, WIDTH))
    fine = coarse[:, None] + 0.5 * rng.normal(size=(64, 32, WIDTH))
    rows = fine[rng.integers(64, size=num_rows), rng.integers(32, size=num_rows)]
    return torch.from_numpy((rows + 0.25 * rng.normal(size=rows.shape)).astype(np.float32))


def theirs(rows: Tensor, seed: int) -> Tensor:
    return torch.from_numpy(KMeans(NUM_CENTRES, max_iter=100, random_state=seed).fit(rows.numpy()).cluster_centers_)


def ours(rows: Tensor, seed: int) -> Tensor:
    return kmeans(rows, NUM_CENTRES, 100, seed)


def levels(rows: Tensor, find: Callable[[Tensor, int], Tensor], seed: int) -> tuple[float, list[float]]:
    """CPU seconds of residual k-means, and the mean squared error that each level leaves."""
    seconds, errors = 0.0, []
    for level in range(NUM_LEVELS):
        spent, centres = timed(lambda rows=rows, level=level: find(rows, seed + level))
        seconds += spent
        rows = rows - centres[nearest_codes(rows, centres)]
        errors.append(float(rows.double().square().sum(1).mean()))
    return seconds, errors


def kmeans_row(num_rows: int, runs: int) -> Row:
    rows = hierarchical(num_rows)
    ratios, our_errors, their_errors = [], [], []
    for run in range(runs):
        mine, other = levels(rows, ours, 10 * run), levels(rows, theirs, 10 * run)
        ratios.append(other[0] / mine[0])
        our_errors.append(mine[1])
        their_errors.append(other[1])
    worst = (np.mean(our_errors, 0) / np.mean(their_errors, 0)).max()
    return Row(
        f"k-means of {NUM_LEVELS} levels, {num_rows:,} x {WIDTH}",
        median(ratios),
        "x",
        goal=2.5 if num_rows >= 100_000 else 1.0,
        rival="scikit-learn KMeans(256, max_iter=100)",
        equal=bool(worst <= MOST_ERROR),
        runs=runs,
        spread=(min(ratios), max(ratios)),
        note=f"worst level: {worst:.4f} of its error, mean of {runs} runs",
    )


def sinkhorn_rows(runs: int) -> Iterator[Row]:
    """The step at the documented size on every level, with the residuals that the level sees."""
    residual = hierarchical(20_000)
    for level in range(NUM_LEVELS):
        centres = ours(residual, level)
        yield sinkhorn_row(level, squared_distances(residual[:2048], centres), runs)
        residual = residual - centres[nearest_codes(residual, centres)]


def sinkhorn_row(level: int, distances: Tensor, runs: int) -> Row:
    timings = alternate(
        lambda: sinkhorn_codes(distances, 0.003, 50),
        lambda: sinkhorn_plan(centred(distances).double(), 0.003, 50).argmax(-1),
        runs,
    )
    return timings.ratio(
        f"Sinkhorn step of level {level + 1}, 2,048 x 256, 50 iterations",
        "rows and columns normalised in turn, float64",
        goal=4.0,
        equal=torch.equal(timings.our_result, timings.rival_result),
    )


class Balanced(NamedTuple):
    seconds: float  # CPU
    megabytes: float  # peak beyond what the process held before
    num_uneven: int  # difference between the largest and the smallest size
    of_nearest: float  # error over that of nearest codes
    of_bound: float  # error over what no balanced assignment falls below


def balance(num_rows: int) -> Balanced:
    """Balanced codes of `num_rows` rows; in a process of its own, whose memory is measured."""
    torch.set_num_threads(1)
    rows = hierarchical(num_rows)
    centres = ours(rows, 0)
    balanced_codes(rows[:NUM_CENTRES], centres)  # loads what a first call loads
    ctypes.CDLL(None).malloc_trim(0)  # else the call would live in what was freed before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = peak_megabytes()
    seconds, codes = timed(lambda: balanced_codes(rows, centres))
    megabytes = peak_megabytes() - before
    sizes = torch.bincount(codes, minlength=NUM_CENTRES)
    nearest = nearest_codes(rows, centres)
    return Balanced(
        seconds,
        megabytes,
        int(sizes.max() - sizes.min()),
        mean_error(rows, centres[codes]) / mean_error(rows, centres[nearest]),
        mean_error(rows, centres[codes]) / least_error(rows, centres),
    )


def mean_error(rows: Tensor, chosen: Tensor) -> float:
    return float((rows - chosen).double().square().sum(1).mean())


def least_error(rows: Tensor, centres: Tensor) -> float:
    """A bound from below by duality: at any prices, every row at its cheapest, minus what sizes would bring in."""
    prices = balancing_prices(rows, centres)
    due, num_larger = divmod(len(rows), len(centres))
    cheapest = sum(
        float((squared_distances(part, centres) + prices).amin(1).double().sum()) for part in rows.split(4096)
    )
    return (cheapest - float(due * prices.sum() + (prices.clamp_min(0).sum() if num_larger else 0))) / len(rows)


def balanced_rows(num_rows: int) -> Iterator[Row]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(balance, num_rows).result()
    name = f"balanced codes, {num_rows:,} x {WIDTH} to {NUM_CENTRES}"
    is_even = result.num_uneven <= 1
    note = f"{result.of_nearest:.3f} of the error of nearest codes"
    yield Row(f"{name}: time", result.seconds, "s", higher_is_better=False, equal=is_even, note=note)
    yield Row(f"{name}: peak", result.megabytes, "MB", higher_is_better=False)
    yield Row(
        f"{name}: error",
        result.of_bound,
        "x",
        higher_is_better=False,
        goal=1.02,
        rival="a lower bound of balanced assignments, by duality",
        equal=is_even,
    )


def rows(quick: bool) -> Iterator[Row]:
    yield from sinkhorn_rows(3 if quick else 9)
    for num_rows, runs in [(2_048, 1)] if quick else [(2_048, 5), (20_000, 3), (100_000, 3)]:
        yield kmeans_row(num_rows, runs)
    for num_rows in [10_000] if quick else [10_000, 100_000, 1_000_000]:
        yield from balanced_rows(num_rows)
