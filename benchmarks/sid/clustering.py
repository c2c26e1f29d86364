"""K-means and Sinkhorn-Knopp, where the codebooks of the RQ-VAE come from and how its codes are balanced."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.harness import Row, alternate, median, timed
from benchmarks.rivals.plain_rqvae import centred, sinkhorn_plan
from index.clustering import kmeans, nearest_codes, squared_distances
from index.transport import balanced_codes, sinkhorn_codes

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


def balanced_row(num_rows: int) -> Row:
    rows = hierarchical(num_rows)
    centres = ours(rows, 0)
    nearest = squared_distances(rows, centres).min(1).values.mean()
    seconds, codes = timed(lambda: balanced_codes(rows, centres))
    sizes = torch.bincount(codes, minlength=NUM_CENTRES)
    cost = (rows - centres[codes]).square().sum(1).mean() / nearest
    return Row(
        f"balanced assignment, {num_rows:,} x {WIDTH} to {NUM_CENTRES}",
        seconds,
        "s",
        higher_is_better=False,
        equal=bool(sizes.max() - sizes.min() <= 1),
        note=f"{cost:.3f} of the error of nearest codes",
    )


def rows(quick: bool) -> Iterator[Row]:
    yield from sinkhorn_rows(3 if quick else 9)
    for num_rows, runs in [(2_048, 1)] if quick else [(2_048, 5), (20_000, 3), (100_000, 3)]:
        yield kmeans_row(num_rows, runs)
    for num_rows in [10_000] if quick else [10_000, 100_000]:
        yield balanced_row(num_rows)
