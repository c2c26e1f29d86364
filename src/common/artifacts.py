"""How files that cross a stage are read and written, and where those of a dataset lie. docs/data_format.md shows all.

The readers of a dataset's files are in dataset_readers.py, those of a SID index in index_files.py.

Readers name the file, the entry at fault and the remedy. Writers write beside the target and rename, so that a killed
run or a full disk leaves the old file or none, never half of one.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

UMASK = os.umask(0)  # it can only be read by setting it, which threads would do to each other: once, then
os.umask(UMASK)
TOKEN_META = "token_meta.json"  # beside a fine-tuned model: its SID tokens and the index that they are of


# ---- reading and writing ---------------------------------------------------------------------------------------------
@contextmanager
def atomic_path(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; renames it to `path` when the block ends without an error.

    Args:
        synced: False for many small files whose reader checks them: waiting for the disk would take most of the time,
            and only a power cut, not a kill, can leave a file that is not whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _open_temporary(path)
    try:
        yield temporary
        if synced:
            with open(temporary, "rb") as written:  # on disk before the rename
                os.fsync(written.fileno())
        temporary.chmod(0o666 & ~UMASK)  # it was a private file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)  # which unlocks it


def _open_temporary(path: Path) -> tuple[Path, int]:
    """An empty file beside `path`, and its handle, which holds a lock on it.

    Its name is always the same, unless another living process has it locked: so what a killed run was writing is taken
    over by the next that writes `path`, and no half-written file stays for good.
    """
    number = -1
    while True:
        number += 1
        temporary = path.with_name(f".{path.name}.{number}{path.suffix}")
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError:
            if not temporary.exists():
                raise
            continue  # another user's
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(temporary)):
                os.ftruncate(handle, 0)
                return temporary, handle
        except (BlockingIOError, FileNotFoundError):  # it is in use, or was renamed between opening and locking
            pass
        except OSError:  # a disk without locks: nobody there writes a file of this name
            os.close(handle)
            temporary.unlink(missing_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
            return Path(name), handle
        os.close(handle)


def check_writable(path: str | Path) -> None:
    """Makes the folder of `path` and tries it, so that hours of work are not lost where they cannot be written.

    Raises:
        ValueError: `path` is a folder, or nothing can be written beside it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file is to be written there: give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}): give a place that can") from error


def check_is_ours(path: Path, journal: Path) -> None:
    """Refuses to replace a file that was made elsewhere: one of ours has its journal beside it.

    Raises:
        ValueError: `path` exists and `journal` does not.
    """
    if path.exists() and not journal.exists():
        raise ValueError(f"{path} exists, and {journal} does not: it was made elsewhere. Move it away to make another")


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without the byte-order mark that Windows programs put in front.

    Raises:
        ValueError: the file is in another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}). Save it as UTF-8, e.g.:"
            f" iconv -f LATIN1 -t UTF-8 {path} > utf8.json"
        ) from error


def read_json(path: str | Path, remedy: str = "") -> Any:
    """The value of a JSON file.

    Raises:
        FileNotFoundError: the file is missing; `remedy` says how to make it.
        ValueError: the file is not UTF-8, is not whole JSON, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.{' ' + remedy if remedy else ''}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"{path} has the key {twice!r} twice: remove one of them")
        return table

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): it was probably cut off while being written or copied."
            f" Make or copy it again"
        ) from error


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl log; no file, no rows. A last line that a killed or a running writer left unfinished is dropped.

    Raises:
        ValueError: another line is no JSON object.
    """
    path, rows = Path(path), []
    lines = [line for line in read_text(path).split("\n") if line.strip()] if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} of {len(lines)} is no JSON object: {line:.60}. Delete that line")
        rows.append(row)
    return rows


def file_hash(path: str | Path, told: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file's bytes, in hex; `told` hears of every number of bytes read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if told is not None:
                told(len(block))
    return digest.hexdigest()


# ---- where a dataset lies --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class DatasetPaths:
    """Where the files of one dataset lie: `<data_path>/<dataset>/<dataset>.*`."""

    data_path: Path
    dataset: str

    @property
    def folder(self) -> Path:
        return self.data_path / self.dataset

    def file(self, suffix: str) -> Path:
        """`file("inter.json")` is `<data_path>/<dataset>/<dataset>.inter.json`."""
        return self.folder / f"{self.dataset}.{suffix}"


def dataset_paths(data_path: str | Path, dataset: str) -> DatasetPaths:
    paths = DatasetPaths(Path(data_path), dataset)
    if not paths.folder.is_dir():
        raise FileNotFoundError(
            f"there is no dataset folder {paths.folder}: --data_path is the folder that holds {dataset}/,"
            f" and --dataset is that folder's name"
        )
    return paths


# ---- embeddings ------------------------------------------------------------------------------------------------------
def embedding_ids_path(path: str | Path) -> Path:
    """`X.emb-NAME.npy` -> `X.emb-NAME.ids.json`."""
    return Path(path).with_suffix(".ids.json")


def load_embeddings(path: str | Path) -> tuple[np.ndarray, list[int]]:
    """Embeddings and the item id of each row.

    Returns:
        (N, D) float32, finite; ids of the N rows: the sidecar's, or 0..N-1 where there is none.

    Raises:
        ValueError: not a 2-D float array; a value is NaN or infinite; the sidecar has another length or an id twice, or
            names an item that the `<DS>.item.json` beside the file lacks; there is no sidecar, and the rows are not the
            items of that file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Make embeddings with: python3 data_process/qwen_embeddings.py")
    array = _read_npy(path)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or 0 in array.shape:
        raise ValueError(f"{path} must hold a 2-D array of floats, holds {array.dtype} of shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    sidecar = embedding_ids_path(path)
    if sidecar.is_file():
        ids = _read_ids(sidecar, path, len(array))
        _check_items_are_known(path, ids)
    else:
        ids = list(range(len(array)))
        _check_rows_are_items(path, len(array))
    bad = ~np.concatenate([np.isfinite(array[start : start + 4096]).all(1) for start in range(0, len(array), 4096)])
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{path} has NaN or infinite values in {int(bad.sum())} of {len(array)} rows, the first being row {row}"
            f" (item {ids[row]}): make the embeddings of these items again"
        )
    return array, ids


def _read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped: it takes memory as it is read, and what is written to it stays off the file."""
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except (ValueError, EOFError, OSError) as error:
        if "Python objects" in str(error):
            raise ValueError(
                f"{path} holds Python objects, not numbers (rows of unequal length become such). Save one float array:"
                f" np.save(path, np.asarray(rows, dtype=np.float32))"
            ) from error
        raise ValueError(f"{path} is not a whole .npy file ({error}). Make the embeddings again") from error


def _read_ids(sidecar: Path, path: Path, num_rows: int) -> list[int]:
    ids = [int(item) for item in read_json(sidecar)]
    if len(ids) != num_rows:
        raise ValueError(
            f"{path} has {num_rows} rows and {sidecar} names {len(ids)} items: they are of different runs."
            f" Make the embeddings again"
        )
    seen: set[int] = set()
    for row, item in enumerate(ids):
        if item in seen:
            raise ValueError(f"{sidecar} names item {item} twice, in rows {ids.index(item)} and {row}")
        seen.add(item)
    return ids


def _catalogue_of(path: Path) -> Path | None:
    """The `<DS>.item.json` beside embeddings, where there is one."""
    catalogue = path.parent / f"{path.name.partition('.emb-')[0]}.item.json"
    return catalogue if ".emb-" in path.name and catalogue.is_file() else None


def _check_rows_are_items(path: Path, num_rows: int) -> None:
    """Without a sidecar row i is item i: then the catalogue beside the embeddings must have just these items."""
    catalogue = _catalogue_of(path)
    if catalogue is None:
        return
    items = read_json(catalogue)
    if len(items) != num_rows:
        raise ValueError(
            f"{path} has {num_rows} rows and {catalogue} {len(items)} items: without {embedding_ids_path(path).name}"
            f" row i is item i. Make the embeddings again, or write that list of item ids, one a row"
        )
    missing = next((row for row in range(num_rows) if str(row) not in items), None)
    if missing is not None:
        raise ValueError(
            f"{path} has no {embedding_ids_path(path).name}, so that row {missing} is item {missing}, which"
            f" {catalogue} lacks. Write that list of item ids, one a row"
        )


def _check_items_are_known(path: Path, ids: Sequence[int]) -> None:
    """Items that the catalogue beside the embeddings lacks tell of another: in this one all ids may mean others."""
    catalogue = _catalogue_of(path)
    items = read_json(catalogue) if catalogue else {}
    unknown = [item for item in ids if str(item) not in items] if catalogue else []
    if unknown:
        raise ValueError(
            f"{path} has {len(unknown)} of {len(ids)} items that {catalogue} lacks, the first being {unknown[0]}: it"
            f" is of another dataset, in which all ids may mean other items. Make the embeddings again"
        )


def save_embeddings(path: str | Path, embeddings: np.ndarray, item_ids: Sequence[int]) -> None:
    """Writes (N, D) float32 and its ids sidecar; row i is item `item_ids[i]`."""
    if len(embeddings) != len(item_ids):
        raise ValueError(f"{len(embeddings)} embeddings for {len(item_ids)} items")
    sidecar = embedding_ids_path(path)
    sidecar.unlink(missing_ok=True)  # never the ids of one run beside the rows of another
    with atomic_path(path) as temporary:
        np.save(temporary, np.asarray(embeddings, np.float32))
    write_json(sidecar, [int(item) for item in item_ids])


# ---- fine-tuned models -----------------------------------------------------------------------------------------------
def load_token_meta(folder: str | Path) -> dict[str, Any] | None:
    """`token_meta.json` of a fine-tuned model: `sid_tokens` and more; None where the folder has none."""
    path = Path(folder) / TOKEN_META
    return read_json(path) if path.is_file() else None
