"""Balanced assignment."""

import math

import torch
from torch import Tensor

from index.clustering import kmeans, squared_distances

DEPTHS = {torch.float32: 110, torch.float64: 600}  # powers of 2 that Sinkhorn's kernel spans
MAKE_KERNEL = (0, 2, 6, 15, 32, 64, 128)  # before these iterations; the first ones move the scalings most
SURE = 1e-5  # how far the second best column must be below the best to be sure of it in float32
MOST_REACH = 2.0**82  # of the scalings in float32: beyond it, entries that were cut off might have counted


@torch.no_grad()
def sinkhorn_codes(distances: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Balanced assignment: the most likely codeword of each row under the entropic transport plan.

    The plan is diag(u) E diag(v) with E = exp(-distances / epsilon), so that an iteration is two matrix-vector
    products, and the best column of a row needs E and v only. Distances are centred to [-1, 1] first, as in LC-Rec.
    In float32 where that is sure to give what float64 gives, else in float64.

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
    if costs.dtype == torch.float32 and costs.shape[1] >= costs.shape[2]:  # columns of fewer rows tie
        plan, reach = _transport_plan(centred, epsilon, num_iterations)
        best, codes = plan.max(2, keepdim=True)
        second = plan.scatter_(2, codes, 0.0).amax(2, keepdim=True)
        if bool((second < best * (1 - SURE)).all() & (reach < MOST_REACH)):
            return codes.reshape(distances.shape[:-1])
    plan, _ = _transport_plan(centred.double(), epsilon, num_iterations)
    return plan.argmax(2).reshape(distances.shape[:-1])


def _transport_plan(costs: Tensor, epsilon: float, num_iterations: int) -> tuple[Tensor, Tensor]:
    """(P, B, K) plans of P problems but for a factor of each row, and how far scalings went beyond prices.

    E spans more than a type holds. So u and v are split, u = exp(price / epsilon) * scaling, and the kernel is E with
    prices on. Before some iterations prices take over the scalings and the kernel is made anew, so that what it cuts
    off stays next to nothing. Exponents are of 2, and half of the range of the type is used on either side of 1.

    Reference: absorption (Schmitzer, 2019), https://arxiv.org/abs/1610.06519.
    """
    half, scale = DEPTHS[costs.dtype] // 2, 1 / (epsilon * math.log(2))
    kernel = torch.empty_like(costs)
    row_prices = _rounded(costs.amin(2, keepdim=True))
    column_prices = _rounded(torch.sub(costs, row_prices, out=kernel).amin(1, keepdim=True))
    rows = costs.new_ones(*costs.shape[:2], 1)
    columns = (column_prices * -scale).exp2_().transpose(1, 2).contiguous()
    per_row, offset = costs.new_tensor(2.0**half), costs.new_tensor(float(half))
    per_column = per_row * costs.shape[1] / costs.shape[2]
    reach = costs.new_zeros(())
    for iteration in range(num_iterations):
        if iteration in MAKE_KERNEL:
            if iteration > 0:
                reach = torch.maximum(reach, (rows.amax(1) * columns.amax(1)).amax())
                row_prices += _absorbed(rows, scale)
                column_prices += _absorbed(columns, scale).transpose(1, 2)
            torch.add(row_prices, column_prices, out=kernel)
            torch.add(offset, kernel.sub_(costs), alpha=scale, out=kernel).clamp_(min=-half).exp2_()
        torch.div(per_row, torch.bmm(kernel, columns, out=rows), out=rows)
        torch.div(per_column, torch.bmm(kernel.transpose(1, 2), rows, out=columns), out=columns)
    reach = torch.maximum(reach, (rows.amax(1) * columns.amax(1)).amax())
    return kernel.mul_(columns.transpose(1, 2)), reach


def _absorbed(scalings: Tensor, scale: float) -> Tensor:
    """What prices gain as they take over scalings, which keep the rest."""
    gain = _rounded(scalings.log2() / scale)
    scalings.mul_((gain * -scale).exp2_())
    return gain


def _rounded(prices: Tensor) -> Tensor:
    """To multiples of 2^-22: then their sums are exact, and differences of these to costs of about that size too."""
    return prices.mul(2.0**22).round_().mul_(2.0**-22)


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
