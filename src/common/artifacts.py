"""Every file that crosses a stage: its path, reader, writer and check. docs/data_format.md shows them all.

Readers name the file, the entry at fault and the remedy. Writers write beside the target and rename, so that a killed
run or a full disk leaves the old file or none, never half of one.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from src.common.sid import SidIndex, level_letters, parse_sid_token

ITEM_FIELDS = ("title", "description", "brand", "categories")
ENRICHED_LISTS = ("tags", "highlights", "characteristics")
MAKE_ENRICHED = "make it with data_process/data_enricher.py"
MAKE_USER_TEXTS = "make it with data_process/get_llm_output.py"
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
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if synced:
            with open(temporary, "rb") as written:  # on disk before the rename
                os.fsync(written.fileno())
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"{path} has the key {twice!r} twice: remove one of them")
        return table

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): it was probably cut off while being written or copied."
            f" Make or copy it again"
        ) from error


def file_hash(path: str | Path, told: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, in hex; `told` hears of every number of bytes read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if told is not None:
                told(len(block))
    return digest.hexdigest()


# ---- datasets --------------------------------------------------------------------------------------------------------
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


def load_interactions(paths: DatasetPaths) -> dict[str, list[int]]:
    """`<DS>.inter.json`: item ids of each user, oldest first."""
    path = paths.file("inter.json")
    table = read_json(path, "It holds {user: [item, ...]}, oldest item first")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path} must be a table {{user: [item, ...]}} with at least one user")
    for user, items in table.items():
        if not isinstance(items, list) or not all(type(item) is int and item >= 0 for item in items):
            raise ValueError(
                f"{path}: user {user!r} must have a list of item ids (whole numbers from 0), has {items!r:.80}"
            )
    return table


def load_times(paths: DatasetPaths, interactions: Mapping[str, Sequence[int]]) -> dict[str, list[int]] | None:
    """`<DS>.times.json`: unix seconds in the shape of the interactions; None where the file is absent."""
    path = paths.file("times.json")
    if not path.is_file():
        return None
    table = read_json(path)
    for user, items in interactions.items():
        if len(table.get(user, ())) != len(items):
            raise ValueError(f"{path}: user {user!r} has {len(table.get(user, ()))} times for {len(items)} items")
    return table


def load_items(paths: DatasetPaths) -> dict[int, dict[str, Any]]:
    """`<DS>.item.json`: title, description, brand, categories and perhaps image of each item id.

    Fields other than the title may be absent and are then empty; a list (Amazon's categories) is joined by commas.
    """
    path = paths.file("item.json")
    table = read_json(path, "It holds {item: {title, description, brand, categories, image?}}")
    items: dict[int, dict[str, Any]] = {}
    for key, fields in table.items():
        if not str(key).isdecimal():
            raise ValueError(f"{path}: item id {key!r} is not a whole number from 0")
        if not isinstance(fields, dict) or "title" not in fields:
            raise ValueError(f"{path}: item {key} has no title. Give it one (it may be empty)")
        item = dict(fields)
        for field in ITEM_FIELDS:
            value = fields.get(field) or ""
            item[field] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        items[int(key)] = item
    return items


def load_enriched_items(paths: DatasetPaths) -> dict[int, dict[str, Any]]:
    """`<DS>.item_enriched_v2.json`: enhanced_title (str), tags, highlights and characteristics (lists of str).

    Items without an enhanced title, whose enrichment has failed, are left out. An absent list is empty.
    """
    path = paths.file("item_enriched_v2.json")
    table = read_json(path, f"Enriched items are needed: {MAKE_ENRICHED}")
    if not isinstance(table, dict):
        raise ValueError(f"{path} must be a table {{item: {{enhanced_title, tags, ...}}}}: {MAKE_ENRICHED}")
    items: dict[int, dict[str, Any]] = {}
    for key, fields in table.items():
        if not key.isdecimal() or not isinstance(fields, dict):
            raise ValueError(f"{path}: {key!r} is not a whole number from 0 with a table of fields: {MAKE_ENRICHED}")
        title = fields.get("enhanced_title") or ""
        lists = {field: fields.get(field) or [] for field in ENRICHED_LISTS}
        for field, value in {"enhanced_title": [title], **lists}.items():
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                kind = "a text" if field == "enhanced_title" else "a list of texts"
                raise ValueError(f"{path}: {field} of item {key} must be {kind}, is {fields[field]!r:.80}")
        if title.strip():
            items[int(key)] = {"enhanced_title": title, **lists}
    return items


class Search(NamedTuple):
    """What a user asked for, in several wordings, and what they had before."""

    item: int
    history: list[int]
    queries: list[str]


class UserFile(NamedTuple):
    """`<DS>.user.json`."""

    preferences: dict[str, list[str]]  # of each user
    searches: dict[str, dict[str, Search]]  # "train" and "test" -> of each user


def load_user_texts(paths: DatasetPaths) -> UserFile:
    """`<DS>.user.json`: what users like and search for. Blank texts are left out, and a part may be absent."""
    path = paths.file("user.json")
    table = read_json(path, f"Texts about users are needed: {MAKE_USER_TEXTS}")
    parts = ("user_explicit_preference", "user_vague_intention")
    if not isinstance(table, dict) or not any(isinstance(table.get(part), dict) for part in parts):
        raise ValueError(f"{path} must be a table with {' and '.join(parts)}: {MAKE_USER_TEXTS}")

    def texts(value: Any, what: str) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ValueError(f"{path}: {what} must be a list of texts, is {value!r:.80}")
        return [text for text in value if text.strip()]

    def item_id(value: Any, what: str) -> int:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise ValueError(f"{path}: {what} must hold item ids (whole numbers from 0), has {value!r:.80}")
        return int(value)

    preferences = {
        user: texts(value, f"the preference of user {user!r}") for user, value in (table.get(parts[0]) or {}).items()
    }
    searches: dict[str, dict[str, Search]] = {}
    for split in ("train", "test"):
        searches[split] = {}
        for user, row in ((table.get(parts[1]) or {}).get(split) or {}).items():
            what = f"the {split} intention of user {user!r}"
            if not isinstance(row, dict) or not {"item", "inters", "querys"} <= row.keys():
                raise ValueError(f"{path}: {what} must have item, inters and querys, is {row!r:.80}")
            if not isinstance(row["inters"], list):
                raise ValueError(f"{path}: {what} must have a list of inters, has {row['inters']!r:.80}")
            history = [item_id(item, what) for item in row["inters"]]
            searches[split][user] = Search(item_id(row["item"], what), history, texts(row["querys"], what))
    return UserFile(preferences, searches)


def load_id_map(path: str | Path) -> dict[str, int]:
    """`<DS>.item2id` / `<DS>.user2id`: `original<TAB>int` a line."""
    table: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        original, _, value = line.rpartition("\t")
        if not original or not value.strip().isdecimal():
            raise ValueError(f"{path}:{number}: a line is `original<TAB>number`, this one is {line!r:.80}")
        if original in table:
            raise ValueError(f"{path}:{number}: {original!r} stands there twice")
        table[original] = int(value)
    return table


def load_splits(paths: DatasetPaths) -> dict[str, list[int]] | None:
    """`<DS>.split.json`: {user: [n_train, n_valid]} where a split by time was made; None where it is absent."""
    path = paths.file("split.json")
    return read_json(path) if path.is_file() else None


def find_images(
    paths: DatasetPaths, items: Mapping[int, Mapping[str, Any]], image_path: str = "images"
) -> dict[int, Path]:
    """The image file of each item that has one; see `image_places`."""
    return {item: place for item, place in image_places(paths, items, image_path).items() if place.is_file()}


def image_places(
    paths: DatasetPaths, items: Mapping[int, Mapping[str, Any]], image_path: str = "images"
) -> dict[int, Path]:
    """Where the image of each item lies, or would lie.

    The path that an item gives in `image` (relative to the dataset's folder) wins, unless `image_path` is not the
    default `images`: then another set of pictures is wanted, and a file of the same name there is taken. Otherwise it
    is `<image_path>/<original item id>.jpg`, through `<DS>.item2id`. An `image` that is a web address says where the
    picture comes from, and counts as none.

    Raises:
        ValueError: an `image` or an original id is a path that leaves the dataset's folder.
    """
    folder = paths.folder / image_path
    original = {}
    if paths.file("item2id").is_file():
        original = {number: name for name, number in load_id_map(paths.file("item2id")).items()}
    places: dict[int, Path] = {}
    for item_id, fields in items.items():
        given = str(fields.get("image") or "")
        if given.startswith(("http://", "https://")):
            given = ""
        name = given or f"{original.get(item_id, item_id)}.jpg"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            source = paths.file("item.json" if given else "item2id")
            raise ValueError(f"{source}: the image {name!r} of item {item_id} leaves the dataset's folder")
        if given and image_path == "images":
            places[item_id] = paths.folder / given
        elif given:
            places[item_id] = folder / Path(given).name
        else:
            places[item_id] = folder / name
    return places


def load_image_urls(path: str | Path) -> dict[str, list[str]]:
    """`<DS>.image_urls.json`: where the picture of each item may be fetched, best first.

    A `.tsv` is read as well: `item<TAB>address` a line, no header, an item on several lines where it has several.
    """
    path = Path(path)
    remedy = 'It holds {item: ["https://...", ...]}: make it, or name another with --urls or a field with --url_field'
    if path.suffix != ".tsv":
        table = read_json(path, remedy)
        if not isinstance(table, dict):
            raise ValueError(f"{path} must be a table {{item: [address, ...]}}")
        for item, urls in table.items():
            if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
                raise ValueError(f"{path}: item {item} must have a list of addresses, has {urls!r:.80}")
        return table
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. It holds a line item<TAB>address for each picture")
    table = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        item, tab, url = line.partition("\t")
        if not tab or not item.strip() or not url.strip():
            raise ValueError(f"{path}:{number}: a line is `item<TAB>address`, this one is {line!r:.80}")
        table.setdefault(item.strip(), []).append(url.strip())
    return table


# ---- embeddings ------------------------------------------------------------------------------------------------------
def embedding_ids_path(path: str | Path) -> Path:
    """`X.emb-NAME.npy` -> `X.emb-NAME.ids.json`."""
    return Path(path).with_suffix(".ids.json")


def load_embeddings(path: str | Path) -> tuple[np.ndarray, list[int]]:
    """Embeddings and the item id of each row.

    Returns:
        (N, D) float32, finite; ids of the N rows: the sidecar's, or 0..N-1 where there is none.

    Raises:
        ValueError: not a 2-D float array; a value is NaN or infinite; the sidecar has another length or an id twice;
            there is no sidecar, and the rows are not the items of the `<DS>.item.json` beside the file.
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


def _check_rows_are_items(path: Path, num_rows: int) -> None:
    """Without a sidecar row i is item i: then the catalogue beside the embeddings must have just these items."""
    catalogue = path.parent / f"{path.name.partition('.emb-')[0]}.item.json"
    if ".emb-" not in path.name or not catalogue.is_file():
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


def save_embeddings(path: str | Path, embeddings: np.ndarray, item_ids: Sequence[int]) -> None:
    """Writes (N, D) float32 and its ids sidecar; row i is item `item_ids[i]`."""
    if len(embeddings) != len(item_ids):
        raise ValueError(f"{len(embeddings)} embeddings for {len(item_ids)} items")
    sidecar = embedding_ids_path(path)
    sidecar.unlink(missing_ok=True)  # never the ids of one run beside the rows of another
    with atomic_path(path) as temporary:
        np.save(temporary, np.asarray(embeddings, np.float32))
    write_json(sidecar, [int(item) for item in item_ids])


# ---- SID index -------------------------------------------------------------------------------------------------------
def index_path(paths: DatasetPaths, model_name: str) -> Path:
    return paths.folder / "index" / model_name / f"{paths.dataset}.index_{model_name}.json"


def index_meta_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".meta.json")


def resolve_index_file(index_file: str | Path, paths: DatasetPaths) -> Path:
    """The index that `--index_file` names: an existing path, or a suffix such as `.index_qwen7B.json`.

    Raises:
        FileNotFoundError: nothing fits, or a suffix fits several files; the message lists every place tried.
    """
    given = Path(index_file)
    if given.is_file():
        return given
    if "/" in str(index_file):  # a path, not a suffix
        raise FileNotFoundError(
            f"--index_file {index_file} does not exist. Give the path of an index, or only its suffix, such as"
            f" .index_qwen7B.json. Make an index with: bash index/generate.sh"
        )
    tried = [given, paths.folder / f"{paths.dataset}{given}"]
    tried += sorted((paths.folder / "index").glob(f"*/{paths.dataset}{given}"))
    found = [path for path in tried[1:] if path.is_file()]
    if len(found) == 1:
        return found[0]
    places = "\n  ".join(map(str, [*tried, paths.folder / "index" / "*" / f"{paths.dataset}{given}"]))
    if found:
        raise FileNotFoundError(
            f"--index_file {index_file} fits {len(found)} files; give the whole path of one:\n  {places}"
        )
    raise FileNotFoundError(
        f"--index_file {index_file} was not found. Tried:\n  {places}\nMake an index with: bash index/generate.sh"
    )


def load_sid_index(path: str | Path, item_ids: Sequence[int] | None = None) -> SidIndex:
    """A SID index: `.json` ({item: ["<a_0>", ...]}) or `.npz` (item_ids, codes), with its meta sidecar if there is one.

    Args:
        item_ids: items that must have a SID, such as the catalogue's.

    Raises:
        ValueError: SIDs of different lengths, a token that is no SID token, or an item without a SID.
    """
    path = Path(path)
    meta_path = index_meta_path(path)
    meta = read_json(meta_path) if meta_path.is_file() else {}
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                ids, codes = arrays["item_ids"].astype(np.int64), arrays["codes"].astype(np.int64)
                letters = tuple(map(str, arrays["letters"])) if "letters" in arrays else level_letters(codes.shape[1])
        except (BadZipFile, KeyError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is not a whole index ({error}). Make or copy it again") from error
        if codes.ndim != 2 or ids.shape != codes.shape[:1] or not len(ids) or codes.min() < 0:
            raise ValueError(
                f"{path} must hold item_ids (N,) and codes (N, L) from 0, has {ids.shape} and {codes.shape}"
            )
        if len(np.unique(ids)) != len(ids):
            raise ValueError(f"{path} names an item twice")
    else:
        table = read_json(path, "Make an index with: bash index/generate.sh")
        if not table:
            raise ValueError(f"{path} holds no item")
        odd = next((key for key in table if not key.isdecimal()), None)
        if odd is not None:
            raise ValueError(f"{path}: item id {odd!r} is not a whole number from 0")
        first = next(iter(table.values()))
        if not first:
            raise ValueError(f"{path} holds no SID: {next(iter(table))} has an empty list")
        letters = tuple(parse_sid_token(token, path)[0] for token in first)
        ids = np.fromiter((int(item) for item in table), np.int64, len(table))
        codes = np.empty((len(table), len(letters)), np.int64)
        for row, (item, tokens) in enumerate(table.items()):
            parsed = [parse_sid_token(token, path) for token in tokens]
            if tuple(letter for letter, _ in parsed) != letters:
                raise ValueError(
                    f"{path}: item {item} has {''.join(tokens)}, the first item {''.join(first)}: levels differ"
                )
            codes[row] = [code for _, code in parsed]
    order = np.argsort(ids, kind="stable")
    ids, codes = ids[order], codes[order]
    sizes = tuple(int(size) for size in meta.get("codebook_sizes", codes.max(0) + 1))
    if len(sizes) != len(letters) or (codes >= np.asarray(sizes)).any():
        raise ValueError(f"{meta_path} gives codebook sizes {list(sizes)} that do not fit {path}: make the index again")
    if item_ids is not None:
        missing = np.setdiff1d(np.asarray(item_ids, np.int64), ids)
        if len(missing):
            raise ValueError(
                f"{path} lacks {len(missing)} of {len(item_ids)} items, the first being {missing[0]}: it was made from"
                f" other embeddings than this dataset's. Make it again with: bash index/generate.sh"
            )
    return SidIndex(ids, codes, letters, sizes, path=path, meta=meta)


def save_sid_index(path: str | Path, index: SidIndex, meta: Mapping[str, Any]) -> None:
    """Writes the index in the form that the suffix asks for (.json or .npz), and its `.meta.json`."""
    path = Path(path)
    index_meta_path(path).unlink(missing_ok=True)
    if path.suffix == ".npz":
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                item_ids=index.item_ids.astype(np.int32),
                codes=index.codes.astype(np.int32),
                letters=np.asarray(index.letters),
            )
    else:
        tokens = [json.dumps(token, ensure_ascii=False) for token in index.all_tokens]
        positions = (index.codes + index.level_offsets).tolist()
        rows = ",\n".join(
            f'"{item}": [{", ".join([tokens[position] for position in row])}]'
            for item, row in zip(index.item_ids.tolist(), positions, strict=True)
        )
        write_text(path, "{\n" + rows + "\n}\n")
    levels = {
        "num_levels": len(index.letters),
        "letters": list(index.letters),
        "codebook_sizes": list(index.codebook_sizes),
    }
    write_json(index_meta_path(path), {**levels, **meta}, indent=2)


# ---- fine-tuned models -----------------------------------------------------------------------------------------------
def load_token_meta(folder: str | Path) -> dict[str, Any] | None:
    """`token_meta.json` of a fine-tuned model: `sid_tokens` and more; None where the folder has none."""
    path = Path(folder) / TOKEN_META
    return read_json(path) if path.is_file() else None
