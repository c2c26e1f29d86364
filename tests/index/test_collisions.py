"""Unique SIDs: every way in which a catalogue can be crowded, against brute force where that is possible."""

from itertools import permutations

import numpy as np
import pytest

from index.collisions import quantization_error, resolve_collisions
from index.metrics import measure, prefix_groups


def quantize(latents, codebooks):
    residual, codes = latents, []
    for codebook in codebooks:
        codes.append(((residual[:, None] - codebook) ** 2).sum(2).argmin(1))
        residual = residual - codebook[codes[-1]]
    return np.stack(codes, 1)


def example(num_items, sizes, seed=0, width=3):
    rng = np.random.default_rng(seed)
    codebooks = [rng.normal(size=(size, width)) / 2**level for level, size in enumerate(sizes)]
    latents = rng.normal(size=(num_items, width))
    return latents, codebooks, quantize(latents, codebooks)


def is_unique(codes):
    return len(np.unique(codes, axis=0)) == len(codes)


@pytest.mark.parametrize("method", ["assign", "sinkhorn", "suffix"])
@pytest.mark.parametrize("num_items", [5, 60, 64])
def test_sids_are_unique_and_repeatable(method, num_items):
    latents, codebooks, codes = example(num_items, (4, 4, 4))
    first = resolve_collisions(latents, codebooks, codes, method)
    assert is_unique(first.codes)
    assert np.array_equal(first.codes, resolve_collisions(latents, codebooks, codes, method).codes)
    assert (first.codes[:, :3] < 4).all()
    assert first.suffix_size == (first.codes[:, -1].max() + 1 if method == "suffix" else 0)


def test_none_leaves_collisions():
    latents, codebooks, codes = example(60, (4, 4, 4))
    assert np.array_equal(resolve_collisions(latents, codebooks, codes, "none").codes, codes)


@pytest.mark.parametrize("method", ["assign", "sinkhorn", "suffix"])
def test_identical_embeddings_separate(method):
    latents, codebooks, codes = example(1, (4, 4, 4))
    latents, codes = latents.repeat(40, 0), codes.repeat(40, 0)  # 40 items in a prefix of 16: spills two levels up
    result = resolve_collisions(latents, codebooks, codes, method)
    assert is_unique(result.codes)
    assert (result.num_spilled >= 24) == (method != "suffix")


def test_overfull_prefix_spills_as_few_as_possible():
    rng = np.random.default_rng(1)
    codebooks = [np.array([[0.0], [10.0], [-30.0]]), rng.normal(size=(4, 1))]
    latents = rng.normal(size=(6, 1))
    codes = quantize(latents, codebooks)
    assert (codes[:, 0] == 0).all()
    result = resolve_collisions(latents, codebooks, codes)
    assert is_unique(result.codes)
    assert result.num_spilled == 2
    spilled = result.codes[:, 0] != 0
    assert (result.codes[spilled, 0] == 1).all()  # the nearer of the two siblings
    assert latents[spilled].min() >= latents[~spilled].max()  # and those move for whom it is nearest


def test_full_code_space_gets_a_suffix_level():
    latents, codebooks, codes = example(65, (4, 4, 4))
    result = resolve_collisions(latents, codebooks, codes)
    assert result.codes.shape == (65, 4)
    assert is_unique(result.codes)
    assert np.array_equal(result.codes[:, :3], codes)  # nobody moves
    assert result.suffix_size == np.bincount(prefix_groups(codes, 3)).max()
    assert (result.codes[:, 3] == 0).sum() == measure(codes, (4, 4, 4)).num_sids  # one item of each SID has suffix 0


@pytest.mark.parametrize("seed", range(5))
def test_assign_is_the_best_of_all_assignments(seed):
    latents, codebooks, codes = example(4, (5,), seed)
    codes[:] = codes[0]
    result = resolve_collisions(latents, codebooks, codes)
    best = min(
        quantization_error(latents, codebooks, np.array(chosen)[:, None]) for chosen in permutations(range(5), 4)
    )
    assert quantization_error(latents, codebooks, result.codes) == pytest.approx(best)


def test_items_of_other_prefixes_keep_their_codes():
    latents, codebooks, codes = example(30, (8, 8, 8))
    result = resolve_collisions(latents, codebooks, codes)
    prefix, whole = prefix_groups(codes, 2), prefix_groups(codes, 3)
    crowded = np.isin(prefix, prefix[np.bincount(whole)[whole] > 1])
    assert crowded.any()
    assert np.array_equal(result.codes[~crowded], codes[~crowded])
    assert np.array_equal(result.codes[:, :2], codes[:, :2])
    assert result.num_moved == (result.codes != codes).any(1).sum()


def test_reserved_sids_are_left_alone():
    latents, codebooks, codes = example(64, (4, 4, 4))
    old = resolve_collisions(latents[:40], codebooks, codes[:40]).codes
    new = resolve_collisions(latents[40:], codebooks, codes[40:], reserved=old)
    assert is_unique(np.concatenate([old, new.codes]))
    more, _, more_codes = example(1, (4, 4, 4), seed=9)
    with pytest.raises(ValueError, match="larger codebooks"):
        resolve_collisions(more, codebooks, more_codes, reserved=np.concatenate([old, new.codes]))


def test_reserved_suffixes_go_on():
    latents, codebooks, codes = example(65, (4, 4, 4))
    old = resolve_collisions(latents[:50], codebooks, codes[:50], "suffix").codes
    new = resolve_collisions(latents[50:], codebooks, codes[50:], reserved=old)
    assert is_unique(np.concatenate([old, new.codes]))


def test_many_items_are_quick():
    latents, codebooks, codes = example(30_000, (32, 32, 64), width=4)
    assert is_unique(resolve_collisions(latents, codebooks, codes).codes)


def test_measures_of_known_codes():
    codes = np.array([[0, 0], [0, 0], [1, 0], [2, 1]])
    metrics = measure(codes, (4, 2))
    assert metrics.collision_rate == pytest.approx(0.25)
    assert (metrics.colliding_items, metrics.colliding_groups, metrics.largest_group) == (2, 1, 2)
    assert metrics.utilization == (0.75, 1.0)
    assert metrics.perplexity[0] == pytest.approx(np.exp(-(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))))


def test_prefix_groups_survive_a_huge_code_space():
    codes = np.random.default_rng(0).integers(1 << 20, size=(50, 12))
    codes[7] = codes[3]
    groups = prefix_groups(codes, 12)
    assert len(np.unique(groups)) == 49
    assert groups[7] == groups[3]
