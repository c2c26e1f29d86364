"""Tables of interactions: the same sequences as `<DS>.inter.json` has, mapped once, refused where broken."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.common import mapping, table_reader
from src.common.artifacts import DatasetPaths
from src.common.interactions import (
    interaction_inputs,
    load_interactions,
    load_sequences,
    split_ends,
)

NAME = "Shop"
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
sequences = st.dictionaries(names, st.lists(st.integers(0, 70_000), min_size=1, max_size=9), min_size=1, max_size=9)


def dataset(folder: Path) -> DatasetPaths:
    paths = DatasetPaths(folder, NAME)
    paths.folder.mkdir(parents=True, exist_ok=True)
    return paths


def frame_of(users: dict[str, list[int]], **columns) -> pl.DataFrame:
    rows = [(user, item) for user, items in users.items() for item in items]
    return pl.DataFrame({"user": [user for user, _ in rows], "item": [item for _, item in rows], **columns})


def write(paths: DatasetPaths, frame: pl.DataFrame, suffix: str = "parquet", shard_rows: int = 0) -> Path:
    path = paths.file(f"inter.{suffix}")
    parts = {path: frame}
    if shard_rows:
        path.mkdir(exist_ok=True)
        parts = {path / f"part-{i:05d}.{suffix}": frame[i : i + shard_rows] for i in range(0, len(frame), shard_rows)}
    for file, part in parts.items():
        part.write_ipc(file) if suffix == "arrow" else part.write_parquet(file, row_group_size=3)
    return path


# ---- equal to JSON ---------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=sequences, batch=st.integers(1, 7), shard=st.integers(0, 5), suffix=st.sampled_from(["parquet", "arrow"]))
def test_a_table_holds_what_the_json_holds(tmp_path_factory, monkeypatch, users, batch, shard, suffix):
    monkeypatch.setattr(table_reader, "BATCH_ROWS", batch)
    paths = dataset(tmp_path_factory.mktemp("table"))
    write(paths, frame_of(users), suffix, shard)
    mapped, table = load_sequences(paths), load_interactions(paths)
    paths.file("inter.json").write_text(json.dumps(users))
    assert load_sequences(paths).is_mapped  # they are equal, so the table is taken
    whole = DatasetPaths(paths.data_path / "json", NAME)
    dataset(whole.data_path)
    whole.file("inter.json").write_text(json.dumps(users))
    plain = load_sequences(whole)
    assert mapped.is_mapped
    assert not plain.is_mapped
    assert list(mapped.users) == plain.users == [mapped.users[i] for i in range(len(users))]
    for name in ("offsets", "items", "distinct"):
        assert np.array_equal(getattr(mapped, name), getattr(plain, name))
        assert getattr(mapped, name).dtype == np.int64
    assert all(map(np.array_equal, split_ends(paths, mapped), split_ends(whole, plain)))
    assert dict(table.items()) == users
    assert list(table.values()) == list(users.values())
    assert {user: table[user] for user in table} == users


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=sequences, batch=st.integers(1, 7), data=st.data())
def test_times_and_parts_may_be_columns(tmp_path_factory, monkeypatch, users, batch, data):
    monkeypatch.setattr(table_reader, "BATCH_ROWS", batch)
    paths = dataset(tmp_path_factory.mktemp("table"))
    pairs, times, parts = {}, [], []
    for user, items in users.items():
        train = data.draw(st.integers(0, len(items)))
        valid = data.draw(st.integers(0, len(items) - train))
        pairs[user] = [train, valid]
        parts += ["train"] * train + ["valid"] * valid + ["test"] * (len(items) - train - valid)
        times += sorted(data.draw(st.lists(st.integers(0, 99), min_size=len(items), max_size=len(items))))
    write(paths, frame_of(users, time=times, split=parts))
    mapped = load_sequences(paths)
    assert mapped.is_split
    assert mapped.times.tolist() == times
    assert dict(mapped.split_table().items()) == pairs
    train_end, valid_end = split_ends(paths, mapped)
    assert train_end.tolist() == [train for train, _ in pairs.values()]
    assert valid_end.tolist() == [train + valid for train, valid in pairs.values()]


def test_users_may_be_numbers_or_categories(tmp_path):
    for number, users in enumerate([[7, 7, 30], pl.Series(["b", "b", "a"], dtype=pl.Categorical)]):
        paths = dataset(tmp_path / str(number))
        write(paths, pl.DataFrame({"item": pl.Series([1, 2, 3], dtype=pl.UInt32), "more": "x", "user": users}))
        assert dict(load_interactions(paths).items()) == [{"7": [1, 2], "30": [3]}, {"b": [1, 2], "a": [3]}][number]


def test_names_are_found(tmp_path):
    paths = dataset(tmp_path)
    write(paths, frame_of({"": [1], "Zoë": [2, 2], "最": [3]}))
    users = load_sequences(paths).users
    assert users.index("最") == 2
    assert "Zoë" in users
    assert "Zo" not in users
    assert users[-1] == "最"
    assert users[1:] == ["Zoë", "最"]
    with pytest.raises(IndexError):
        users[3]
    with pytest.raises(ValueError, match="is no user"):
        users.index("x")


# ---- mapped once -----------------------------------------------------------------------------------------------------
def test_it_is_mapped_once_and_again_only_when_the_rows_change(tmp_path, monkeypatch):
    paths = dataset(tmp_path)
    path = write(paths, frame_of({"a": [1, 2, 3]}))
    made = []
    convert = table_reader.convert
    monkeypatch.setattr(table_reader, "convert", lambda *given: made.append(1) or convert(*given))
    (paths.file("inter.mapped") / ".part-killed").mkdir(parents=True)
    load_sequences(paths)
    load_sequences(paths)
    os.utime(path, ns=(1, 1))  # copied: the same rows at another time
    first = load_sequences(paths)
    load_sequences(paths)
    assert len(made) == 1
    write(paths, frame_of({"a": [1, 2, 4]}))
    assert load_sequences(paths).items.tolist() == [1, 2, 4]
    assert first.items.tolist() == [1, 2, 3]  # whoever has the former arrays open keeps them
    assert len(made) == 2
    assert len([file for file in paths.file("inter.mapped").iterdir() if file.is_dir()]) == 1


def test_other_rows_of_the_same_size_and_time_are_seen(tmp_path):
    """Arrow files of equally many rows are of one size, and archives may set one time: the old rows were taken."""
    paths = dataset(tmp_path)
    for items in ([1, 2, 3], [3, 2, 1]):
        path = write(paths, frame_of({"a": items}), "arrow")
        os.utime(path, ns=(10**18, 10**18))
        assert load_sequences(paths).items.tolist() == items


def test_another_folder_may_hold_the_arrays(tmp_path, monkeypatch):
    paths = dataset(tmp_path)
    write(paths, frame_of({"a": [1, 2, 3]}))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(mapping.PLACE, str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot be written .* set GREC_CACHE to a folder that can"):
        load_sequences(paths)
    monkeypatch.setenv(mapping.PLACE, str(tmp_path / "cache"))
    assert load_sequences(paths).items.tolist() == [1, 2, 3]
    assert (tmp_path / "cache" / f"{NAME}.inter.mapped").is_dir()
    assert not paths.file("inter.mapped").exists()


def test_arrays_that_are_being_made_are_not_taken(tmp_path):
    """Another rank may be about to rename their folder."""
    paths = dataset(tmp_path)
    write(paths, frame_of({"a": [1, 2, 3]}))
    load_sequences(paths)
    (place,) = (file for file in paths.file("inter.mapped").iterdir() if file.is_dir())
    place.rename(place.with_name(".part-x"))
    (place.with_name(".part-x") / "items").write_bytes(np.array([9, 9, 9]).tobytes())
    assert load_sequences(paths).items.tolist() == [1, 2, 3]
    assert not place.with_name(".part-x").exists()


def test_datasets_of_one_name_do_not_remove_the_arrays_of_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv(mapping.PLACE, str(tmp_path / "cache"))
    both = dataset(tmp_path / "one"), dataset(tmp_path / "other")
    for number, paths in enumerate(both):
        write(paths, frame_of({"a": [1, 2, number]}))
        load_sequences(paths)
    made = {file.name: file.stat().st_ino for file in (tmp_path / "cache" / f"{NAME}.inter.mapped").iterdir()}
    assert [load_sequences(paths).items.tolist() for paths in both] == [[1, 2, 0], [1, 2, 1]]
    now = {file.name: file.stat().st_ino for file in (tmp_path / "cache" / f"{NAME}.inter.mapped").iterdir()}
    assert made == now
    assert len(made) == 3  # with the lock


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_folder_may_have_any_name(tmp_path, suffix):
    """Brackets and stars used to be taken for a pattern."""
    for number, name in enumerate(["[x]", "a*", "ab c?"]):
        paths = dataset(tmp_path / name)
        write(paths, frame_of({"a": [number]}), suffix)
    for number, name in enumerate(["[x]", "a*", "ab c?"]):
        assert load_sequences(DatasetPaths(tmp_path / name, NAME)).items.tolist() == [number]


def test_every_shard_is_an_input(tmp_path):
    paths = dataset(tmp_path)
    path = write(paths, frame_of({"a": [1, 2, 3]}), shard_rows=2)
    names = ["part-00000.parquet", "part-00002.parquet"]
    assert interaction_inputs(paths) == {f"interactions {name}": path / name for name in names}
    paths = dataset(tmp_path / "one")
    path = write(paths, frame_of({"a": [1, 2, 3]}))
    assert interaction_inputs(paths, "Shop ") == {"Shop interactions": path}


# ---- what is refused -------------------------------------------------------------------------------------------------
def table(**columns) -> pl.DataFrame:
    return pl.DataFrame({"user": ["a", "a", "b", "b"], "item": [1, 2, 3, 4], **columns})


BROKEN = {
    "no item column": (table().rename({"item": "sku"}), r"has no column 'item', but user, sku: it needs user and item"),
    "items are texts": (table(item=["1", "2", "3", "4"]), r"column 'item' holds String, and must hold whole numbers"),
    "users are no names": (table(user=[0.5] * 4), r"column 'user' holds Float64, and must hold texts or whole numbers"),
    "an item is missing": (table(item=[1, None, 3, 4]), r"row 1 .*'a'.*: it has no item. Drop such rows"),
    "a user is missing": (table(user=["a", "a", None, "b"]), r"row 2 .*: it has no user"),
    "an item is negative": (table(item=[1, 2, 3, -4]), r"row 3 .*'item': -4.*: item ids are whole numbers from 0"),
    "an item is huge": (table(item=[1, 2**31, 3, 4]), r"row 1 .*: item ids are whole numbers from 0 to 2,147,483,647"),
    "users are not together": (table(user=["a", "b", "b", "a"]), r"rows of user 'a' stand in two places. Sort it by"),
    "times go back": (table(time=[1, 2, 4, 3]), r"row 3 .*: it is older than the row before. Sort by user, then time"),
    "a time is huge": (table(time=pl.Series([1, 2**63, 1, 2], dtype=pl.UInt64)), r"row 1 .*: times are unix seconds"),
    "times are fractions": (table(time=[0.5] * 4), r"column 'time' holds Float64, and must hold whole numbers"),
    "a part is unknown": (table(split=["train", "test", "dev", "test"]), r"row 2 .*: split is one of train, valid, te"),
    "parts go back": (table(split=["test", "train"] * 2), r"row 1 .*: of a user what trains comes first"),
    "an item is beyond numpy": (table(item=pl.Series([1, 2, 3, 2**99], dtype=pl.Int128)), r"row 3 .*: item ids are w"),
    "nothing is in it": (table()[:0], r"has no row"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("batch", [1, 100])
def test_a_broken_table_is_refused(tmp_path, monkeypatch, what, batch):
    frame, message = BROKEN[what]
    monkeypatch.setattr(table_reader, "BATCH_ROWS", batch)
    paths = dataset(tmp_path)
    write(paths, frame)
    with pytest.raises(ValueError, match=message):
        load_sequences(paths)
    assert not [file for file in paths.file("inter.mapped").iterdir() if file.is_dir()]  # no half of the arrays stays


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_refused(tmp_path, suffix, kept):
    paths = dataset(tmp_path)
    path = write(paths, frame_of({str(user): list(range(50)) for user in range(50)}), suffix)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(ValueError, match=r"cannot be read .*: was it copied whole"):
        load_sequences(paths)


def test_shards_of_other_columns_are_refused(tmp_path):
    paths = dataset(tmp_path)
    path = write(paths, table(), shard_rows=2)
    table(time=[1, 2, 3, 4])[2:].write_parquet(path / "part-00002.parquet")
    with pytest.raises(ValueError, match=r"has the columns user, item, time, part-00000.parquet user, item"):
        load_sequences(paths)
    for file in path.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"is a folder without a \*.parquet file"):
        load_sequences(paths)


def test_files_that_contradict_each_other_are_refused(tmp_path):
    paths = dataset(tmp_path)
    write(paths, table(time=[1, 2, 3, 4], split=["train", "test"] * 2))
    for suffix in ("times.json", "split.json"):
        paths.file(suffix).write_text("{}")
        with pytest.raises(ValueError, match=rf"has what .*{suffix} says: delete that file, or drop the column"):
            load_sequences(paths)
        paths.file(suffix).unlink()
    paths.file("inter.json").write_text('{"a": [1, 2], "b": [3, 5]}')
    with pytest.raises(ValueError, match=r"hold other interactions: delete one of them"):
        load_sequences(paths)
    write(paths, table(), "arrow")
    with pytest.raises(ValueError, match=r"both hold interactions: keep one of them"):
        load_sequences(paths)


def test_names_that_share_a_hash_are_told_apart(tmp_path, monkeypatch):
    paths = dataset(tmp_path)
    write(paths, table())
    monkeypatch.setattr(pl.Series, "hash", lambda series, *_: pl.Series([7] * len(series), dtype=pl.UInt64))
    assert list(load_sequences(paths).users) == ["a", "b"]
