"""K-means and Sinkhorn-Knopp against slow, plain versions."""

import pytest
import torch

from index.clustering import kmeans, nearest_codes, squared_distances
from index.transport import sinkhorn_codes


def sinkhorn_as_a_loop(distances, epsilon, num_iterations):
    middle = (distances.max() + distances.min()) / 2
    plan = torch.exp(-((distances - middle) / (distances.max() - middle + 1e-5)).double() / epsilon)
    plan /= plan.sum()
    for _ in range(num_iterations):
        plan /= plan.sum(1, keepdim=True) * len(plan)
        plan /= plan.sum(0, keepdim=True) * plan.shape[1]
    return plan.argmax(1)


@pytest.mark.parametrize("epsilon", [0.003, 0.05, 1.0])
def test_sinkhorn_agrees_with_the_loop(epsilon):
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(200, 16, generator=generator)
    expected = sinkhorn_as_a_loop(distances, epsilon, 50)
    assert torch.equal(sinkhorn_codes(distances, epsilon, 50), expected)
    both = sinkhorn_codes(torch.stack([distances, distances.flip(0)]), epsilon, 50)  # problems side by side
    assert torch.equal(both, torch.stack([expected, expected.flip(0)]))


def test_sinkhorn_balances_and_survives_a_tiny_epsilon():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(256, 4, generator=generator)
    distances = squared_distances(vectors, torch.randn(8, 4, generator=generator))
    counts = torch.bincount(sinkhorn_codes(distances, 0.01, 200), minlength=8)
    assert (counts - 32).abs().max() <= 4
    assert sinkhorn_codes(distances, 1e-5, 50).max() < 8


def test_kmeans_finds_clusters_and_repeats():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 8, generator=generator) * 10
    vectors = truth.repeat(30, 1) + 0.01 * torch.randn(600, 8, generator=generator)
    centres = kmeans(vectors, 20, 100, seed=0)
    assert squared_distances(truth, centres).amin(1).max() < 0.01
    assert torch.equal(centres, kmeans(vectors, 20, 100, seed=0))
    assert len(nearest_codes(vectors, centres).unique()) == 20


def test_kmeans_needs_a_row_for_each_codeword():
    with pytest.raises(ValueError, match="--large_scale_kmeans"):
        kmeans(torch.randn(5, 2), 8, 10, seed=0)
