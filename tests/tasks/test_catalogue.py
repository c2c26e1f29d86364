"""Splits and counts by hand."""

import json

import numpy as np
import pytest

from src.tasks.catalogue import load_catalogue
from tests.baselines.test_baselines import write_dataset
from tests.toy import INDEX_FILE, NAME, sequence, toy_catalogue, toy_copy

VALID, TEST = [0, 8, 31], [1, 12, 23]  # of the items 0 to 39, by the hash of their ids
SEQUENCES = {"one": [4], "two": [4, 1], "three": [0, 1, 2], "five": [3, 2, 1, 0, 3]}


@pytest.fixture
def small(tmp_path):
    write_dataset(tmp_path, "T", SEQUENCES)
    return load_catalogue(tmp_path, "T")


def pairs(catalogue, split):
    """(user, history, target) of each example."""
    return [
        (catalogue.users[u], catalogue.history(u, p).tolist(), catalogue.target(u, p))
        for u, p in zip(*catalogue.next_item_targets(split), strict=True)
    ]


def test_leave_one_out(small):
    assert pairs(small, "test") == [("three", [0, 1], 2), ("five", [3, 2, 1, 0], 3)]
    assert pairs(small, "valid") == [("three", [0], 1), ("five", [3, 2, 1], 0)]
    assert pairs(small, "train") == [("two", [4], 1), ("five", [3], 2), ("five", [3, 2], 1)]


def test_leave_one_out_knows_itself(small):
    assert small.is_leave_one_out


def test_an_unknown_item_is_told_with_its_user(tmp_path):
    write_dataset(tmp_path, "T", SEQUENCES)
    path = tmp_path / "T" / "T.inter.json"
    path.write_text(json.dumps({"one": [4], "two": [99, 1], "three": [0, 1, 98]}))
    with pytest.raises(ValueError, match=r"user 'two' has item 99, which .*item\.json lacks \(2 such entries\)"):
        load_catalogue(tmp_path, "T")


def test_an_index_of_more_items_than_there_are_is_told(tmp_path, caplog):
    """A dataset that was made anew with fewer items used to take the SIDs of others from an old index."""
    path = toy_copy(tmp_path) / NAME
    load_catalogue(path.parent, NAME, INDEX_FILE)
    assert "has SIDs of" not in caplog.text
    items = json.loads((path / f"{NAME}.item.json").read_text())
    sequences = json.loads((path / f"{NAME}.inter.json").read_text())
    (path / f"{NAME}.item.json").write_text(json.dumps({key: items[key] for key in items if int(key) < 30}))
    kept = {user: [item for item in part if item < 30] for user, part in sequences.items()}
    (path / f"{NAME}.inter.json").write_text(json.dumps(kept))
    load_catalogue(path.parent, NAME, INDEX_FILE)
    assert "has SIDs of 10 items that" in caplog.text


def test_popularity_counts_training_parts_only(small):
    """Users with one or two items train; of `three` and `five` the last two items do not count."""
    assert small.popularity.tolist()[:5] == [1, 2, 1, 1, 2]


def test_history_is_the_latest_items(small):
    user = small.users.index("five")
    assert small.history(user, 4, 2).tolist() == [1, 0]
    assert small.history(user, 1, 2).tolist() == [3]
    assert small.history(user, 4).tolist() == [3, 2, 1, 0]


def test_every_target_once_and_in_one_split():
    catalogue = toy_catalogue()
    splits = (catalogue.next_item_targets(split) for split in ("train", "valid", "test"))
    seen = [pair for targets in splits for pair in zip(*targets, strict=True)]
    assert len(set(seen)) == len(seen) == sum(max(len(sequence(u)) - 1, 0) for u in range(catalogue.num_users))


def test_split_file_wins(tmp_path):
    write_dataset(tmp_path, "T", SEQUENCES)
    path = tmp_path / "T" / "T.split.json"
    path.write_text(json.dumps({"one": [0, 0], "two": [1, 0], "three": [1, 0], "five": [3, 1]}))
    catalogue = load_catalogue(tmp_path, "T")
    assert pairs(catalogue, "train") == [("five", [3], 2), ("five", [3, 2], 1)]
    assert pairs(catalogue, "valid") == [("five", [3, 2, 1], 0)]
    assert [(user, target) for user, _, target in pairs(catalogue, "test")] == [
        *(("two", 1), ("three", 1), ("three", 2), ("five", 3)),
    ]
    assert catalogue.popularity.tolist()[:5] == [1, 1, 1, 1, 1]


def test_a_split_file_may_let_a_whole_user_train(tmp_path):
    write_dataset(tmp_path, "T", SEQUENCES)
    given = {"one": [1, 0], "two": [1, 1], "three": [3, 0], "five": [5, 0]}
    (tmp_path / "T" / "T.split.json").write_text(json.dumps(given))
    catalogue = load_catalogue(tmp_path, "T")
    assert pairs(catalogue, "test") == []
    assert pairs(catalogue, "valid") == [("two", [4], 1)]
    assert len(pairs(catalogue, "train")) == 2 + 4
    assert not catalogue.is_leave_one_out


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"one": [0, 0]}, r"split\.json lacks user 'two'"),
        ({"one": [1, 1], "two": [0, 0], "three": [0, 0], "five": [0, 0]}, r"user 'one' has 1 items.* 1 \+ 1"),
        ({"one": [-1, 1], "two": [0, 0], "three": [0, 0], "five": [0, 0]}, "user 'one'"),
        ({"one": [1], "two": [0, 0], "three": [0, 0], "five": [0, 0]}, "user 'one'"),
    ],
)
def test_faults_of_a_split_file(tmp_path, given, fault):
    write_dataset(tmp_path, "T", SEQUENCES)
    (tmp_path / "T" / "T.split.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=fault):
        load_catalogue(tmp_path, "T")


def test_item_split_is_the_same_for_every_seed_and_order(tmp_path):
    """By hash of the item id: neither random state nor the order of the file matters."""
    parts = []
    for shuffled in (False, True):
        data = toy_copy(tmp_path / str(shuffled))
        path = data / NAME / f"{NAME}.item.json"
        items = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(items.items())) if shuffled else items))
        np.random.seed(int(shuffled))
        catalogue = load_catalogue(data, NAME)
        parts.append([catalogue.item_split(split, holdout=True).tolist() for split in ("train", "valid", "test")])
    assert parts[0] == parts[1]
    train, valid, test = map(set, parts[0])
    assert train | valid | test == set(range(40))
    assert len(train) + len(valid) + len(test) == 40
    assert valid
    assert test


def test_without_holdout_every_item_trains():
    catalogue = toy_catalogue()
    for split in ("train", "test"):
        assert catalogue.item_split(split, holdout=False).tolist() == list(range(40))
    assert 0 < len(catalogue.item_split("valid", holdout=False)) < 40


def test_item_splits_never_change():
    """Items that a published model held out must not be trained on by the next version, so the hash is part of the
    format."""
    catalogue = toy_catalogue()
    assert catalogue.item_split("valid", holdout=True).tolist() == VALID
    assert catalogue.item_split("test", holdout=True).tolist() == TEST
    assert catalogue.item_split("valid", holdout=False).tolist() == VALID


def test_enriched_items_that_are_held_out_do_not_train():
    catalogue = toy_catalogue()
    parts = [catalogue.enriched_split(split).tolist() for split in ("train", "valid", "test")]
    assert sorted(item for part in parts for item in part) == sorted(catalogue.enriched)
    assert set(parts[1]) <= set(VALID)
    assert set(parts[2]) <= set(TEST)
