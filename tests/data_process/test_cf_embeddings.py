"""Collaborative embeddings: groups show, and the items of validation and test do not leak in."""

import json

import numpy as np
import pytest

from data_process.cf_embeddings import CollaborativeConfig, extract, mutual_information
from src.common.artifacts import load_embeddings


@pytest.fixture
def dataset(tmp_path):
    """Users stay inside items 0-9 or 10-19; item 20 is always the last one, so no training part has it."""
    rng = np.random.default_rng(0)
    users = {str(user): [*(10 * (user % 2) + rng.permutation(10)[:6]).tolist(), 20] for user in range(60)}
    folder = tmp_path / "Two"
    folder.mkdir()
    items = {
        str(item): {"title": f"item {item}", "description": "", "brand": "", "categories": ""} for item in range(21)
    }
    (folder / "Two.inter.json").write_text(json.dumps(users))
    (folder / "Two.item.json").write_text(json.dumps(items))
    return CollaborativeConfig(dataset="Two", data_path=tmp_path, dim=2)


def test_groups_show_and_test_items_do_not_leak(dataset):
    vectors, item_ids = load_embeddings(extract(dataset))
    assert item_ids == list(range(20))
    cosines = vectors @ vectors.T / np.outer(*2 * [np.linalg.norm(vectors, axis=1)])
    assert cosines[:10, :10].min() > 0.9 > 0.2 > np.abs(cosines[:10, 10:]).max()


def test_more_dimensions_than_items_are_refused(dataset):
    with pytest.raises(ValueError, match="--dim must be below"):
        extract(CollaborativeConfig(dataset="Two", data_path=dataset.data_path, dim=20))


def test_mutual_information_of_a_known_table():
    from scipy import sparse

    counts = np.array([[0.0, 4, 0], [4, 0, 1], [0, 1, 0]])
    expected = np.zeros((3, 3))
    for i, j in np.argwhere(counts):
        expected[i, j] = max(0, np.log(counts[i, j] * counts.sum() / (counts[i].sum() * counts[:, j].sum())))
    assert np.allclose(mutual_information(sparse.csr_array(counts)).toarray(), expected)
