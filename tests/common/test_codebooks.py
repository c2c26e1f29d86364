"""Codebooks beside an index, and items as sums of their codewords."""

import numpy as np
import pytest

from src.common.codebooks import codebooks_path, load_codebooks, save_codebooks, sid_vectors
from src.common.sid import SidIndex


@pytest.fixture
def index(tmp_path):
    codes = np.array([[0, 1, 0], [1, 2, 0], [1, 2, 1]])  # the last level is an added suffix
    return SidIndex(np.array([3, 5, 9]), codes, ("a", "b", "c"), (2, 3, 2), tmp_path / "Toy.index_x.json")


def test_items_are_sums_of_codewords(index):
    books = [np.array([[1.0, 0], [2, 0]]), np.array([[0, 0], [0, 0.25], [0, 0.5]])]
    save_codebooks(codebooks_path(index.path), books)
    loaded = load_codebooks(index)
    assert [book.dtype for book in loaded] == [np.float32] * 2
    np.testing.assert_array_equal(loaded[1], books[1])
    np.testing.assert_array_equal(sid_vectors(index, [9, 3]), [[2, 0.5], [1, 0.25]])


def test_codebooks_of_another_grid_are_none(index):
    assert load_codebooks(index) == []
    save_codebooks(codebooks_path(index.path), [np.zeros((5, 2)), np.zeros((3, 2))])
    assert load_codebooks(index) == []
    with pytest.raises(ValueError, match=r"Toy\.index_x\.codebooks\.safetensors"):
        sid_vectors(index, [3])
