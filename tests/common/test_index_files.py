"""The SID index as a file: both forms, those of others, and how it is found."""

import numpy as np
import pytest

from src.common import artifacts, index_files
from src.common.artifacts import dataset_paths
from src.common.index_files import load_sid_index
from src.common.sid import SidIndex
from src.tasks.catalogue import load_catalogue
from tests.toy import INDEX_FILE, NAME, NUM_ITEMS, toy_index, toy_path


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_index_survives_a_round_trip(tmp_path, suffix):
    path = tmp_path / f"T.index_x.{suffix}"
    index_files.save_sid_index(path, toy_index(), {"collisions_after": 0})
    read = load_sid_index(path, range(NUM_ITEMS))
    np.testing.assert_array_equal(read.item_ids, toy_index().item_ids)
    np.testing.assert_array_equal(read.codes, toy_index().codes)
    assert read.codes.dtype == (np.int64 if suffix == "json" else np.int32)
    assert (read.letters, read.codebook_sizes) == (toy_index().letters, toy_index().codebook_sizes)
    assert read.meta["collisions_after"] == 0
    assert read.all_tokens == toy_index().all_tokens


def test_compact_index_as_documented_needs_no_letters(tmp_path):
    """The documented .npz has item_ids and codes; one without letters used to end in a KeyError."""
    path = tmp_path / "T.index_x.npz"
    np.savez(path, item_ids=np.array([1, 0], np.int32), codes=np.array([[2, 3], [0, 1]], np.int32))
    index = load_sid_index(path)
    assert index.tokens_of(0) == ["<a_0>", "<b_1>"]
    assert index.codebook_sizes == (3, 4)
    np.savez_compressed(path, item_ids=np.array([1, 0], np.int32), codes=np.array([[2, 3], [0, 1]], np.int64))
    assert load_sid_index(path).codes.tolist() == index.codes.tolist() == [[0, 1], [2, 3]]
    np.savez(path, item_ids=np.array([1, 1]), codes=np.array([[2, 3], [0, 1]]))
    with pytest.raises(ValueError, match="names an item twice"):
        load_sid_index(path)
    np.savez(path, item_ids=np.array([1, 0]), codes=np.array([[2.0, 3.5], [0, 1]]))
    with pytest.raises(ValueError, match="codes must be whole numbers, are float64"):
        load_sid_index(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"T\.index_x\.npz is not a whole index"):
        load_sid_index(path)


def test_foreign_index_loads_as_it_is(tmp_path):
    """Upper-case letters, shared SIDs, no sidecar, items in any order."""
    path = tmp_path / "T.index_x.json"
    path.write_text('{"10": ["<A_5>", "<B_0>"], "2": ["<A_5>", "<B_0>"], "7": ["<A_1>", "<B_3>"]}')
    index = load_sid_index(path)
    assert index.item_ids.tolist() == [2, 7, 10]
    assert index.tokens_of(1) == ["<A_1>", "<B_3>"]
    assert index.codebook_sizes == (6, 4)
    assert len(index.all_tokens) == 10
    assert index.collision_rate() == pytest.approx(1 / 3)
    assert index.rows_of([10, 2]).tolist() == [2, 0]
    with pytest.raises(ValueError, match="item 3 has no SID"):
        index.rows_of([3])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"0": ["<a_1>", "<b_2>"], "1": ["<a_1>"]}', "item 1 has <a_1>, the first item <a_1><b_2>: levels differ"),
        ('{"0": ["<a_1>", "<b_2>"], "1": ["<b_1>", "<a_2>"]}', "levels differ"),
        ('{"0": ["<a_1>", "b2"]}', "'b2' is no SID token"),
        ('{"0": ["<a_1>", 2]}', "2 is no SID token"),
        ('{"0": "<a_1>"}', "item 0 must have a list of SID tokens, has '<a_1>'"),
        ('{"0": ["<a_1>"], "1": null}', "item 1 must have a list of SID tokens, has None"),
        ('{"0": []}', "holds no SID"),
        ('{"x": ["<a_1>"]}', "item id 'x'"),
        ("{}", "holds no item"),
        ('[["<a_1>"]]', "must hold a table"),
        ('{"4294967296": ["<a_1>"]}', "item id '4294967296' is not a whole number from 0 to 2147483647"),
    ],
)
def test_faults_of_an_index(tmp_path, text, fault):
    path = tmp_path / "T.index_x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault) as caught:
        load_sid_index(path)
    assert path.name in str(caught.value)


def test_index_must_have_every_item(tmp_path):
    path = tmp_path / "T.index_x.json"
    index = toy_index()
    index_files.save_sid_index(path, SidIndex(index.item_ids[:-2], index.codes[:-2], index.letters, (4, 6, 5)), {})
    with pytest.raises(ValueError, match=f"lacks 2 of {NUM_ITEMS} items, the first being {NUM_ITEMS - 2}"):
        load_sid_index(path, range(NUM_ITEMS))


def test_sidecar_must_fit_the_index(tmp_path):
    path = tmp_path / "T.index_x.json"
    index_files.save_sid_index(path, toy_index(), {})
    for sizes in ([4, 6], [4, 6, 3]):
        artifacts.write_json(index_files.index_meta_path(path), {"codebook_sizes": sizes})
        with pytest.raises(ValueError, match="do not fit"):
            load_sid_index(path)


def test_index_is_found_by_path_and_by_suffix(data):
    paths = dataset_paths(data, NAME)
    made = index_files.index_path(paths, "simple")
    assert index_files.resolve_index_file(made, paths) == made
    assert index_files.resolve_index_file(INDEX_FILE, paths) == made
    beside = paths.file("index_other.json")
    beside.write_text(made.read_text())
    assert index_files.resolve_index_file(".index_other.json", paths) == beside


def test_index_that_is_not_there_lists_every_place(data):
    paths = dataset_paths(data, NAME)
    with pytest.raises(FileNotFoundError) as caught:
        index_files.resolve_index_file(".index_gone.json", paths)
    for place in (".index_gone.json", paths.file("index_gone.json"), paths.folder / "index" / "*"):
        assert str(place) in str(caught.value)
    assert "bash index/generate.sh" in str(caught.value)
    twin = index_files.index_path(paths, "simple").parents[1] / "twin" / f"{NAME}{INDEX_FILE}"
    twin.parent.mkdir()
    twin.write_text("{}")
    with pytest.raises(FileNotFoundError, match="fits 2 files"):
        index_files.resolve_index_file(INDEX_FILE, paths)


@pytest.mark.parametrize("name", ["/nowhere/index.json", "nowhere/index.json", "./index.json"])
def test_a_path_is_not_tried_as_a_suffix(data, name):
    """`data/Toy/Toy/nowhere/index.json` used to be among the places tried."""
    with pytest.raises(FileNotFoundError, match=r"^--index_file \S+ does not exist\. Give the path") as caught:
        index_files.resolve_index_file(name, dataset_paths(data, NAME))
    assert "Tried" not in str(caught.value)


def test_toy_data_is_what_it_says():
    """The right answer is certain, SIDs are unique, and five items have no picture."""
    catalogue = load_catalogue(toy_path(), NAME, INDEX_FILE, "images")
    assert len(catalogue.image_files) == NUM_ITEMS - 5
    assert catalogue.sid_index.collision_rate() == 0
    assert (catalogue.sid_index.codes < np.array(catalogue.sid_index.codebook_sizes)).all()
    users, positions = catalogue.next_item_targets("test")
    answers = {catalogue.target(u, p - 1): catalogue.target(u, p) for u, p in zip(users, positions, strict=True)}
    assert all(target == (3 * item + 1) % NUM_ITEMS for item, target in answers.items())
