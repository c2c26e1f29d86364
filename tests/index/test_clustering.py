"""K-means and the nearest codewords against slow, plain versions."""

import pytest
import torch
from sklearn.cluster import KMeans

from index.clustering import kmeans, lloyd, nearest_codes, squared_distances


def mean_error(vectors, centres):
    return float(squared_distances(vectors, centres).amin(1).mean())


@pytest.mark.parametrize(("num_rows", "size"), [(1, 5), (3000, 300), (10, 1)])
def test_nearest_codes_are_the_first_of_the_nearest(num_rows, size):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_rows, 4, generator=generator)
    codebook = torch.randn(size, 4, generator=generator)
    codebook = torch.cat([codebook, codebook])  # each codeword twice
    expected = (vectors[:, None].double() - codebook.double()).square().sum(2)[:, :size].argmin(1)
    assert torch.equal(nearest_codes(vectors, codebook), expected)
    assert torch.equal(nearest_codes(vectors.double(), codebook.double()), expected)


def test_nearest_codes_stay_codes_whatever_the_rows():
    """The search once had no answer for a row of NaN but a code beyond the last."""
    codes = nearest_codes(torch.tensor([[float("nan"), 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    assert codes[0] in (0, 1)
    assert codes[1] == 1
    assert nearest_codes(torch.empty(0, 2), torch.zeros(3, 2)).shape == (0,)


def test_kmeans_finds_clusters_and_repeats():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 8, generator=generator) * 10
    for repeats in (30, 300):  # Lloyd's alone, and after small steps
        vectors = truth.repeat(repeats, 1) + 0.01 * torch.randn(20 * repeats, 8, generator=generator)
        centres = kmeans(vectors, 20, 100, seed=0)
        assert squared_distances(truth, centres).amin(1).max() < 0.01
        assert torch.equal(centres, kmeans(vectors, 20, 100, seed=0))
        assert len(nearest_codes(vectors, centres).unique()) == 20


@pytest.mark.parametrize("num_rows", [500, 6000])
def test_kmeans_is_as_good_as_that_of_scikit_learn(num_rows):
    """On clusters of clusters, and on clusters of very different sizes, some of few rows."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(16, 1, 12, generator=generator)
    fine = (coarse + 0.5 * torch.randn(16, 8, 12, generator=generator)).reshape(-1, 12)
    uneven = (torch.rand(num_rows, generator=generator) ** 3 * 128).long()
    for kinds in (torch.randint(128, (num_rows,), generator=generator), uneven):
        vectors = fine[kinds] + 0.2 * torch.randn(num_rows, 12, generator=generator)
        ours = sum(mean_error(vectors, kmeans(vectors, 32, 100, seed)) for seed in range(3))
        fits = [KMeans(32, max_iter=100, random_state=seed).fit(vectors.numpy()) for seed in range(3)]
        theirs = sum(mean_error(vectors, torch.from_numpy(fit.cluster_centers_)) for fit in fits)
        assert ours < 1.01 * theirs


def test_kmeans_of_few_distinct_rows():
    vectors = torch.eye(3).repeat(100, 1)
    assert mean_error(vectors, kmeans(vectors, 5, 100, seed=0)) < 1e-6


def test_lloyd_moves_a_lost_centre_to_the_farthest_row():
    vectors = torch.tensor([[0.0], [0.1], [5.0], [9.0]])
    centres = lloyd(vectors, torch.tensor([[0.0], [8.0], [100.0]]), 10)
    assert torch.allclose(centres.sort(0).values, torch.tensor([[0.05], [5.0], [9.0]]))


def test_kmeans_needs_a_row_for_each_codeword():
    with pytest.raises(ValueError, match="--large_scale_kmeans"):
        kmeans(torch.randn(5, 2), 8, 10, seed=0)
