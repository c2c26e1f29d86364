"""Where codebooks start (k-means) and how assignments are balanced (Sinkhorn-Knopp)."""

import math

import torch
from torch import Tensor

CHUNK = 4096  # rows a matrix product: their distances stay in the processor's cache
SAMPLE_ROWS = 64  # rows a centre of the sample on which centres settle first
SETTLED = 0.003  # share of the rows that still change their centre when many rows have settled
DEPTHS = {torch.float32: 110, torch.float64: 600}  # powers of 2 that Sinkhorn's kernel spans
SURE = 1e-5  # how far the second best column must be below the best to be sure of it in float32
MOST_REACH = 2.0**82  # of the scalings in float32: beyond it, entries that were cut off might have counted
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

    Many rows: centres settle on a sample first, so that few iterations see all rows.

    Args:
        vectors: (N, D) float, N >= num_centres.
        num_iterations: at most, on the sample and on all rows each.

    Returns:
        (num_centres, D) float.
    """
    if len(vectors) < num_centres:
        raise ValueError(
            f"k-means for {num_centres} codewords has only {len(vectors)} rows: raise --batch_size, pass"
            f" --large_scale_kmeans True, or make the codebooks smaller with --num_emb_list"
        )
    generator = torch.Generator().manual_seed(seed)
    sample_size = SAMPLE_ROWS * num_centres
    if len(vectors) < 2 * sample_size:
        return lloyd(vectors, seed_centres(vectors, num_centres, generator), num_iterations)
    sample = vectors[torch.randperm(len(vectors), generator=generator)[:sample_size].to(vectors.device)]
    centres = lloyd(sample, seed_centres(sample, num_centres, generator), num_iterations, SETTLED)
    return lloyd(vectors, centres, num_iterations, SETTLED)


def lloyd(vectors: Tensor, centres: Tensor, num_iterations: int, settled: float = 0.0) -> Tensor:
    """(K, D) centres after Lloyd's iterations on (N, D) vectors.

    They end early where the centres hardly move (`TOLERANCE`), or at most a share `settled` of the rows changes its
    centre.
    """
    num_rows, num_centres = len(vectors), len(centres)
    tolerance = TOLERANCE * vectors.var(0, correction=0).mean()
    before = torch.full((num_rows,), -1, device=vectors.device)
    for _ in range(num_iterations):
        codes = nearest_codes(vectors, centres)
        counts = torch.bincount(codes, minlength=num_centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        means = sums / counts.clamp_min(1)[:, None]
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            errors = (vectors - centres[codes]).square().sum(1)
            means[empty] = vectors[errors.topk(len(empty)).indices]
        moved, num_changed = (means - centres).square().sum(), (codes != before).sum()
        centres, before = means, codes
        if moved <= tolerance or num_changed <= settled * num_rows:
            break
    return centres


@torch.no_grad()
def sinkhorn_codes(distances: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Balanced assignment: the most likely codeword of each row under the entropic transport plan.

    The plan is diag(u) E diag(v) with E = exp(-distances / epsilon), so that an iteration is two matrix-vector
    products, and the best column of a row needs E and v only. Distances are centred to [-1, 1] first, as in LC-Rec.
    Rows and columns of E are scaled to a largest entry of 1, which u and v take back. That fits into float32 but for
    entries that are next to nothing. Where these could count, or where two columns of a row come out equal to
    rounding, the same is done in float64.

    Args:
        distances: (..., B, K) float; each (B, K) slice is a problem of its own.
        epsilon: above 0; smaller is closer to a hard assignment.

    Returns:
        (..., B) int64.

    Reference: Cuturi, 2013; SwAV (Caron et al., 2020), https://arxiv.org/abs/2006.09882.
    """
    costs = distances.reshape(-1, *distances.shape[-2:])
    high, low = costs.amax((1, 2), keepdim=True), costs.amin((1, 2), keepdim=True)
    middle = (high + low) / 2
    centred = (costs - middle).div_(high - middle + 1e-5)
    if costs.dtype == torch.float32:
        plan, reach = _transport_plan(centred, epsilon, num_iterations)
        best, codes = plan.max(2, keepdim=True)
        second = plan.scatter_(2, codes, 0.0).amax(2, keepdim=True)
        if bool((second < best * (1 - SURE)).all() & (reach < MOST_REACH)):
            return codes.reshape(distances.shape[:-1])
    plan, _ = _transport_plan(centred.double(), epsilon, num_iterations)
    return plan.argmax(2).reshape(distances.shape[:-1])


def _transport_plan(centred: Tensor, epsilon: float, num_iterations: int) -> tuple[Tensor, Tensor]:
    """(P, B, K) plans of P problems but for a factor of each row, and how far the scalings of a plan reach.

    Exponents are of 2, and half of the range of the type is used on either side of 1.
    """
    depth = DEPTHS[centred.dtype]
    exponents = centred.amin(2, keepdim=True) - centred
    tops = exponents.amax(1, keepdim=True)
    exponents -= tops
    scale = 1 / (epsilon * math.log(2))
    kernel = exponents.mul_(scale).clamp_(min=-depth).add_(depth // 2).exp2_()
    columns = tops.mul_(scale).exp2_().transpose(1, 2).contiguous()
    rows = kernel.new_empty(*kernel.shape[:2], 1)
    per_row = kernel.new_tensor(2.0 ** (depth // 2))
    per_column = per_row * kernel.shape[1] / kernel.shape[2]
    for _ in range(num_iterations):
        torch.div(per_row, torch.bmm(kernel, columns, out=rows), out=rows)
        torch.div(per_column, torch.bmm(kernel.transpose(1, 2), rows, out=columns), out=columns)
    return kernel.mul_(columns.transpose(1, 2)), (rows.amax(1) * columns.amax(1)).amax()


@torch.no_grad()
def balanced_codes(vectors: Tensor, centres: Tensor) -> Tensor:
    """(N,) int64: near codewords whose cluster sizes differ by at most one."""
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
    """(num_centres, D): as `kmeans`, for balanced codes."""
    centres = kmeans(vectors, num_centres, num_iterations, seed)
    for _ in range(min(num_iterations, 5)):
        codes = balanced_codes(vectors, centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = sums / torch.bincount(codes, minlength=num_centres)[:, None]
    return centres
