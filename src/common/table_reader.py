"""The rows of a table of interactions, checked and appended to arrays on disk, a batch at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from src.common.interactions import blocks_of, leave_one_out_ends
from src.common.mapping import ARRAYS, UserNames, open_array

BATCH_ROWS = 1 << 17
COLUMNS = "user and item, and perhaps time (unix seconds) and split (train, valid or test)"
PARTS = {"train": 0, "valid": 1, "test": 2}
LARGEST_ITEM = 2**31 - 1  # as in an index
LARGEST_TIME = 2**63 - 1


def convert(path: Path, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Writes the arrays of `mapping.ARRAYS` into `folder`; gives how many users and rows, and whether it is split.

    Raises:
        ValueError: a column is missing or of another type, a value is missing or out of range, rows of a user stand
            apart, or are not oldest first; the message names the first such row.
    """
    columns = [_columns(file) for file in files]
    for file, other in zip(files, columns, strict=True):
        if other != columns[0]:
            raise ValueError(f"{file} has the columns {', '.join(other)}, {files[0].name} {', '.join(columns[0])}")
    writer = _Writer(path, folder, columns[0])
    with writer:
        for file in files:
            for batch in _batches(file, columns[0]):
                writer.add(batch)
        writer.finish()
    _check_users_stand_together(path, folder)
    if "split" not in columns[0]:
        _write_leave_one_out_ends(folder)
    return {"users": writer.num_users, "rows": writer.num_rows, "is_split": "split" in columns[0]}


def _scan(file: Path) -> pl.LazyFrame:
    scan = pl.scan_ipc if file.suffix == ".arrow" else pl.scan_parquet
    return scan(file, glob=False)  # brackets and stars may stand in the name of a folder


def _columns(file: Path) -> list[str]:
    """Those of our columns that a file has, after a look at their types."""
    try:
        schema = _scan(file).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({_first_line(error)}): was it copied whole?") from error
    missing = [name for name in ("user", "item") if name not in schema]
    if missing:
        raise ValueError(f"{file} has no column {missing[0]!r}, but {', '.join(schema)}: it needs {COLUMNS}")
    wanted = {name: "whole numbers" for name in ("item", "time") if name in schema}
    for name, what in wanted.items():
        if not schema[name].is_integer():
            raise ValueError(f"{file}: the column {name!r} holds {schema[name]}, and must hold {what}")
    for name in ("user", "split"):
        is_text = name in schema and isinstance(schema[name], pl.String | pl.Categorical | pl.Enum)
        if name in schema and not is_text and not (name == "user" and schema[name].is_integer()):
            what = "texts or whole numbers" if name == "user" else "train, valid or test"
            raise ValueError(f"{file}: the column {name!r} holds {schema[name]}, and must hold {what}")
    return [name for name in ("user", "item", "time", "split") if name in schema]


def _batches(file: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    frame = _scan(file).select(columns)
    texts = [name for name, kind in frame.collect_schema().items() if isinstance(kind, pl.Categorical | pl.Enum)]
    batches = frame.with_columns(pl.col(texts).cast(pl.String)).collect_batches(
        chunk_size=BATCH_ROWS, maintain_order=True
    )
    while True:
        try:
            batch = next(batches, None)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(
                f"{file} cannot be read to its end ({_first_line(error)}): was it copied whole?"
            ) from error
        if batch is None:
            return
        if batch.height:
            yield batch


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Writer:
    """Appends batches; holds what the next one needs to know of the last."""

    def __init__(self, path: Path, folder: Path, columns: list[str]):
        self.path, self.folder, self.columns = path, folder, columns
        self.num_rows = self.num_users = self.num_bytes = 0
        self.last: dict[str, Any] = {}  # the last row
        self.seen = np.zeros(1 << 16, bool)  # of each item id, whether there is one
        self.parts = np.zeros(2, np.int64)  # rows of the last user that train, and that train or validate

    def __enter__(self) -> "_Writer":
        self.stack, self.files = ExitStack(), {}
        for name in (*ARRAYS, "hashes"):
            if name != "times" or "time" in self.columns:
                self.files[name] = self.stack.enter_context(open(self.folder / name, "wb"))
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def write(self, name: str, values: np.ndarray) -> None:
        self.files[name].write(np.ascontiguousarray(values, ARRAYS.get(name, np.uint64)).data)

    def fail(self, row: int, batch: pl.DataFrame, what: str) -> None:
        raise ValueError(f"{self.path}, row {self.num_rows + row} {batch.row(row, named=True)}: {what}")

    def add(self, batch: pl.DataFrame) -> None:
        for name in self.columns:
            if batch[name].null_count():
                self.fail(int(batch[name].is_null().arg_max()), batch, f"it has no {name}. Drop such rows")
        users, items = batch["user"], batch["item"]
        if (least := items.min()) < 0 or items.max() > LARGEST_ITEM:
            row = int((items < 0).arg_max() if least < 0 else items.arg_max())
            self.fail(row, batch, f"item ids are whole numbers from 0 to {LARGEST_ITEM:,}")
        fresh = (users != users.shift(1)).fill_null(True).to_numpy().copy()
        fresh[0] = users[0] != self.last.get("user")
        self._add_items(items.cast(pl.Int64).to_numpy())
        if "time" in self.columns:
            if batch["time"].max() > LARGEST_TIME:
                self.fail(int(batch["time"].arg_max()), batch, "times are unix seconds")
            times = batch["time"].cast(pl.Int64).to_numpy()
            earlier = np.flatnonzero((times < self._before(times, "time")) & ~fresh)
            if len(earlier):
                self.fail(int(earlier[0]), batch, "it is older than the row before. Sort by user, then time")
            self.write("times", times)
        starts = np.flatnonzero(fresh)
        if "split" in self.columns:
            self._add_parts(batch, fresh, starts)
        self._add_users(users.gather(starts), starts)
        self.last = batch.row(-1, named=True)
        self.num_rows += batch.height

    def _before(self, values: np.ndarray, name: str) -> np.ndarray:
        """The value of the row before each."""
        return np.concatenate([[self.last.get(name, 0)], values[:-1]])

    def _add_items(self, items: np.ndarray) -> None:
        if (largest := int(items.max())) >= len(self.seen):
            self.seen = np.concatenate([self.seen, np.zeros(largest + 1, bool)])
        self.seen[items] = True
        self.write("items", items)

    def _add_users(self, names: pl.Series, starts: np.ndarray) -> None:
        if not len(names):
            return
        names = names.cast(pl.String)
        ends = self.num_bytes + np.cumsum(names.str.len_bytes().to_numpy(), dtype=np.int64)
        self.write("offsets", self.num_rows + starts)
        self.write("name_offsets", np.concatenate([[self.num_bytes], ends[:-1]]))
        self.files["names"].write("".join(names.to_list()).encode())
        self.write("hashes", names.hash().to_numpy())
        self.num_bytes, self.num_users = int(ends[-1]), self.num_users + len(names)

    def _add_parts(self, batch: pl.DataFrame, fresh: np.ndarray, starts: np.ndarray) -> None:
        """Counts the rows of each user that train, and that train or validate; the last user may go on."""
        codes = batch["split"].replace_strict(PARTS, default=None, return_dtype=pl.Int64)
        if codes.null_count():
            self.fail(int(codes.is_null().arg_max()), batch, f"split is one of {', '.join(PARTS)}")
        codes = codes.to_numpy()
        before = np.concatenate([[PARTS[self.last.get("split", "train")]], codes[:-1]])
        wrong = np.flatnonzero((codes < before) & ~fresh)
        if len(wrong):
            self.fail(int(wrong[0]), batch, "of a user what trains comes first, then what validates, then what tests")
        flags = np.stack([codes == 0, codes <= 1], 1).astype(np.int64)
        self.parts += flags[: starts[0] if len(starts) else None].sum(0)
        if len(starts):
            ends = np.add.reduceat(flags, starts)
            if self.num_users:
                ends = np.concatenate([[self.parts], ends])
            self._write_parts(ends[:-1])
            self.parts = ends[-1]

    def _write_parts(self, ends: np.ndarray) -> None:
        self.write("train_end", ends[:, 0])
        self.write("valid_end", ends[:, 1])

    def finish(self) -> None:
        if not self.num_rows:
            raise ValueError(f"{self.path} has no row: there must be at least one user")
        self.write("offsets", np.array([self.num_rows]))
        self.write("name_offsets", np.array([self.num_bytes]))
        self.write("distinct", np.flatnonzero(self.seen))
        if "split" in self.columns:
            self._write_parts(self.parts[None])


def _write_leave_one_out_ends(folder: Path) -> None:
    offsets = open_array(folder / "offsets", "offsets")
    with open(folder / "train_end", "wb") as train, open(folder / "valid_end", "wb") as valid:
        for block in blocks_of(len(offsets) - 1):
            ends = leave_one_out_ends(np.diff(offsets[block.start : block.stop + 1]))
            for file, values in zip((train, valid), ends, strict=True):
                file.write(values.data)


def _check_users_stand_together(path: Path, folder: Path) -> None:
    """Refuses a user whose rows stand in two places; sorts hashes of names on disk, since all names may not fit."""
    file = folder / "hashes"
    hashes = np.memmap(file, np.uint64, "r+")
    hashes.sort()
    equal = [hashes[block][1:][np.diff(hashes[block]) == 0] for block in _overlapping(len(hashes))]
    del hashes
    file.unlink()
    twice = np.unique(np.concatenate(equal))
    if not len(twice):
        return
    names = UserNames(open_array(folder / "names", "names"), open_array(folder / "name_offsets", "name_offsets"))
    seen: set[str] = set()
    for block in blocks_of(len(names)):
        part = pl.Series(names[block], dtype=pl.String)
        for name in part.filter(pl.Series(np.isin(part.hash().to_numpy(), twice))):  # two names may share a hash
            if name in seen:
                raise ValueError(
                    f"{path}: rows of user {name!r} stand in two places. Sort it by user, then time:"
                    f" polars.scan_parquet(SOURCE).sort('user', 'time').sink_parquet(TARGET)"
                )
            seen.add(name)


def _overlapping(total: int) -> Iterator[slice]:
    """Blocks each of which begins with the last entry of the one before."""
    return (slice(max(block.start - 1, 0), block.stop) for block in blocks_of(total))
