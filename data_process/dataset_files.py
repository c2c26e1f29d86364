"""Writes what docs/data_format.md calls a dataset, out of arrays, a slice at a time.

The interactions are written last: where they are, everything else is.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_process.interactions import Interactions, offsets_of
from src.common.artifacts import DatasetPaths, atomic_path, check_writable
from src.common.dataset_readers import ITEM_FIELDS
from src.common.interactions import interactions_path
from src.common.log import logger
from src.common.record import run_record, write_record

OWN_FILES = (
    "inter.json", "inter.parquet", "times.json", "split.json", "item.json", "item2id", "user2id", "image_urls.json",
)  # fmt: skip
RECORD = "run.json"  # what they were made from
MADE_FROM_THEM = ("*.emb-*.npy", "*.item_enriched_v2.json", "*.user.json", "index/*/*.index_*")
PARTS = ("train", "valid", "test")
SLICE = 1 << 20  # interactions whose text is made at once
NO_ID = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|^\s|\s$")  # would tear a line of an id map


def check_target(paths: DatasetPaths, overwrite: bool) -> None:
    """Refuses a folder that holds files of a dataset, unless they may be overwritten, or that cannot be written to."""
    there = [path for path in map(paths.file, OWN_FILES) if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{there[0]} exists: choose another --dataset or --output_path, or pass --overwrite to make it anew"
        )
    table = interactions_path(paths)
    if table.is_dir() or table.suffix == ".arrow":  # would win over what is written, or stand in its way
        raise FileExistsError(f"{table} was not made here: move it away")
    check_writable(paths.file("inter.json"))


def remove_former(paths: DatasetPaths) -> None:
    """Removes what an earlier run wrote, so that no file of other ids stays beside the new ones."""
    for suffix in (*OWN_FILES, RECORD):
        paths.file(suffix).unlink(missing_ok=True)
    shutil.rmtree(paths.file("inter.mapped"), ignore_errors=True)
    left = [file for pattern in MADE_FROM_THEM for file in sorted(paths.folder.glob(pattern))]
    if left:
        logger.warning(
            "%s and %d other files were made from the dataset that was here: if ids have changed, make them again",
            left[0],
            len(left) - 1,
        )


def check_names(names: pl.Series, what: str) -> None:
    """Refuses original ids that a line of an id map cannot hold."""
    odd = names.filter(names.str.contains(NO_ID.pattern))
    if len(odd):
        raise ValueError(
            f"{len(odd):,} {what} ids hold a tab, a line break or blanks at an end, the first being {odd[0]!r}:"
            f" clean that column of the input"
        )


def write_dataset_record(paths: DatasetPaths, config: Any, inputs: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """`<DS>.run.json`: what the tables of a dataset were made from.

    Args:
        inputs: raw files, as `run_record` takes them.
        more: endings of further tables that the run has made.
    """
    made = {suffix: paths.file(suffix) for suffix in (*OWN_FILES, *more) if paths.file(suffix).is_file()}
    write_record(paths.file(RECORD), {"artefact": "dataset", **run_record(config, inputs)}, made)


# ---- files -----------------------------------------------------------------------------------------------------------
def write_table(path: Path, rows: Iterable[str]) -> None:
    """A JSON table; each of `rows` holds entries, one a line, with a comma between two but not at the end."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("{")
        for number, row in enumerate(rows):
            file.write(("\n" if number == 0 else ",\n") + row)
        file.write("\n}\n")


def write_sequences(path: Path, users: np.ndarray, values: np.ndarray) -> None:
    """`{"0": [value, ...], ...}` for rows that are ordered by user."""
    write_table(path, (",\n".join(part) for part in _sequence_lines(users, values)))


def _sequence_lines(users: np.ndarray, values: np.ndarray) -> Iterator[list[str]]:
    offsets = offsets_of(users)
    start = 0
    while start < len(offsets) - 1:
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + SLICE, side="right")) - 1)
        rows = slice(offsets[start], offsets[end])
        lists = (
            pl.DataFrame({"user": users[rows], "value": values[rows]})
            .group_by("user", maintain_order=True)
            .agg(pl.col("value"))
            .with_columns(pl.col("value").cast(pl.List(pl.String)).list.join(", "))
        )
        yield lists.select(pl.format('"{}": [{}]', "user", "value")).to_series().to_list()
        start = end


def write_id_map(path: Path, names: pl.Series) -> None:
    with atomic_path(path) as temporary:
        frame = pl.DataFrame({"name": names, "id": np.arange(len(names))})
        frame.write_csv(temporary, include_header=False, separator="\t", quote_style="never")


def write_items(path: Path, items: pl.DataFrame) -> None:
    """`<DS>.item.json`: row i is item i; columns are the text fields and perhaps image, which may be null."""
    texts = items.select(*ITEM_FIELDS)
    encoded = texts.select(pl.struct(pl.all()).struct.json_encode()).to_series()
    if "image" in items.columns:
        pictured = items.select(*ITEM_FIELDS, "image").select(pl.struct(pl.all()).struct.json_encode()).to_series()
        encoded = pl.select(pl.when(items["image"].is_null()).then(encoded).otherwise(pictured)).to_series()
    entries = pl.DataFrame({"id": np.arange(len(encoded)), "fields": encoded})
    rows = (entries[start : start + 1000] for start in range(0, len(entries), 1000))
    write_table(path, (",\n".join(part.select(pl.format('"{}": {}', "id", "fields")).to_series()) for part in rows))


def write_image_urls(path: Path, urls: Sequence[Sequence[str] | None]) -> None:
    """`{"<item>": [url, ...]}`, best picture first; items without one are left out."""
    write_table(path, (f'"{item}": {json.dumps(list(given))}' for item, given in enumerate(urls) if given))


def write_splits(path: Path, ends: np.ndarray) -> None:
    """`<DS>.split.json`; `ends`: (U, 2) numbers of items that train and that validate."""
    write_table(path, (f'"{user}": [{train}, {valid}]' for user, (train, valid) in enumerate(ends.tolist())))


def write_parquet(path: Path, interactions: Interactions, ticks: int, ends: np.ndarray | None) -> None:
    """`<DS>.inter.parquet`: a row an interaction, with times and, where they are not leave-one-out, parts."""
    columns = {"user": interactions.users.astype(np.int64), "item": interactions.items.astype(np.int64)}
    if interactions.times is not None:
        columns["time"] = interactions.times // ticks
    frame = pl.DataFrame(columns)
    if ends is not None:
        lengths = np.bincount(interactions.users)
        place = np.arange(len(frame)) - offsets_of(interactions.users)[:-1].repeat(lengths)
        part = np.add(*((place >= end.repeat(lengths)).astype(np.uint8) for end in (ends[:, 0], ends.sum(1))))
        names = pl.Series("split", part).replace_strict(dict(enumerate(PARTS)), return_dtype=pl.String)
        frame = frame.with_columns(names)
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, row_group_size=SLICE)


def write_dataset(
    paths: DatasetPaths,
    interactions: Interactions,
    ticks: int,
    ends: np.ndarray | None,
    items: pl.DataFrame | None,
    inter_format: str = "json",
) -> None:
    """All files of a dataset, of interactions that are in order and hold ids.

    Args:
        ticks: of the times, in one second.
        ends: of the parts of each user; None: leave-one-out, which needs no file.
        items: as `write_items` takes them, perhaps with image_urls; None: none are known.
    """
    check_names(interactions.item_names, "item")
    check_names(interactions.user_names, "user")
    remove_former(paths)
    if items is not None:
        write_items(paths.file("item.json"), items)
        urls = items["image_urls"].to_list() if "image_urls" in items.columns else []
        if any(urls):
            write_image_urls(paths.file("image_urls.json"), urls)
    write_id_map(paths.file("item2id"), interactions.item_names)
    write_id_map(paths.file("user2id"), interactions.user_names)
    if inter_format == "parquet":
        write_parquet(paths.file("inter.parquet"), interactions, ticks, ends)
        return
    if interactions.times is not None:
        write_sequences(paths.file("times.json"), interactions.users, interactions.times // ticks)
    if ends is not None:
        write_splits(paths.file("split.json"), ends)
    write_sequences(paths.file("inter.json"), interactions.users, interactions.items)
