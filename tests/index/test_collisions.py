"""Unique SIDs: every way in which a catalogue can be crowded, against brute force where that is possible."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from index import collisions
from index.collisions import quantization_error, resolve_collisions
from index.metrics import measure, prefix_groups
from index.transport import sinkhorn_codes


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


def best_last_codes(latents, codebooks, codes, reserved):
    """The assignment of least error inside each prefix that holds a collision, prefix by prefix."""
    *coarse, last = codebooks
    expected = codes.copy()
    for prefix in np.unique(codes[:, :-1], axis=0):
        rows = np.flatnonzero((codes[:, :-1] == prefix).all(1))
        taken = reserved[(reserved[:, :-1] == prefix).all(1), -1]
        if len(np.unique(np.r_[codes[rows, -1], taken])) == len(rows) + len(taken):
            continue
        residual = latents[rows] - sum(book[code] for book, code in zip(coarse, prefix, strict=True))
        free = np.setdiff1d(np.arange(len(last)), taken)
        costs = ((residual[:, None] - last[free]) ** 2).sum(2)
        expected[rows, -1] = free[linear_sum_assignment(costs)[1]]
    return expected


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


def test_spilled_items_take_the_nearest_deeper_codes():
    codebooks = [np.array([[0.0], [10.0]]), np.array([[-8.0], [-1.0], [0.0], [1.0]])]
    latents = np.array([[-1.0], [0.0], [1.0], [0.5], [2.2]])
    result = resolve_collisions(latents, codebooks, quantize(latents, codebooks))
    assert result.num_spilled == 1
    assert result.codes[4].tolist() == [1, 0]  # 10 - 8


def test_the_last_place_of_a_sibling_goes_to_the_item_it_suits_best():
    codebooks = [np.array([[0.0], [20.0], [10.5], [100.0]]), np.array([[0.0]])]  # one item for each code
    latents = np.array([[-1.0], [2.0], [21.0], [15.3]])
    codes = quantize(latents, codebooks)
    assert codes[:, 0].tolist() == [0, 0, 1, 1]
    assert resolve_collisions(latents, codebooks, codes).codes[:, 0].tolist() == [0, 3, 1, 2]


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


def test_the_error_by_hand():
    codebooks = [np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([[0.0, 1.0]])]
    latents = np.array([[0.0, 1.0], [4.0, 3.0], [1.0, 0.0]])
    assert quantization_error(latents, codebooks, np.array([[0, 0], [1, 0], [0, 0]])) == pytest.approx((0 + 4 + 2) / 3)


def test_sinkhorn_spreads_a_group_as_it_does_alone():
    """Where it settles a group in its first round, assignment leaves what it chose."""
    codebooks = [np.zeros((1, 1)), np.array([[0.0], [1.0], [2.0], [3.0]])]
    latents = np.array([[0.1], [0.2], [0.3], [0.4]])
    codes = np.zeros((4, 2), np.int64)
    distances = torch.from_numpy((latents - codebooks[1].T) ** 2)
    alone = sinkhorn_codes(distances, 0.003, 50)
    assert len(alone.unique()) == 4
    result = resolve_collisions(latents, codebooks, codes, "sinkhorn")
    assert result.codes[:, 1].tolist() == alone.tolist()


def test_codes_beyond_16_bits_are_told_apart():
    """Sorted as 16-bit numbers, 3 and 65,539 would be one code."""
    codebooks = [np.arange(65_540.0)[:, None]]
    latents = np.array([[3.0], [65_539.0], [7.0]])
    result = resolve_collisions(latents, codebooks, np.array([[3], [65_539], [7]]))
    assert result.codes[:, 0].tolist() == [3, 65_539, 7]
    assert result.num_moved == 0


@settings(deadline=None, max_examples=60)
@given(
    num_items=st.integers(1, 150),
    num_reserved=st.integers(0, 20),
    sizes=st.sampled_from([(3, 4, 40), (6, 30), (200,)]),
    width=st.sampled_from([1, 3, 40]),
    chunk=st.sampled_from([1, 7, 4096]),
    seed=st.integers(0, 2**16),
)
def test_every_prefix_gets_its_best_assignment(num_items, num_reserved, sizes, width, chunk, seed):
    """However many groups of whatever sizes, beside reserved SIDs, and however they fall into chunks."""
    latents, codebooks, codes = example(num_items, sizes, seed, width)
    _, _, reserved = example(num_reserved, sizes, seed + 1, width)
    reserved = np.unique(reserved, axis=0)
    everything = prefix_groups(np.concatenate([codes, reserved]), len(sizes) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collisions, "CHUNK", chunk)
        result = resolve_collisions(latents, codebooks, codes, reserved=reserved)
    assert is_unique(np.concatenate([result.codes, reserved]))
    if np.bincount(everything).max() > sizes[-1]:
        assert result.num_spilled > 0
        return
    assert result.num_spilled == 0
    expected = best_last_codes(latents, codebooks, codes, reserved)
    assert quantization_error(latents, codebooks, result.codes) == pytest.approx(
        quantization_error(latents, codebooks, expected), rel=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(
    num_items=st.integers(1, 60),
    num_copies=st.integers(0, 60),
    chunk=st.sampled_from([1, 5, 4096]),
    seed=st.integers(0, 99),
)
def test_spilling_always_finds_room(num_items, num_copies, chunk, seed):
    latents, codebooks, codes = example(num_items, (4, 4, 4), seed)
    latents[:num_copies], codes[:num_copies] = latents[0], codes[0]
    reserved = np.array(list(np.ndindex(4, 4, 4)))[np.random.default_rng(seed).permutation(64)[: 64 - num_items]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collisions, "CHUNK", chunk)
        result = resolve_collisions(latents, codebooks, codes, reserved=reserved)
    assert is_unique(np.concatenate([result.codes, reserved]))  # which are all SIDs there are
    assert len(result.codes) == num_items


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


@pytest.mark.timeout(20)
@pytest.mark.parametrize("method", ["assign", "sinkhorn"])
def test_half_of_all_items_may_be_identical(method):
    """Every over-full prefix used to be looked up among all items, and its surplus moved a few items at a time."""
    latents, codebooks, codes = example(20_000, (32, 32, 64), width=4)
    latents[::2], codes[::2] = latents[0], codes[0]
    result = resolve_collisions(latents, codebooks, codes, method)
    assert is_unique(result.codes)
    assert result.num_spilled >= 10_000 - 64


def test_latents_stay_where_they_are(tmp_path):
    """They may be a memory map larger than the memory: only chunks of them are ever copied."""
    latents, codebooks, codes = example(60_000, (32, 64, 64), width=4)
    wide = np.lib.format.open_memmap(tmp_path / "latents.npy", "w+", np.float32, (len(latents), 256))
    wide[:, :4] = latents
    codebooks = [np.pad(codebook, ((0, 0), (0, 252))).astype(np.float32) for codebook in codebooks]
    wide = np.load(tmp_path / "latents.npy", mmap_mode="r")
    tracemalloc.start()
    result = resolve_collisions(wide, codebooks, codes)
    quantization_error(wide, codebooks, result.codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert is_unique(result.codes)
    assert result.num_moved > 10_000
    assert peak < wide.nbytes


def test_nothing_new_beside_reserved_sids():
    latents, codebooks, codes = example(5, (4, 4, 4))
    for method in ("assign", "sinkhorn", "suffix", "none"):
        reserved = resolve_collisions(latents, codebooks, codes, method).codes
        assert len(resolve_collisions(latents[:0], codebooks, codes[:0], method, reserved).codes) == 0


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
