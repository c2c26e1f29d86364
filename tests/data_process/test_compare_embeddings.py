"""The table of embeddings: known neighbours, exact chance, and what is left out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_process.compare_embeddings import CompareConfig, Share, compare, formatted, nearest_rows, retrieval
from src.common.artifacts import save_embeddings
from src.tasks.catalogue import load_catalogue

NUM_ITEMS = 24


@pytest.fixture
def data(tmp_path):
    """Two categories of twelve items; users stay within items of the same parity; the last item trains nobody."""
    folder = tmp_path / "Two"
    folder.mkdir()
    items = {
        str(item): {"title": f"item {item}", "brand": "one", "categories": f"shop, {'ab'[item // 12]}"}
        for item in range(NUM_ITEMS)
    }
    rng = np.random.default_rng(0)
    users = {str(user): (user % 2 + 2 * rng.permutation(12)[:8]).tolist() for user in range(200)}
    (folder / "Two.inter.json").write_text(json.dumps(users))
    (folder / "Two.item.json").write_text(json.dumps(items))
    return tmp_path


def groups(labels):
    """Vectors of which those of one label point the same way, nearly."""
    rng = np.random.default_rng(1)
    return (np.eye(2)[labels] + 0.01 * rng.normal(size=(len(labels), 2))).astype(np.float32)


def test_each_relation_is_found_where_it_is(data):
    items = np.arange(NUM_ITEMS)
    catalogue = load_catalogue(data, "Two")
    by_category = retrieval(groups(items // 12), items.tolist(), catalogue, 100, 0)
    by_buyers = retrieval(groups(items % 2), items.tolist(), catalogue, 100, 0)
    assert set(by_category) == {"category", "co-transition"}  # one brand tells nothing
    assert by_category["category"] == Share(1.0, pytest.approx(11 / 23), 24)
    assert by_buyers["co-transition"].found == 1.0  # 200 users have met every pair
    assert by_buyers["co-transition"].chance == pytest.approx(11 / 23)
    assert by_category["co-transition"].found < 0.6
    assert by_buyers["category"].found < 0.6


def test_chance_is_what_random_vectors_find(data):
    vectors = np.random.default_rng(2).normal(size=(NUM_ITEMS, 64)).astype(np.float32)
    for share in retrieval(vectors, list(range(NUM_ITEMS)), load_catalogue(data, "Two"), 100, 0).values():
        assert share.found == pytest.approx(share.chance, abs=0.1)


def test_a_subset_of_the_items_in_another_order(data):
    items = np.array([23, 1, 4, 14, 9, 20, 6, 11, 16, 2, 19, 13])
    shares = retrieval(groups(items % 2), items.tolist(), load_catalogue(data, "Two"), 100, 0)
    odd = (items % 2).sum()
    chance = np.mean([(odd if item % 2 else 12 - odd) - 1 for item in items]) / 11
    assert shares["co-transition"].chance == pytest.approx(chance)


def test_an_item_is_never_its_own_neighbour():
    vectors = np.ones((30, 4), np.float32)
    near = nearest_rows(vectors, np.arange(30), 10)
    assert not (near == np.arange(30)[:, None]).any()
    assert all(len(set(row)) == 10 for row in near.tolist())


def test_the_entry_writes_and_refuses(data, tmp_path, capsys):
    items = np.arange(NUM_ITEMS)
    paths = [tmp_path / "Two.emb-a.npy", tmp_path / "Two.emb-b.npy"]
    for path, labels in zip(paths, (items // 12, items % 2), strict=True):
        save_embeddings(path, groups(labels), items)
    config = CompareConfig(dataset="Two", data_path=data, inputs=tuple(paths), json=tmp_path / "table.json")
    compare(config)
    out = capsys.readouterr().out
    assert "1.000 (0.478)" in out
    assert json.loads((tmp_path / "table.json").read_text())["rows"]["a"]["category"]["found"] == 1.0
    save_embeddings(paths[0], groups(items // 12), items + 1)
    with pytest.raises(ValueError, match="1 items that Two lacks, the first being 24"):
        compare(config)
    with pytest.raises(ValueError, match="two files named 'b'"):
        compare(CompareConfig(dataset="Two", data_path=data, inputs=(paths[1], paths[1])))
    save_embeddings(paths[0], groups(items % 2)[:8], items[:8])
    with pytest.raises(ValueError, match="8 items are too few"):
        compare(config)


def test_a_relation_that_one_file_lacks_is_a_dash():
    share = SimpleNamespace(found=0.5, chance=0.1)
    assert formatted({"a": {"category": share}, "b": {}}).splitlines()[2].split() == ["b", "-"]
