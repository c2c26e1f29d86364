"""A folder is there whole or as it was, and nothing half-made stays beside it."""

import pytest

from src.common.folders import atomic_folder


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_takes_the_place_of_the_former(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "deep" / "made") as temporary:
            (temporary / name).touch()
    assert names(tmp_path) == ["deep", "deep/made", "deep/made/b"]


def test_a_failure_leaves_the_former(tmp_path):
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "a").touch()

    def fail():
        with atomic_folder(tmp_path / "made") as temporary:
            (temporary / "b").touch()
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["made", "made/a"]


def test_what_a_killed_run_left_goes(tmp_path):
    """Such folders used to stay for good, for each had another name."""
    for leftover in (".made.making", ".made.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "half").touch()
    with atomic_folder(tmp_path / "made") as temporary:
        assert not list(temporary.iterdir())
    assert names(tmp_path) == ["made"]
