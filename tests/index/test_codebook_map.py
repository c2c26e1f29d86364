"""Codewords on a map, what they mean, and the prefixes with most items."""

import numpy as np
import pytest

from index.codebook_map import (
    Meaning,
    all_meanings,
    codebook_maps,
    crowded_prefixes,
    flat_map,
    meanings,
    named_prefixes,
)
from src.common.codebooks import codebooks_path, save_codebooks
from src.common.sid import SidIndex

CODES = np.array([[0, 0], [0, 1], [0, 1], [2, 0], [2, 1], [0, 3]])


def test_near_codewords_stay_near():
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(3, 8)
    book = np.repeat(centres, 10, 0) + 0.1 * rng.normal(size=(30, 8))
    places = flat_map(book)
    assert places.shape == (30, 2)
    group = np.repeat(np.arange(3), 10)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(30)
    assert (group[distances.argmin(1)] == group).all()
    np.testing.assert_array_equal(places, flat_map(book))  # seeded
    with pytest.raises(ValueError, match="3 codewords is too small"):
        flat_map(book[:3])


def test_codebooks_that_are_missing_are_said(tmp_path):
    index = SidIndex(np.arange(6), CODES, ("a", "b"), (4, 4), tmp_path / "Toy.index_x.json")
    with pytest.raises(ValueError, match=r"Toy\.index_x\.json has no codebooks .*bash index/generate\.sh"):
        codebook_maps(index)
    books = np.random.default_rng(0).normal(size=(2, 4, 3))
    save_codebooks(codebooks_path(index.path), books)
    assert [places.shape for places in codebook_maps(index)] == [(4, 2)] * 2


def test_meanings_equal_a_count_by_hand():
    labels = ["cup", "cup", "hat", "hat", "hat", ""]
    assert meanings(CODES[:, 0], 4, labels) == [
        Meaning(4, "cup", 0.5), Meaning(0, "", 0), Meaning(2, "hat", 1), Meaning(0, "", 0)
    ]  # fmt: skip
    both = all_meanings(CODES, (4, 4), ["cup, red", "cup", *["hat, blue"] * 3, ""])
    assert both[0] == meanings(CODES[:, 0], 4, labels)
    assert both[1][1] == Meaning(3, "hat", pytest.approx(2 / 3))
    assert [row.label for row in all_meanings(CODES, (4, 4), None)[0]] == [""] * 4


def test_crowded_prefixes():
    first, second = crowded_prefixes(CODES, 1, 9)
    assert (first.codes, first.rows.tolist()) == ((0,), [0, 1, 2, 5])
    assert (second.codes, second.rows.tolist()) == ((2,), [3, 4])
    below = crowded_prefixes(CODES, 2, 2, below=(0,))
    assert [(prefix.codes, prefix.rows.tolist()) for prefix in below] == [((0, 1), [1, 2]), ((0, 0), [0])]
    assert crowded_prefixes(CODES, 2, 5, below=(1,)) == []
    named = named_prefixes([first, below[1]], 10 * np.arange(6), ("a", "b"), each=3)
    assert named == {"<a_0>, 4 items": [0, 10, 20], "<a_0><b_0>, 1 item": [0]}
    for length, prefix in ((0, ()), (3, ()), (1, (0, 1))):
        with pytest.raises(ValueError, match="there are none"):
            crowded_prefixes(CODES, length, 3, prefix)
