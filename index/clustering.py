"""Where codebooks start (k-means) and how assignments are balanced (Sinkhorn-Knopp)."""

import math

import torch
from torch import Tensor

CHUNK = 4096  # rows a matrix product: their distances stay in the processor's cache
TOLERANCE = 1e-4  # of the mean variance; Lloyd's iterations end when the centres move less, as in scikit-learn


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, K) squared Euclidean distances between (N, D) vectors and (K, D) codewords."""
    norms = (vectors * vectors).sum(1, keepdim=True) + (codebook * codebook).sum(1)
    return torch.addmm(norms, vectors, codebook.t(), alpha=-2.0)


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N,) int64: the nearest of the (K, D) codewords to each of the (N, D) vectors."""
    norms = (codebook * codebook).sum(1)
    codewords = codebook.t()
    parts = [torch.addmm(norms, rows, codewords, alpha=-2.0).argmin(1) for rows in vectors.split(CHUNK)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
    first = torch.randint(len(vectors), (1,), generator=generator).item()
    centres = vectors.new_empty(num_centres, vectors.shape[1])
    centres[0] = vectors[first]
    closest = squared_distances(vectors, centres[:1]).squeeze(1).clamp_min_(0)
    for position in range(1, num_centres):
        cumulated = closest.double().cumsum(0)
        draws = torch.rand(num_trials, generator=generator, dtype=torch.float64).to(vectors.device) * cumulated[-1]
        candidates = torch.searchsorted(cumulated, draws).clamp_max_(len(vectors) - 1)
        reach = squared_distances(vectors[candidates], vectors).clamp_min_(0)
        reach = torch.minimum(reach, closest)
        best = reach.sum(1).argmin()
        centres[position] = vectors[candidates[best]]
        closest = reach[best]
    return centres


@torch.no_grad()
def kmeans(vectors: Tensor, num_centres: int, num_iterations: int, seed: int) -> Tensor:
    """Lloyd's k-means from greedy k-means++ centres. A centre that loses all rows moves to the farthest row.

    Args:
        vectors: (N, D) float, N >= num_centres.

    Returns:
        (num_centres, D) float.
    """
    if len(vectors) < num_centres:
        raise ValueError(
            f"k-means for {num_centres} codewords has only {len(vectors)} rows: raise --batch_size, pass"
            f" --large_scale_kmeans True, or make the codebooks smaller with --num_emb_list"
        )
    centres = seed_centres(vectors, num_centres, torch.Generator().manual_seed(seed))
    tolerance = TOLERANCE * vectors.var(0, correction=0).mean()
    for _ in range(num_iterations):
        codes = nearest_codes(vectors, centres)
        counts = torch.zeros(num_centres, dtype=vectors.dtype, device=vectors.device)
        counts.index_add_(0, codes, torch.ones_like(codes, dtype=vectors.dtype))
        sums = torch.zeros_like(centres, dtype=torch.float64).index_add_(0, codes, vectors.double())
        means = (sums / counts.clamp_min(1)[:, None]).to(vectors.dtype)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            errors = (vectors - centres[codes]).square().sum(1)
            means[empty] = vectors[errors.topk(len(empty)).indices]
        moved = (means - centres).square().sum()
        centres = means
        if moved <= tolerance:
            break
    return centres


@torch.no_grad()
def sinkhorn_codes(distances: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Balanced assignment: the most likely codeword of each row under the entropic transport plan.

    The plan is diag(u) E diag(v) with E = exp(-distances / epsilon), so that an iteration is two matrix-vector
    products, and the best column of a row needs E and v only. Distances are centred to [-1, 1] first, as in LC-Rec.
    Each row of E is scaled by its largest entry, which u takes back: exp cannot overflow.

    Args:
        distances: (..., B, K) float; each (B, K) slice is a problem of its own.
        epsilon: above 0; smaller is closer to a hard assignment.

    Returns:
        (..., B) int64.

    Reference: Cuturi, 2013; SwAV (Caron et al., 2020), https://arxiv.org/abs/2006.09882.
    """
    high, low = distances.amax((-2, -1), keepdim=True), distances.amin((-2, -1), keepdim=True)
    middle = (high + low) / 2
    centred = ((distances - middle) / (high - middle + 1e-5)).double()
    kernel = torch.exp((centred.amin(-1, keepdim=True) - centred) / epsilon)
    num_rows, num_columns = kernel.shape[-2:]
    smallest = torch.finfo(kernel.dtype).tiny
    columns = kernel.new_ones((*kernel.shape[:-2], 1, num_columns))
    for _ in range(num_iterations):
        rows = (1 / num_rows) / (kernel @ columns.transpose(-1, -2)).clamp_min(smallest)
        columns = (1 / num_columns) / (rows.transpose(-1, -2) @ kernel).clamp_min(smallest)
    return (kernel * columns).argmax(-1)


@torch.no_grad()
def balanced_codes(vectors: Tensor, centres: Tensor) -> Tensor:
    """(N,) int64: near codewords whose cluster sizes differ by at most one. (First version: being worked on.)"""
    distances = squared_distances(vectors, centres)
    num_rows, num_centres = distances.shape
    room = torch.full((num_centres,), num_rows // num_centres, device=vectors.device)
    spare = num_rows % num_centres
    free = torch.ones(num_rows, dtype=torch.bool, device=vectors.device)
    codes = torch.full((num_rows,), -1, device=vectors.device)
    while bool(free.any()):
        if not bool((room > 0).any()):
            room[torch.bincount(distances[free].argmin(1), minlength=num_centres).topk(spare).indices] = 1
        rows = free.nonzero().squeeze(1)
        costs = distances[rows].masked_fill(room == 0, math.inf)
        best, targets = costs.min(1)
        order = best.argsort(stable=True)
        order = order[targets[order].argsort(stable=True)]
        sizes = torch.bincount(targets, minlength=num_centres)
        rank = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[targets[order]]
        taken = order[rank < room[targets[order]]]
        codes[rows[taken]] = targets[taken]
        free[rows[taken]] = False
        room -= torch.bincount(targets[taken], minlength=num_centres)
    return codes


@torch.no_grad()
def balanced_kmeans(vectors: Tensor, num_centres: int, num_iterations: int, seed: int) -> Tensor:
    """(num_centres, D): as `kmeans`, for balanced codes. (First version: being worked on.)"""
    centres = kmeans(vectors, num_centres, num_iterations, seed)
    for _ in range(min(num_iterations, 5)):
        codes = balanced_codes(vectors, centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = sums / torch.bincount(codes, minlength=num_centres)[:, None]
    return centres
