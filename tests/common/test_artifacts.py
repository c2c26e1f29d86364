"""Readers name the file and the fault; writers leave the old file or a whole new one."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from src.common import artifacts, dataset_readers
from src.common.artifacts import dataset_paths
from src.tasks.catalogue import load_catalogue
from tests.common.conftest import edit
from tests.toy import NAME, NUM_ITEMS


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
    assert dataset_readers.load_id_map(tmp_path / "T.item2id") == {"B001": 3}


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
    artifacts.save_embeddings(path, rows[:7], [6, 5, 4, 3, 2, 1, 0])  # with a sidecar they may be a part
    assert artifacts.load_embeddings(path)[1] == [6, 5, 4, 3, 2, 1, 0]
    # A dataset that was made anew with fewer items has others under the old ids: an index used to be made of these.
    artifacts.save_embeddings(path, rows, range(NUM_ITEMS + 1))
    with pytest.raises(ValueError, match=rf"1 of {NUM_ITEMS + 1} items that .*Toy\.item\.json lacks, the first being"):
        artifacts.load_embeddings(path)
    artifacts.embedding_ids_path(path).unlink()
    edit(folder / f"{NAME}.item.json", lambda items: items.update({"50": items.pop("7")}))
    np.save(path, rows[:-1])
    with pytest.raises(ValueError, match=r"row 7 is item 7, which .*Toy\.item\.json lacks"):
        artifacts.load_embeddings(path)
