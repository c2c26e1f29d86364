"""Readers name the file and the fault; writers leave the old file or a whole new one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.common import artifacts
from src.common.artifacts import dataset_paths, load_sid_index
from src.common.sid import SidIndex
from src.tasks.catalogue import load_catalogue
from tests.toy import INDEX_FILE, NAME, NUM_ITEMS, toy_copy, toy_index, toy_path


@pytest.fixture
def data(tmp_path) -> Path:
    return toy_copy(tmp_path)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# ---- JSON ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["inter.json", "item.json"])
def test_truncated_json_names_the_file(data, suffix):
    path = data / NAME / f"{NAME}.{suffix}"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=rf"{suffix} is not valid JSON .* cut off"):
        load_catalogue(data, NAME)


def test_byte_order_mark_is_read_and_other_encodings_are_named(tmp_path):
    """Both are what Windows programs leave; both used to be called cut off."""
    path = tmp_path / "x.json"
    text = json.dumps({"u": "Café"}, ensure_ascii=False)
    path.write_text(text, encoding="utf-8-sig")
    assert artifacts.read_json(path) == {"u": "Café"}
    for encoding in ("latin-1", "utf-16"):
        path.write_text(text, encoding=encoding)
        with pytest.raises(ValueError, match=r"x\.json is not in UTF-8 \(byte \d+ is 0x..\)\. Save it .*iconv"):
            artifacts.read_json(path)
    (tmp_path / "T.item2id").write_text("B001\t3\n", encoding="utf-8-sig")
    assert artifacts.load_id_map(tmp_path / "T.item2id") == {"B001": 3}


def test_places_that_cannot_be_written_are_found_early(tmp_path):
    artifacts.check_writable(tmp_path / "deep" / "x.json")
    assert not list((tmp_path / "deep").iterdir())
    with pytest.raises(ValueError, match="deep is a folder"):
        artifacts.check_writable(tmp_path / "deep")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/x\.json cannot be written"):
        artifacts.check_writable(tmp_path / "file" / "x.json")


@pytest.mark.parametrize("text", ['{"7": [1], "8": [2], "7": [3]}', '{"u": {"7": 1, "7": 2}}'])
def test_a_key_that_stands_twice_is_an_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json has the key '7' twice"):
        artifacts.read_json(path)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.json does not exist\. Run this"):
        artifacts.read_json(tmp_path / "x.json", "Run this")
    with pytest.raises(FileNotFoundError, match="--data_path is the folder that holds Nowhere/"):
        dataset_paths(tmp_path, "Nowhere")


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "x.json"
    artifacts.write_json(path, {"a": 1})

    def die_while_writing():
        with artifacts.atomic_path(path) as temporary:
            temporary.write_text("half of it")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        die_while_writing()
    assert artifacts.read_json(path) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"a": object()})
    assert artifacts.read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o044  # others may read it, as with open()


KILLED_WHILE_WRITING = """
import os, signal, sys
from src.common.artifacts import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half of it, and longer than what comes next")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_was_writing_does_not_stay(tmp_path):
    """It used to: each kill left a file of another name, as large as a checkpoint."""
    path = tmp_path / "x.json"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".x.json.0.json"]
    artifacts.write_json(path, {"a": 1})
    assert artifacts.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """The later rename wins, and neither writes into the other's file."""
    path = tmp_path / "x.txt"
    with artifacts.atomic_path(path) as first:
        first.write_text("first")
        with artifacts.atomic_path(path) as second:
            second.write_text("second, which is longer")
        assert path.read_text() == "second, which is longer"
        with artifacts.atomic_path(path) as third:  # takes the name that is free again, not the file that was renamed
            third.write_text("third")
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_without_locks_takes_a_name_of_its_own(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(artifacts.fcntl, "flock", no_locks)
    artifacts.write_json(tmp_path / "x.json", [1])
    assert artifacts.read_json(tmp_path / "x.json") == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


# ---- items and interactions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda items: items["7"].pop("title"), "item 7 has no title"),
        (lambda items: items.update(x={"title": "t"}), "item id 'x' is not a whole number"),
        (lambda items: items.update({"7": "a shirt"}), "item 7 has no title"),
        (lambda items: items["7"].update(image="../../secret.jpg"), r"'../../secret.jpg' of item 7 leaves"),
        (lambda items: items["7"].update(image="/etc/x.jpg"), r"'/etc/x.jpg' of item 7 leaves"),
        (lambda items: items.clear(), "holds no item"),
    ],
)
def test_faults_of_items(data, change, fault):
    edit(data / NAME / f"{NAME}.item.json", change)
    with pytest.raises(ValueError, match=fault):
        load_catalogue(data, NAME, image_path="images")


def test_absent_fields_are_empty_and_lists_are_joined(data):
    path = data / NAME / f"{NAME}.item.json"
    edit(path, lambda items: items.update({"7": {"title": "", "categories": ["Home", "Lamp"], "brand": None}}))
    item = load_catalogue(data, NAME).items[7]
    assert [item[name] for name in artifacts.ITEM_FIELDS] == ["", "", "", "Home, Lamp"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda users: users["u5"].append(4711), r"user 'u5' has item 4711, which .*item\.json lacks \(1 such"),
        (lambda users: users["u5"].append("3"), "user 'u5' must have a list of item ids"),
        (lambda users: users["u5"].append(True), "user 'u5' must have a list of item ids"),
        (lambda users: users["u5"].append(-1), "user 'u5' must have a list of item ids"),
        (lambda users: users.update(u5=3), "user 'u5' must have a list of item ids"),
        (lambda users: users.clear(), "at least one user"),
    ],
)
def test_faults_of_interactions(data, change, fault):
    edit(data / NAME / f"{NAME}.inter.json", change)
    with pytest.raises(ValueError, match=fault):
        load_catalogue(data, NAME)


def test_times_must_have_the_shape_of_the_interactions(data):
    sequences = json.loads((data / NAME / f"{NAME}.inter.json").read_text())
    times = {user: list(range(len(items))) for user, items in sequences.items()}
    path = data / NAME / f"{NAME}.times.json"
    path.write_text(json.dumps(times))
    load_catalogue(data, NAME)
    path.write_text(json.dumps({**times, "u5": [1]}))
    with pytest.raises(ValueError, match="user 'u5' has 1 times for 6 items"):
        load_catalogue(data, NAME)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("B001 3\n", r"item2id:1: a line is"),
        ("B001\t3\nB002\tx\n", r"item2id:2: a line is"),
        ("B001\t3\nB001\t4\n", r"item2id:2: 'B001' stands there twice"),
    ],
)
def test_faults_of_id_maps(tmp_path, text, fault):
    path = tmp_path / "T.item2id"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault):
        artifacts.load_id_map(path)


def test_pictures_are_found_through_the_id_map_and_in_another_folder(data):
    folder = data / NAME
    edit(folder / f"{NAME}.item.json", lambda items: [fields.pop("image") for fields in items.values()])
    (folder / f"{NAME}.item2id").write_text("".join(f"B{i}\t{i}\n" for i in range(NUM_ITEMS)))
    paths = dataset_paths(data, NAME)
    assert not artifacts.find_images(paths, artifacts.load_items(paths))
    (folder / "images" / "4.jpg").rename(folder / "images" / "B4.jpg")
    assert artifacts.find_images(paths, artifacts.load_items(paths)) == {4: folder / "images" / "B4.jpg"}
    (folder / "images").rename(folder / "other")
    assert artifacts.find_images(paths, artifacts.load_items(paths), "other") == {4: folder / "other" / "B4.jpg"}


# ---- embeddings ------------------------------------------------------------------------------------------------------
def test_embeddings_survive_a_round_trip(tmp_path):
    path = tmp_path / "T.emb-x.npy"
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    artifacts.save_embeddings(path, rows, [3, 1, 2, 0])
    read, ids = artifacts.load_embeddings(path)
    assert ids == [3, 1, 2, 0]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, rows.astype(np.float32))
    artifacts.embedding_ids_path(path).unlink()
    assert artifacts.load_embeddings(path)[1] == [0, 1, 2, 3]


def test_faults_of_embeddings(tmp_path):
    path = tmp_path / "T.emb-x.npy"
    rows = np.ones((4, 3), np.float32)
    rows[2, 1] = np.nan
    artifacts.save_embeddings(path, rows, [5, 6, 7, 8])
    with pytest.raises(ValueError, match=r"1 of 4 rows, the first being row 2 \(item 7\)"):
        artifacts.load_embeddings(path)
    artifacts.save_embeddings(path, np.ones((4, 3)), [5, 6, 7, 8])
    artifacts.write_json(artifacts.embedding_ids_path(path), [5, 6, 7])
    with pytest.raises(ValueError, match=r"has 4 rows and .* names 3 items"):
        artifacts.load_embeddings(path)
    artifacts.write_json(artifacts.embedding_ids_path(path), [5, 6, 7, 5])
    with pytest.raises(ValueError, match="names item 5 twice, in rows 0 and 3"):
        artifacts.load_embeddings(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"not a whole \.npy file"):
        artifacts.load_embeddings(path)
    np.save(path, np.ones((4, 3), np.int64))
    with pytest.raises(ValueError, match="2-D array of floats, holds int64"):
        artifacts.load_embeddings(path)
    with pytest.raises(ValueError, match="2 embeddings for 3 items"):
        artifacts.save_embeddings(path, np.ones((2, 3)), [1, 2, 3])


def test_arrays_of_python_objects_say_what_to_do(tmp_path):
    """numpy's own advice is allow_pickle, which runs whatever the file says."""
    path = tmp_path / "T.emb-x.npy"
    np.save(path, np.array([[1.0, 2.0], [3.0]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"holds Python objects, not numbers.*np\.save\(path, np\.asarray") as caught:
        artifacts.load_embeddings(path)
    assert "allow_pickle" not in str(caught.value)
    path.write_text("0.1 0.2")
    with pytest.raises(ValueError, match=r"not a whole \.npy file") as caught:
        artifacts.load_embeddings(path)
    assert "pickle" not in str(caught.value)


def test_without_a_sidecar_rows_must_be_the_catalogue(data):
    """Row i is item i: a file with more or fewer rows used to give every item the SID of another."""
    folder = data / NAME
    path = folder / f"{NAME}.emb-x.npy"
    rows = np.random.default_rng(0).normal(size=(NUM_ITEMS + 1, 3)).astype(np.float32)
    np.save(path, rows[:-1])
    assert artifacts.load_embeddings(path)[1] == list(range(NUM_ITEMS))
    for wrong in (rows, rows[:7]):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=rf"{len(wrong)} rows and .*Toy\.item\.json {NUM_ITEMS} items: without "):
            artifacts.load_embeddings(path)
    artifacts.save_embeddings(path, rows[:7], [6, 5, 4, 3, 2, 1, 0])  # with a sidecar they may be any items
    assert artifacts.load_embeddings(path)[1] == [6, 5, 4, 3, 2, 1, 0]
    artifacts.embedding_ids_path(path).unlink()
    edit(folder / f"{NAME}.item.json", lambda items: items.update({"50": items.pop("7")}))
    np.save(path, rows[:-1])
    with pytest.raises(ValueError, match=r"row 7 is item 7, which .*Toy\.item\.json lacks"):
        artifacts.load_embeddings(path)


# ---- SID index -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_index_survives_a_round_trip(tmp_path, suffix):
    path = tmp_path / f"T.index_x.{suffix}"
    artifacts.save_sid_index(path, toy_index(), {"collisions_after": 0})
    read = load_sid_index(path, range(NUM_ITEMS))
    np.testing.assert_array_equal(read.item_ids, toy_index().item_ids)
    np.testing.assert_array_equal(read.codes, toy_index().codes)
    assert read.codes.dtype == np.int64
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
        ('{"0": "<a_1>"}', "is no SID token"),
        ('{"0": []}', "holds no SID"),
        ('{"x": ["<a_1>"]}', "item id 'x'"),
        ("{}", "holds no item"),
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
    artifacts.save_sid_index(path, SidIndex(index.item_ids[:-2], index.codes[:-2], index.letters, (4, 6, 5)), {})
    with pytest.raises(ValueError, match=f"lacks 2 of {NUM_ITEMS} items, the first being {NUM_ITEMS - 2}"):
        load_sid_index(path, range(NUM_ITEMS))


def test_sidecar_must_fit_the_index(tmp_path):
    path = tmp_path / "T.index_x.json"
    artifacts.save_sid_index(path, toy_index(), {})
    for sizes in ([4, 6], [4, 6, 3]):
        artifacts.write_json(artifacts.index_meta_path(path), {"codebook_sizes": sizes})
        with pytest.raises(ValueError, match="do not fit"):
            load_sid_index(path)


def test_index_is_found_by_path_and_by_suffix(data):
    paths = dataset_paths(data, NAME)
    made = artifacts.index_path(paths, "simple")
    assert artifacts.resolve_index_file(made, paths) == made
    assert artifacts.resolve_index_file(INDEX_FILE, paths) == made
    beside = paths.file("index_other.json")
    beside.write_text(made.read_text())
    assert artifacts.resolve_index_file(".index_other.json", paths) == beside


def test_index_that_is_not_there_lists_every_place(data):
    paths = dataset_paths(data, NAME)
    with pytest.raises(FileNotFoundError) as caught:
        artifacts.resolve_index_file(".index_gone.json", paths)
    for place in (".index_gone.json", paths.file("index_gone.json"), paths.folder / "index" / "*"):
        assert str(place) in str(caught.value)
    assert "bash index/generate.sh" in str(caught.value)
    twin = artifacts.index_path(paths, "simple").parents[1] / "twin" / f"{NAME}{INDEX_FILE}"
    twin.parent.mkdir()
    twin.write_text("{}")
    with pytest.raises(FileNotFoundError, match="fits 2 files"):
        artifacts.resolve_index_file(INDEX_FILE, paths)


@pytest.mark.parametrize("name", ["/nowhere/index.json", "nowhere/index.json", "./index.json"])
def test_a_path_is_not_tried_as_a_suffix(data, name):
    """`data/Toy/Toy/nowhere/index.json` used to be among the places tried."""
    with pytest.raises(FileNotFoundError, match=r"^--index_file \S+ does not exist\. Give the path") as caught:
        artifacts.resolve_index_file(name, dataset_paths(data, NAME))
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
