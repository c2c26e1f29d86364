"""Balanced assignment: Sinkhorn-Knopp as in LC-Rec's training, and equally many rows a codeword at the least error."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from index.clustering import kmeans, rows_at_a_time

# ---- of Sinkhorn-Knopp
DEPTHS = {torch.float32: 110, torch.float64: 600}  # powers of 2 that Sinkhorn's kernel spans
MAKE_KERNEL = (0, 2, 6, 15, 32, 64, 128)  # before these iterations; the first ones move the scalings most
SURE = 1e-5  # how far other columns must be below the best to be sure of it in float32
MOST_REACH = 2.0**82  # of the scalings in float32: beyond it, entries that were cut off might have counted
# ---- of balanced codes and centres
MOST_ITERATIONS = 8  # of balanced k-means
MEAN_ROWS = 128  # rows a centre, which all iterations but the last see
SAMPLE_ROWS = 32  # rows a centre of the sample
SAMPLE_STAGES, STAGES = 3, 3  # values of epsilon, on the sample and on all rows
SHRINK = 4  # of epsilon from stage to stage; it ends at about .4 % of the mean squared distance
NEWTON_STEPS = 4  # a stage, at most
CLOSE = 3e-3  # share of the rows for which there is no supply; then the stage ends
MOST_STEP = 4.0  # of a price, in units of epsilon: farther away the slopes tell nothing
RIDGE = 0.003  # rows per row of a codeword, added to the slopes: where nobody is torn, prices move none the less
CERTAIN = 0.98  # share of a row in one codeword


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
        is_best = plan.ge_(plan.amax(2, keepdim=True) * (1 - SURE))
        if bool((is_best.sum(2) == 1).all() & (reach < MOST_REACH)):
            positions = torch.arange(costs.shape[2], dtype=costs.dtype, device=costs.device)
            return is_best.mul_(positions).amax(2).long().reshape(distances.shape[:-1])
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
    """Assignment to codewords whose sizes differ by at most one, at nearly the least total squared distance.

    Each codeword gets a price, so that it is the cheapest, distance and price together, for about as many rows as any
    other. Few rows are left to move. Memory grows with N and with K, never with N x K.

    Args:
        vectors: (N, D) float.
        centres: (K, D) float.

    Returns:
        (N,) int64.

    Raises:
        ValueError: a value is NaN or infinite.

    Reference: semi-dual of optimal transport (Peyre and Cuturi, 2019, section 5), https://arxiv.org/abs/1803.00567.
    """
    prices = balancing_prices(vectors, centres)
    if not bool(torch.isfinite(prices).all()):
        raise ValueError("vectors or centres are not finite: check the embeddings for NaN and infinity")
    codes = torch.cat([costs.argmin(1) for costs in _priced(vectors, centres, prices)])
    return _fill(vectors, centres, prices, codes)


def balancing_prices(vectors: Tensor, centres: Tensor) -> Tensor:
    """(K,) float64 prices under which about equally many of the (N, D) vectors want each of the (K, D) centres.

    Rows share themselves out by softmax(-cost / epsilon). Newton's steps bring demand to supply for ever smaller
    epsilon, first on a sample. Supply is the rows that a codeword must get, and a share of the one more that it may.
    """
    num_rows, num_centres = len(vectors), len(centres)
    due, num_larger = divmod(num_rows, num_centres)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    sample = vectors[order[: SAMPLE_ROWS * num_centres].to(vectors.device)]
    prices = torch.zeros(num_centres, dtype=torch.float64, device=vectors.device)
    gaps = [(costs.mean(1) - costs.amin(1)).sum() for costs in _priced(sample, centres, prices)]
    floor = 1e-6 * (sample - sample.mean(0)).square().sum(1).mean() + 1e-20
    epsilon = max(float(sum(gaps)) / len(sample) / 2, float(floor))
    for stage in range(SAMPLE_STAGES + STAGES):
        rows = sample if stage < SAMPLE_STAGES else vectors
        weight = num_rows / len(rows)
        for _ in range(NEWTON_STEPS):
            demand, slopes = _demand(rows, centres, prices, epsilon)
            extra = torch.sigmoid(prices / epsilon) * min(num_larger, 1)
            excess = weight * demand - due - extra
            if excess.abs().sum() < CLOSE * num_rows:
                break
            slopes.mul_(weight).diagonal().add_(extra * (1 - extra) + RIDGE * num_rows / num_centres)
            step = torch.linalg.solve(slopes, excess)
            prices += step.clamp_(-MOST_STEP, MOST_STEP) * epsilon
        epsilon /= SHRINK
    return prices


def _priced(vectors: Tensor, centres: Tensor, prices: Tensor) -> Iterator[Tensor]:
    """Squared distances plus prices, but for a number of each row: (R, K) blocks, each of which overwrites the last."""
    origin = centres.mean(0)
    codewords = centres - origin
    offsets = ((codewords * codewords).sum(1) + prices).to(vectors.dtype)
    num_rows = rows_at_a_time(centres)
    buffer = vectors.new_empty(min(num_rows, len(vectors)), len(centres))
    for rows in vectors.split(num_rows):
        yield torch.addmm(offsets, rows - origin, codewords.t(), alpha=-2.0, out=buffer[: len(rows)])


def _demand(vectors: Tensor, centres: Tensor, prices: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(K,) float64 rows that want each codeword, and (K, K) how fast that falls with prices in units of epsilon."""
    demand, slopes = torch.zeros_like(prices), vectors.new_zeros(len(prices), len(prices))
    for costs in _priced(vectors, centres, prices):
        shares = torch.softmax(costs.mul_(-1 / epsilon), 1)
        demand += shares.sum(0)
        torn = shares[shares.amax(1) < CERTAIN]  # the others hardly answer to prices
        slopes.addmm_(torn.t(), torn, alpha=-1.0).diagonal().add_(torn.sum(0))
    return demand, slopes.double()


def _fill(vectors: Tensor, centres: Tensor, prices: Tensor, codes: Tensor) -> Tensor:
    """(N,) codes after rows moved from codewords with too many to ones with room, those that lose least first."""
    num_centres = len(centres)
    due, num_larger = divmod(len(vectors), num_centres)
    sizes = torch.bincount(codes, minlength=num_centres)
    dearest = prices.argsort(descending=True, stable=True)
    most_wanted = dearest[sizes.clamp(max=due + 1)[dearest].argsort(descending=True, stable=True)]
    quotas = torch.full_like(sizes, due).index_fill_(0, most_wanted[:num_larger], due + 1)
    while bool((sizes > quotas).any()):
        room = (quotas - sizes).clamp_min_(0)
        closed = torch.zeros_like(prices).masked_fill_(room == 0, math.inf).to(vectors.dtype)
        rows = (sizes > quotas)[codes].nonzero().squeeze(1)
        losses, targets = [], []
        for costs, own in zip(
            _priced(vectors[rows], centres, prices), codes[rows].split(rows_at_a_time(centres)), strict=True
        ):
            kept = costs.gather(1, own[:, None]).squeeze(1)
            best, target = costs.add_(closed).min(1)
            losses.append(best - kept)
            targets.append(target)
        order = torch.cat(losses).argsort(stable=True)
        rows, targets = rows[order], torch.cat(targets)[order]
        is_leaving = _rank(codes[rows]) < (sizes - quotas)[codes[rows]]
        rows, targets = rows[is_leaving], targets[is_leaving]
        fits = _rank(targets) < room[targets]
        codes[rows[fits]] = targets[fits]
        sizes = torch.bincount(codes, minlength=num_centres)
    return codes


def _rank(groups: Tensor) -> Tensor:
    """(R,) int64: how many of the same group come before each."""
    order = groups.argsort(stable=True)
    sizes = torch.bincount(groups)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[groups[order]]
    return rank


@torch.no_grad()
def balanced_kmeans(vectors: Tensor, num_centres: int, num_iterations: int, seed: int) -> Tensor:
    """(num_centres, D): as `kmeans`, for balanced codes. Of a few further iterations the last sees all rows."""
    centres = kmeans(vectors, num_centres, num_iterations, seed)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    sample = vectors[order[: MEAN_ROWS * num_centres].to(vectors.device)]
    num_iterations = min(num_iterations, MOST_ITERATIONS)
    for iteration in range(num_iterations):
        rows = sample if iteration < num_iterations - 1 else vectors
        codes = balanced_codes(rows, centres)
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        centres = sums / torch.bincount(codes, minlength=num_centres)[:, None]
    return centres
