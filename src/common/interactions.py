"""Who had what, oldest first: `<DS>.inter.json`, or a table of any size (`<DS>.inter.parquet`, `<DS>.inter.arrow`).

A JSON file is read into arrays. A table is read once, a batch of rows at a time, into arrays on disk, which are mapped:
they take memory only as they are read, and the system takes it back when it needs it (src/common/mapping.py).
"""

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.common import dataset_readers
from src.common.artifacts import DatasetPaths

TABLES = ("inter.parquet", "inter.arrow")
BLOCK = 1 << 16  # users taken at a time where all are gone through


class UserSequences(NamedTuple):
    """Sequences of U users, one after another.

    Attributes:
        users: name of each user.
        offsets: (U + 1,) int64; those of user u stand in `offsets[u]:offsets[u + 1]` of the arrays of length T.
        items: (T,) int64 item ids, oldest first.
        distinct: (N',) int64 ascending: the item ids among them.
        times: (T,) int64 unix seconds, of a table that has them.
        train_end, valid_end: (U,) int64, of a table: where a user's training and validation end.
        is_split: whether these ends are the table's own, from its column `split`; else they leave one out.
        is_mapped: whether the arrays lie on disk.
    """

    users: Sequence[str]
    offsets: np.ndarray
    items: np.ndarray
    distinct: np.ndarray
    times: np.ndarray | None = None
    train_end: np.ndarray | None = None
    valid_end: np.ndarray | None = None
    is_split: bool = False
    is_mapped: bool = False

    def table(self, values: np.ndarray) -> "SequenceTable":
        """Values of the length T by user."""
        return SequenceTable(self.users, self.offsets, values)

    def split_table(self) -> "SequenceTable":
        """`{user: [items that train, items that validate]}` of a table."""
        assert self.train_end is not None
        assert self.valid_end is not None
        pairs = np.stack([self.train_end, self.valid_end - self.train_end], 1)
        return SequenceTable(self.users, np.arange(0, 2 * len(pairs) + 1, 2), pairs.reshape(-1))


class SequenceTable(Mapping[str, list[int]]):
    """`{user: [value, ...]}` over arrays, as `<DS>.inter.json` has it. To go through it takes no memory."""

    def __init__(self, users: Sequence[str], offsets: np.ndarray, values: np.ndarray):
        self.users, self.offsets, self._values = users, offsets, values

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.users)}

    def __getitem__(self, user: str) -> list[int]:
        return self.of_row(self._row_of[user])

    def of_row(self, row: int) -> list[int]:
        return self._values[self.offsets[row] : self.offsets[row + 1]].tolist()

    def __iter__(self) -> Iterator[str]:
        return iter(self.users)

    def __len__(self) -> int:
        return len(self.users)

    def items(self) -> ItemsView[str, list[int]]:
        return _Items(self)

    def values(self) -> ValuesView[list[int]]:
        return _Values(self)


class _Items(ItemsView):
    def __init__(self, table: SequenceTable):
        super().__init__(table)
        self.table = table

    def __iter__(self):
        return zip(self.table, self.table.values(), strict=True)


class _Values(ValuesView):
    def __init__(self, table: SequenceTable):
        super().__init__(table)
        self.table = table

    def __iter__(self):
        return map(self.table.of_row, range(len(self.table)))


# ---- which file ------------------------------------------------------------------------------------------------------
def interactions_path(paths: DatasetPaths) -> Path:
    """The file, or folder of files, that holds the interactions: a table where there is one, else `<DS>.inter.json`.

    It need not exist; that is for the reader to say.

    Raises:
        ValueError: there are two tables.
    """
    tables = [path for path in map(paths.file, TABLES) if path.exists()]
    if len(tables) > 1:
        raise ValueError(f"{tables[0]} and {tables[1]} both hold interactions: keep one of them")
    return tables[0] if tables else paths.file("inter.json")


def interaction_files(paths: DatasetPaths) -> list[Path]:
    """Every file of the interactions, in the order in which they are read.

    Raises:
        FileNotFoundError: there is a folder for them, and nothing in it.
    """
    path = interactions_path(paths)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(f"*{path.suffix}"))
    if not files:
        raise FileNotFoundError(f"{path} is a folder without a *{path.suffix} file: put the shards there")
    return files


def interaction_inputs(paths: DatasetPaths, lead: str = "") -> dict[str, Path]:
    """The files of the interactions as inputs of a run, by name."""
    files = interaction_files(paths)
    if len(files) == 1:
        return {f"{lead}interactions": files[0]}
    return {f"{lead}interactions {file.name}": file for file in files}


# ---- reading ---------------------------------------------------------------------------------------------------------
def load_sequences(paths: DatasetPaths) -> UserSequences:
    """The interactions of a dataset, whichever file holds them.

    Raises:
        FileNotFoundError, ValueError: the file is missing or broken, or there is `<DS>.inter.json` beside a table and
            says something else.
    """
    path = interactions_path(paths)
    if path == paths.file("inter.json"):
        return _from_json(paths)
    from src.common.mapping import map_table

    sequences = map_table(path, interaction_files(paths), paths.file("inter.mapped"))
    for name, there in (("times.json", sequences.times is not None), ("split.json", sequences.is_split)):
        if there and paths.file(name).is_file():
            raise ValueError(f"{path} has what {paths.file(name)} says: delete that file, or drop the column")
    if paths.file("inter.json").is_file():
        other = _from_json(paths)
        if not _are_equal(sequences, other):
            raise ValueError(f"{path} and {paths.file('inter.json')} hold other interactions: delete one of them")
    elif sequences.times is None:
        dataset_readers.load_times(paths, sequences.table(sequences.items))
    return sequences


def load_interactions(paths: DatasetPaths) -> Mapping[str, list[int]]:
    """Item ids of each user, oldest first, whichever file holds them."""
    if interactions_path(paths) == paths.file("inter.json"):
        return dataset_readers.load_interactions(paths)
    sequences = load_sequences(paths)
    return sequences.table(sequences.items)


def _from_json(paths: DatasetPaths) -> UserSequences:
    table = dataset_readers.load_interactions(paths)
    dataset_readers.load_times(paths, table)
    lengths = np.fromiter((len(items) for items in table.values()), np.int64, len(table))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = np.fromiter((item for items in table.values() for item in items), np.int64, offsets[-1])
    return UserSequences(list(table), offsets, items, np.unique(items))


def _are_equal(one: UserSequences, other: UserSequences) -> bool:
    arrays = ((one.offsets, other.offsets), (one.items, other.items))
    same_users = len(one.users) == len(other.users) and all(map(str.__eq__, one.users, other.users))
    return same_users and all(np.array_equal(*pair) for pair in arrays)


# ---- parts -----------------------------------------------------------------------------------------------------------
def leave_one_out_ends(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the training and the validation part of sequences of these lengths; with one or two items all trains."""
    whole = lengths < 3
    return np.where(whole, lengths, lengths - 2), np.where(whole, lengths, lengths - 1)


def split_ends(paths: DatasetPaths, sequences: UserSequences) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the training and the validation part of each user: the file's, the table's, or leave-one-out.

    Raises:
        ValueError: the file lacks a user, or asks for more items than the user has.
    """
    given = dataset_readers.load_splits(paths)
    if given is None and sequences.train_end is not None and sequences.valid_end is not None:
        return sequences.train_end, sequences.valid_end
    users, lengths = sequences.users, np.diff(sequences.offsets)
    if given is None:
        return leave_one_out_ends(lengths)
    path = paths.file("split.json")
    ends = np.empty((len(users), 2), np.int64)
    for row, user in enumerate(users):
        if user not in given:
            raise ValueError(f"{path} lacks user {user!r} of {interactions_path(paths)}: make both in one run")
        if not isinstance(given[user], list) or [type(number) for number in given[user]] != [int, int]:
            raise ValueError(f"{path}: user {user!r} must have [items that train, items that validate]")
        train, valid = given[user]
        if train < 0 or valid < 0 or train + valid > lengths[row]:
            raise ValueError(f"{path}: user {user!r} has {lengths[row]} items, the split asks for {train} + {valid}")
        ends[row] = train, train + valid
    return ends[:, 0], ends[:, 1]


def blocks_of(total: int, size: int = BLOCK) -> Iterator[slice]:
    """`size` at a time of `total` entries."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
