"""K-means, where codebooks start; and the nearest codewords. Balanced assignment is in index/transport.py."""

import math

import torch
from torch import Tensor

CACHED = 1 << 18  # distances at a time on a CPU, so that they stay in its cache
BATCHES = 96  # small steps before Lloyd's; two thirds of them leave up to .35 % more error
BATCH_ROWS = 16  # rows a centre of a small step
FEW_ROWS = 32  # rows a centre; with fewer there are no small steps
SEED_ROWS = 128  # rows a centre that the first centres are drawn from: enough for clusters of few rows to be seen
FIRST_MEMORY = 8  # rows a centre that the first centres count as
MEMORY = 0.05  # of the rows seen so far: how many of the latest the centres are the means of
LEAST_GAIN = 2e-4  # of the error: Lloyd's iterations after small steps end when means gain less
TOLERANCE = 1e-4  # of the mean variance; Lloyd's iterations end when the centres move less, as in scikit-learn


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, K) squared Euclidean distances between (N, D) vectors and (K, D) codewords."""
    norms = (vectors * vectors).sum(1, keepdim=True) + (codebook * codebook).sum(1)
    return torch.addmm(norms, vectors, codebook.t(), alpha=-2.0)


def rows_at_a_time(codebook: Tensor) -> int:
    """How many rows to compare with (K, D) codewords at a time."""
    return max(1, (CACHED if codebook.device.type == "cpu" else CACHED << 8) // len(codebook))


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N,) int64: the nearest of the (K, D) codewords to each of the (N, D) vectors."""
    norms, codewords = (codebook * codebook).sum(1), codebook.t()
    num_rows = rows_at_a_time(codebook)
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    buffer = vectors.new_empty(min(num_rows, len(vectors)), len(codebook))
    for rows, part in zip(vectors.split(num_rows), codes.split(num_rows), strict=True):
        part.copy_(_argmin(torch.addmm(norms, rows, codewords, alpha=-2.0, out=buffer[: len(rows)])))
    return codes


def _argmin(scores: Tensor) -> Tensor:
    """scores.argmin(1), which overwrites scores. On a CPU min, comparison and max take a fifth of argmin's time."""
    size = scores.shape[1]
    if scores.device.type != "cpu" or size * torch.finfo(scores.dtype).eps > 1:
        return scores.argmin(1)
    ranks = torch.arange(size, 0, -1, dtype=scores.dtype)  # the first of equal scores has the highest rank
    return size - scores.eq_(scores.amin(1, keepdim=True)).mul_(ranks).amax(1).clamp_min_(1).long()  # 1: rows of NaN


def seed_centres(vectors: Tensor, num_centres: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each next centre is the best of a few rows drawn by their squared distance to those so far.

    Args:
        vectors: (N, D) float.
        generator: on the CPU; the draws do not depend on the device.

    Returns:
        (num_centres, D) rows of `vectors`.

    Reference: Arthur and Vassilvitskii, 2007; the greedy variant is that of scikit-learn.
    """
    num_trials = 2 + int(math.log(num_centres))
    norms, columns = (vectors * vectors).sum(1), vectors.t().contiguous()
    chosen = torch.randint(len(vectors), (1,), generator=generator).to(vectors.device)
    draws = torch.rand(num_centres - 1, num_trials, generator=generator, dtype=torch.float64).to(vectors.device)
    closest = squared_distances(vectors[chosen], vectors).clamp_min_(0).squeeze(0)
    picked = [chosen]
    for shares in draws:
        cumulated = closest.double().cumsum(0)
        candidates = torch.searchsorted(cumulated, shares * cumulated[-1]).clamp_max_(len(vectors) - 1)
        reach = torch.addmm(norms, vectors[candidates], columns, alpha=-2.0).add_(norms[candidates, None])
        reach = torch.minimum(reach.clamp_min_(0), closest, out=reach)
        best = reach.sum(1).argmin()[None]
        picked.append(candidates[best])
        closest = reach[best].squeeze(0)
    return vectors[torch.cat(picked)]


@torch.no_grad()
def kmeans(vectors: Tensor, num_centres: int, num_iterations: int, seed: int) -> Tensor:
    """K-means from greedy k-means++ centres: by small steps, then by Lloyd's. Few rows: by Lloyd's alone.

    Args:
        vectors: (N, D) float, N >= num_centres.
        num_iterations: at most; small steps count as the passes over all rows that they amount to.

    Returns:
        (num_centres, D) float.
    """
    if len(vectors) < num_centres:
        raise ValueError(
            f"k-means for {num_centres} codewords has only {len(vectors)} rows: raise --batch_size, pass"
            f" --large_scale_kmeans True, or make the codebooks smaller with --num_emb_list"
        )
    generator = torch.Generator().manual_seed(seed)
    if len(vectors) < FEW_ROWS * num_centres:
        return lloyd(vectors, seed_centres(vectors, num_centres, generator), num_iterations)
    order = torch.randperm(len(vectors), generator=generator)
    sample = vectors[order[: SEED_ROWS * num_centres].to(vectors.device)]
    centres = seed_centres(sample, num_centres, generator)
    num_steps = min(BATCHES, num_iterations * len(vectors) // (BATCH_ROWS * num_centres))
    positions = torch.arange(num_steps * BATCH_ROWS * num_centres) % len(vectors)
    centres = small_steps(vectors, centres, order[positions].to(vectors.device).view(num_steps, -1))
    return lloyd(vectors, centres, num_iterations, LEAST_GAIN)


def small_steps(vectors: Tensor, centres: Tensor, batches: Tensor) -> Tensor:
    """(K, D) centres after a step on each of the batches: means of the latest rows, of ever more of them.

    The noise of the first steps takes centres out of poor places in which Lloyd's iterations would stay.

    Args:
        vectors: (N, D) float.
        batches: (S, R) int64, row numbers.

    Reference: mini-batch k-means (Sculley, 2010), with a memory that fades as in online EM (Cappe and Moulines, 2009).
    """
    num_centres, num_rows = len(centres), batches.shape[1]
    counts = centres.new_full((num_centres, 1), FIRST_MEMORY)
    sums = centres * counts
    ones = centres.new_ones(num_rows, 1)
    for step, batch in enumerate(batches):
        rows = vectors[batch]
        codes = nearest_codes(rows, centres)
        memory = max(FIRST_MEMORY * num_centres, MEMORY * step * num_rows)
        kept = memory / (memory + num_rows)
        counts.mul_(kept).index_add_(0, codes, ones)
        sums.mul_(kept).index_add_(0, codes, rows)
        centres = sums / counts
    return centres


def lloyd(vectors: Tensor, centres: Tensor, num_iterations: int, least_gain: float = 0.0) -> Tensor:
    """(K, D) centres after Lloyd's iterations on (N, D) vectors.

    A centre that loses all rows moves to the farthest row. Iterations end early where the centres hardly move
    (`TOLERANCE`), or the error falls by a share below `least_gain` as centres become means.
    """
    tolerance = TOLERANCE * vectors.var(0, correction=0).mean()
    total = vectors.square().sum()
    for _ in range(num_iterations):
        codes = nearest_codes(vectors, centres)
        counts = torch.bincount(codes, minlength=len(centres))
        means = torch.zeros_like(centres).index_add_(0, codes, vectors) / counts.clamp_min(1)[:, None]
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            errors = (vectors - centres[codes]).square().sum(1)
            means[empty] = vectors[errors.topk(len(empty)).indices]
        moved = (means - centres).square().sum(1)
        error = total - (counts * means.square().sum(1)).sum()
        centres = means
        if (moved.sum() <= tolerance) | ((counts * moved).sum() < least_gain * error):
            break
    return centres
