"""Arrays inside an .npz are mapped where they lie, whatever their type and order, and take no memory."""

import numpy as np
import pytest

from benchmarks.scale import anonymous_megabytes
from src.common.mapped_npz import map_npz
from src.common.sid import sid_keys


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_they_are_those_that_were_saved(tmp_path, save):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(0, 9, (5, 3)).astype(np.int32),
        "wide": np.asfortranarray(rng.random((4, 2))),
        "letters": np.array(["a", "bcd"]),
        "none": np.empty((0, 3), np.int64),
        "one": np.array(7),
    }
    save(tmp_path / "x.npz", **arrays)
    read = map_npz(tmp_path / "x.npz")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_they_take_no_memory(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((5_000_000, 4), np.int32))
    before = anonymous_megabytes()
    read = map_npz(tmp_path / "x.npz")["a"]
    assert read.max() == 1
    assert anonymous_megabytes() - before < 20  # of 80
    assert not read.flags.writeable


def test_python_objects_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}, 1], object))
    with pytest.raises(ValueError, match="holds Python objects"):
        map_npz(tmp_path / "x.npz")


def test_keys_are_ordered_as_rows():
    rows = np.random.default_rng(0).integers(3, 40, (200, 4)).astype(np.int32)
    assert np.array_equal(np.argsort(sid_keys(rows), kind="stable"), np.lexsort(rows.T[::-1]))
    assert len(np.unique(sid_keys(rows))) == len(np.unique(rows, axis=0))
    assert sid_keys(np.array([[0, 0], [1 << 40, 1 << 40]])) is None
