"""Tables of interactions as arrays on disk: read once, a batch of rows at a time, whatever their size.

The arrays lie in `<DS>.inter.mapped/<hash of the files>/`, or below $GREC_CACHE, and are made anew when a file changes.
Deleting the folder costs nothing but the time to make it again.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from src.common.artifacts import file_hash, read_json, write_json
from src.common.interactions import UserSequences, blocks_of
from src.common.log import duration, logger

PLACE = "GREC_CACHE"  # environment variable: the folder for mapped arrays, where the dataset's own cannot be written
LAYOUT = "1"  # of the arrays; another one has another hash
META = "meta.json"
ARRAYS: dict[str, type] = {  # file -> type; `times` only where the table has them
    "offsets": np.int64,
    "items": np.int64,
    "times": np.int64,
    "train_end": np.int64,
    "valid_end": np.int64,
    "distinct": np.int64,
    "name_offsets": np.int64,
    "names": np.uint8,
}


class UserNames(Sequence[str]):
    """Names of users, the i-th of them between two offsets of one run of UTF-8 bytes."""

    def __init__(self, text: np.ndarray, offsets: np.ndarray):
        self.text, self.offsets = text, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        row = range(len(self))[row]
        return self.text[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for block in blocks_of(len(self)):
            ends = self.offsets[block.start : block.stop + 1]
            text, ends = self.text[ends[0] : ends[-1]].tobytes(), (ends - ends[0]).tolist()
            for begin, end in pairwise(ends):
                yield text[begin:end].decode()

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        for row, name in enumerate(self):
            if name == value and row >= start and (stop is None or row < stop):
                return row
        raise ValueError(f"{value!r} is no user")


def map_table(path: Path, files: Sequence[Path], folder: Path) -> UserSequences:
    """The sequences of a table whose rows stand in `files`; makes the arrays where they are not there.

    Args:
        path: what users know the table by.
        folder: for the arrays, unless $GREC_CACHE names another place.

    Raises:
        ValueError: the table is broken; OSError: there is no place to write to.
    """
    folder = Path(os.environ[PLACE]) / folder.name if os.environ.get(PLACE) else folder
    stamps = [_stamp(file) for file in files]
    for meta in folder.glob(f"[!.]*/{META}"):  # one with a dot is being made, and will have another name
        if read_json(meta)["stamps"] == stamps:
            return _open(meta.parent)
    hashes = [file_hash(file) for file in files]
    place = folder / sha256(" ".join([LAYOUT, *hashes]).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several ranks one makes the arrays, and the others wait
            if place.is_dir():  # made by another rank, or of the same rows in a file that was copied or touched
                write_json(place / META, {**read_json(place / META), "stamps": stamps})
            else:
                _make(path, files, place, {"stamps": stamps, "sha256": hashes, "table": str(path.resolve())})
    except OSError as error:
        raise OSError(
            f"{folder} is to hold {path} as arrays, and cannot be written ({error}): make room, or set {PLACE} to a"
            f" folder that can"
        ) from error
    return _open(place)


def _stamp(file: Path) -> list[Any]:
    """By which a file is taken for unchanged. Sizes and times may be those of other rows: archives set one time."""
    told = file.stat()
    return [file.name, told.st_size, told.st_mtime_ns, told.st_ctime_ns]  # the last cannot be set


def _make(path: Path, files: Sequence[Path], place: Path, meta: dict[str, Any]) -> None:
    """Writes the arrays beside their place and renames their folder; removes what killed or former runs left."""
    from src.common.table_reader import convert

    former = [other for other in place.parent.iterdir() if other.is_dir() and _is_stale(other, meta["table"])]
    logger.info("%s: mapping it into %s, once", path, place.parent)
    started = time.time()
    temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
    try:
        meta |= convert(path, files, temporary)
        write_json(temporary / META, meta)
        temporary.chmod(0o755)
        os.rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in former:  # whoever has them open keeps them
        shutil.rmtree(other, ignore_errors=True)
    logger.info(
        "%s: %s users, %s interactions, after %s",
        path, f"{meta['users']:,}", f"{meta['rows']:,}", duration(time.time() - started),
    )  # fmt: skip


def _is_stale(place: Path, table: str) -> bool:
    """Whether arrays were left half made, or are what the table held before; $GREC_CACHE may hold those of others."""
    meta = place / META
    return place.name.startswith(".") or not meta.is_file() or read_json(meta).get("table", table) == table


def _open(place: Path) -> UserSequences:
    meta = read_json(place / META)
    arrays = {name: open_array(place / name, name) for name in ARRAYS if (place / name).is_file()}
    names = UserNames(arrays.pop("names"), arrays.pop("name_offsets"))
    return UserSequences(names, **arrays, is_split=meta["is_split"], is_mapped=True)


def open_array(file: Path, name: str) -> np.ndarray:
    """One of `ARRAYS`, mapped."""
    kind = np.dtype(ARRAYS[name])
    if not file.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(file, kind, mode="r").view(np.ndarray)  # slices of a memmap are slow to make
