"""The SID index as a file: where it lies, how it is found, read and written. docs/data_format.md shows its forms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from src.common.artifacts import MAX_ITEM_ID, DatasetPaths, atomic_path, read_table, write_json, write_text
from src.common.mapped_npz import map_npz
from src.common.sid import SidIndex, level_letters, parse_sid_token


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


def load_sid_index(path: str | Path, item_ids: Sequence[int] | np.ndarray | None = None) -> SidIndex:
    """A SID index: `.json` ({item: ["<a_0>", ...]}) or `.npz` (item_ids, codes), with its meta sidecar if there is one.

    Args:
        item_ids: items that must have a SID, such as the catalogue's.

    Raises:
        ValueError: SIDs of different lengths, a token that is no SID token, or an item without a SID.
    """
    path = Path(path)
    meta_path = index_meta_path(path)
    meta = read_table(meta_path) if meta_path.is_file() else {}
    if path.suffix == ".npz":
        try:
            arrays = map_npz(path)
            ids, codes = arrays["item_ids"].astype(np.int64), arrays["codes"]
            letters = tuple(map(str, arrays["letters"])) if "letters" in arrays else level_letters(codes.shape[1])
        except (BadZipFile, KeyError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is not a whole index ({error}). Make or copy it again") from error
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"{path}: codes must be whole numbers, are {codes.dtype}")
        if codes.ndim != 2 or ids.shape != codes.shape[:1] or not len(ids) or codes.min() < 0:
            raise ValueError(
                f"{path} must hold item_ids (N,) and codes (N, L) from 0, has {ids.shape} and {codes.shape}"
            )
    else:
        table = read_table(path, "Make an index with: bash index/generate.sh")
        if not table:
            raise ValueError(f"{path} holds no item")
        odd = next((key for key in table if not key.isdecimal() or int(key) > MAX_ITEM_ID), None)
        if odd is not None:
            raise ValueError(f"{path}: item id {odd!r} is not a whole number from 0 to {MAX_ITEM_ID}")
        odd = next((key for key, tokens in table.items() if not isinstance(tokens, list)), None)
        if odd is not None:
            raise ValueError(f"{path}: item {odd} must have a list of SID tokens, has {table[odd]!r:.80}")
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
    if (ids[1:] <= ids[:-1]).any():  # else they are in order, and mapped codes stay where they are
        order = np.argsort(ids, kind="stable")
        ids, codes = ids[order], codes[order]
        if (ids[1:] == ids[:-1]).any():
            raise ValueError(f"{path} names an item twice")
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
