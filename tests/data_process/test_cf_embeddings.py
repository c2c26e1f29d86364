"""Collaborative embeddings: groups show, and the items of validation and test do not leak in."""

import json

import numpy as np
import pytest
import torch

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


# ---- SASRec ----------------------------------------------------------------------------------------------------------
def test_item_vectors_of_a_trained_sasrec(dataset, tmp_path):
    from src.baselines.core import run_baseline
    from src.baselines.sasrec import SASRecConfig

    results = tmp_path / "results" / "sasrec.json"
    small = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "max_his_len": 5, "epochs": 2, "device": "cpu"}
    run_baseline("sasrec", SASRecConfig(dataset="Two", data_path=dataset.data_path, results_file=results, **small))
    checkpoint = tmp_path / "results" / "sasrec.model" / "last.pth"
    config = CollaborativeConfig(dataset="Two", data_path=dataset.data_path, sasrec_path=checkpoint)
    path = extract(config)
    vectors, item_ids = load_embeddings(path)
    assert (path.name, item_ids) == ("Two.emb-sasrec.npy", list(range(20)))  # item 20 trains nobody
    weights = torch.load(checkpoint, weights_only=True)["best_weights"]["items.weight"]
    np.testing.assert_array_equal(vectors, weights[1:21].numpy())

    with pytest.raises(ValueError, match="--dim 4: a SASRec has its own width"):
        CollaborativeConfig(dataset="Two", sasrec_path=checkpoint, dim=4)
    record = json.loads(results.read_text())
    results.write_text(json.dumps({**record, "dataset": "Other"}))
    with pytest.raises(ValueError, match="was trained on Other"):
        extract(config)
    results.unlink()
    torch.save({"best_weights": {"items.weight": weights[:-1]}}, checkpoint)
    with pytest.raises(ValueError, match="knows 20 items, Two has 21"):
        extract(config)
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no checkpoint of SASRec"):
        extract(config)
    checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match=r"python -m src\.baselines\.sasrec"):
        extract(config)
