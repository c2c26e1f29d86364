"""Embeddings side by side: rows aligned by item, nearest items in order, common neighbours, SIDs among them."""

from dataclasses import replace

import numpy as np
import pytest

from data_process.embedding_views import (
    SID,
    agreement,
    aligned_embeddings,
    embedding_files,
    nearest_items,
    neighbour_rows,
    shares_of,
)
from src.common.artifacts import save_embeddings
from src.common.codebooks import codebooks_path, save_codebooks
from tests.toy import CODEBOOK_SIZES, NAME, NUM_ITEMS, toy_catalogue, toy_copy


@pytest.fixture
def catalogue(tmp_path):
    """The toy, which a test may write to."""
    paths = replace(toy_catalogue().paths, data_path=toy_copy(tmp_path))
    index = replace(toy_catalogue().sid_index, path=tmp_path / "Toy.index_simple.json")
    return replace(toy_catalogue(), paths=paths, sid_index=index)


def test_rows_are_aligned_by_item(catalogue):
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    order = np.random.default_rng(1).permutation(NUM_ITEMS)
    save_embeddings(catalogue.paths.file("emb-text.npy"), vectors[order], order.tolist())
    books = [np.random.default_rng(2).normal(size=(size, 3)) for size in CODEBOOK_SIZES]
    save_codebooks(codebooks_path(catalogue.sid_index.path), books)
    files = embedding_files(catalogue.paths)
    table = aligned_embeddings(files, catalogue)
    assert list(table) == ["text", SID]
    np.testing.assert_array_equal(table["text"], vectors)
    codes = catalogue.sid_index.codes[7]
    np.testing.assert_allclose(table[SID][7], sum(b[c] for b, c in zip(books, codes, strict=True)), rtol=1e-5)
    assert list(aligned_embeddings(files, replace(catalogue, sid_index=None))) == ["text"]
    assert shares_of(table, catalogue).keys() == table.keys()

    with pytest.raises(ValueError, match="named 'text' already"):
        aligned_embeddings([*files, *files], catalogue)
    save_embeddings(catalogue.paths.file("emb-text.npy"), vectors[:30], list(range(30)))
    with pytest.raises(ValueError, match=r"emb-text\.npy lacks 10 of 40 items of Toy, the first being 30"):
        aligned_embeddings(files, catalogue)


def test_no_embeddings_and_the_remedy(catalogue):
    with pytest.raises(FileNotFoundError, match=rf"Toy has no Toy\.emb-\*\.npy: .* --dataset {NAME}"):
        embedding_files(catalogue.paths)


def test_nearest_first():
    angles = np.array([0.0, 0.5, 0.1, 3.0, 0.3])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [9], [2], [5], [0.1]])
    item_ids = np.array([10, 20, 30, 40, 50])
    assert nearest_items(vectors, item_ids, 10, 3) == [30, 50, 20]
    assert nearest_items(vectors, item_ids, 40, 9) == [20, 50, 30, 10]
    for item in (15, 60):
        with pytest.raises(ValueError, match=f"no item {item}: they are numbered 10 to 50"):
            nearest_items(vectors, item_ids, item)


def test_agreement():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8))
    table = {"one": vectors, "turned": 3 * vectors @ np.linalg.qr(rng.normal(size=(8, 8)))[0]}
    shares = agreement({**table, "other": rng.normal(size=(300, 8))}, num_queries=100)
    assert shares.shape == (3, 3)
    np.testing.assert_allclose(shares[:2, :2], 1)
    np.testing.assert_allclose(shares, shares.T)
    assert shares[0, 2] == pytest.approx(10 / 299, abs=0.03)
    rows = neighbour_rows({"one": vectors[:NUM_ITEMS]}, toy_catalogue(), 3, k=4)
    assert rows["item 3"] == [3]
    assert len(rows["one"]) == 4
