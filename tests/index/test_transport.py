"""Sinkhorn-Knopp and balanced codes against slow, plain versions and the exact optimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from index import transport
from index.clustering import kmeans, squared_distances
from index.transport import balanced_codes, balanced_kmeans, sinkhorn_codes


# ---- Sinkhorn-Knopp --------------------------------------------------------------------------------------------------
def sinkhorn_as_a_loop(distances, epsilon, num_iterations):
    middle = (distances.max() + distances.min()) / 2
    exponents = -((distances - middle) / (distances.max() - middle + 1e-5)).double() / epsilon
    for _ in range(num_iterations):
        exponents = exponents - exponents.logsumexp(1, keepdim=True)
        exponents = exponents - exponents.logsumexp(0, keepdim=True)
    return exponents.argmax(1)


@pytest.mark.parametrize("epsilon", [0.003, 0.05, 1.0])
def test_sinkhorn_agrees_with_the_loop(epsilon):
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(200, 16, generator=generator)
    expected = sinkhorn_as_a_loop(distances, epsilon, 50)
    assert torch.equal(sinkhorn_codes(distances, epsilon, 50), expected)
    both = sinkhorn_codes(torch.stack([distances, distances.flip(0)]), epsilon, 50)  # problems side by side
    assert torch.equal(both, torch.stack([expected, expected.flip(0)]))


@pytest.mark.parametrize("num_iterations", [1, 20, 100])
def test_sinkhorn_needs_no_float64_for_clustered_vectors(num_iterations, monkeypatch):
    """Exponents of the first levels span more than float32 holds, and used to be computed in float64."""
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(12, 16, generator=generator)
    vectors = coarse.repeat(50, 1) + 0.3 * torch.randn(600, 16, generator=generator)
    distances = squared_distances(vectors, kmeans(vectors, 24, 20, seed=0))
    expected = sinkhorn_as_a_loop(distances, 0.003, num_iterations)
    in_float32 = transport._transport_plan

    def checked(costs, *others):
        assert costs.dtype == torch.float32
        return in_float32(costs, *others)

    monkeypatch.setattr(transport, "_transport_plan", checked)
    assert torch.equal(sinkhorn_codes(distances, 0.003, num_iterations), expected)


def test_sinkhorn_balances_and_survives_a_tiny_epsilon():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(256, 4, generator=generator)
    distances = squared_distances(vectors, torch.randn(8, 4, generator=generator))
    counts = torch.bincount(sinkhorn_codes(distances, 0.01, 200), minlength=8)
    assert (counts - 32).abs().max() <= 4
    assert sinkhorn_codes(distances, 1e-5, 50).max() < 8


def test_sinkhorn_of_groups_of_few_rows():
    distances = torch.rand(30, 3, 16, generator=torch.Generator().manual_seed(0))
    codes = sinkhorn_codes(distances, 0.05, 50)
    assert codes.shape == (30, 3)
    assert torch.equal(codes, torch.stack([sinkhorn_codes(group, 0.05, 50) for group in distances]))


# ---- balanced codes --------------------------------------------------------------------------------------------------
def sizes(codes, num_centres):
    return torch.bincount(codes, minlength=num_centres)


def error(vectors, centres, codes):
    return float((vectors - centres[codes]).double().square().sum(1).mean())


def least_error(vectors, centres):
    """Of an assignment to columns, one for each row that a centre may get; those that it must get are filled first."""
    due, num_larger = divmod(len(vectors), len(centres))
    slots = due + (num_larger > 0)
    costs = squared_distances(vectors.double(), centres.double()).repeat_interleave(slots, 1).numpy()
    is_due = np.tile(np.arange(slots) < due, len(centres))
    rows, columns = linear_sum_assignment(costs - 1e4 * is_due)
    return costs[rows, columns].mean()


@pytest.mark.parametrize(
    ("num_rows", "num_centres", "most"),
    [(1, 16, 1.0), (20, 32, 1.03), (32, 32, 1.03), (70, 32, 1.03), (1000, 32, 1.005), (1024, 32, 1.005)],
)
def test_balanced_codes_are_nearly_the_best(num_rows, num_centres, most):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_rows, 8, generator=generator) * torch.rand(num_rows, 1, generator=generator)
    centres = vectors[torch.randint(num_rows, (num_centres,), generator=generator)] + 0.1
    codes = balanced_codes(vectors, centres)
    counts = sizes(codes, num_centres)
    assert counts.max() - counts.min() <= 1
    assert error(vectors, centres, codes) <= most * least_error(vectors, centres) + 1e-6
    assert torch.equal(codes, balanced_codes(vectors, centres))


@pytest.mark.parametrize(
    ("vectors", "centres"),
    [
        (torch.ones(500, 3), torch.arange(24.0).view(8, 3)),  # the same row again and again
        (torch.zeros(10, 2), torch.zeros(4, 2)),
        (torch.arange(20.0).view(10, 2), torch.ones(3, 2)),
        (torch.arange(20.0).view(10, 2), torch.ones(1, 2)),
        (torch.eye(3).repeat(100, 1), torch.eye(3).repeat(3, 1)),
    ],
)
def test_balanced_codes_of_rows_that_tie(vectors, centres):
    counts = sizes(balanced_codes(vectors, centres), len(centres))
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == len(vectors)


def test_balanced_codes_do_not_depend_on_the_origin_or_the_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vectors, centres = torch.randn(500, 4, generator=generator), torch.randn(10, 4, generator=generator)
    codes = balanced_codes(vectors, centres)
    far = balanced_codes(vectors + 100, centres + 100)
    assert error(vectors, centres, far) == pytest.approx(error(vectors, centres, codes), rel=1e-3)
    monkeypatch.setattr("index.clustering.CACHED", 70)  # seven rows at a time
    assert error(vectors, centres, balanced_codes(vectors, centres)) == pytest.approx(error(vectors, centres, codes))


def test_balanced_codes_refuse_nan():
    with pytest.raises(ValueError, match="not finite"):
        balanced_codes(torch.tensor([[1.0], [float("nan")]]), torch.tensor([[1.0], [2.0]]))


def test_balanced_kmeans_repeats_and_serves_its_codes_better():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2000, 4, generator=generator) ** 3
    plain, balanced = kmeans(vectors, 8, 20, seed=0), balanced_kmeans(vectors, 8, 20, seed=0)
    assert torch.equal(balanced, balanced_kmeans(vectors, 8, 20, seed=0))
    ours, theirs = (error(vectors, centres, balanced_codes(vectors, centres)) for centres in (balanced, plain))
    assert ours < theirs
