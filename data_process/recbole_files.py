"""RecBole's atomic files: tab-separated, a header of `name:type`, one table for interactions and one for items."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import polars as pl

from data_process.raw_files import Header, Tally, csv_blocks, header_columns
from src.common.artifacts import DatasetPaths, atomic_path
from src.common.dataset_readers import ITEM_FIELDS
from src.tasks.catalogue import load_catalogue
from src.tasks.task import Split

if TYPE_CHECKING:
    from data_process.preparation import Prepared

TIME_FIELD = "timestamp"
INTERACTION_FIELDS = {"user": "user_id", "item": "item_id", "time": TIME_FIELD}
TICKS = 1000  # of a second: RecBole writes seconds as floats


def interaction_blocks(tally: Tally) -> Iterator[pl.DataFrame]:
    """`<DS>.inter`: user, item, time in milliseconds; without the column timestamp, the order of the file counts."""
    header = header_columns(tally.path, "\t")
    wanted = dict(INTERACTION_FIELDS)
    if TIME_FIELD not in header.names:
        del wanted["time"]
    columns = {new: header.of(old) for new, old in wanted.items()}
    for block in csv_blocks(tally.path, columns, tally, "\t", has_header=True, types={"time": pl.Float64}):
        if "time" in wanted:
            block = block.with_columns((pl.col("time") * TICKS).round().cast(pl.Int64))
        yield block


def item_blocks(tally: Tally, header: Header) -> Iterator[pl.DataFrame]:
    """`<DS>.item`: item_id and title; description, brand and categories where they are there."""
    columns = {"item": header.of("item_id"), "title": header.of("title")}
    columns |= {name: header.of(name) for name in ITEM_FIELDS if name in header.names}
    for block in csv_blocks(tally.path, columns, tally, "\t", has_header=True, required=["item"]):
        absent = [name for name in ITEM_FIELDS if name not in columns]
        yield block.with_columns(pl.lit("").alias(name) for name in absent)


# ---- writing ---------------------------------------------------------------------------------------------------------
def write_atomic_files(paths: DatasetPaths, prepared: "Prepared", ticks: int, max_his_len: int) -> None:
    """`<DS>.inter`, `<DS>.item` and the samples of each part, for `benchmark_filename: [train, valid, test]`.

    Ids are those of `<DS>.inter.json`. Samples are what fine-tuning and evaluation take from the same sequences.

    Args:
        ticks: of the times, in one second.
        max_his_len: items of a history, the latest.
    """
    interactions, items, _ = prepared
    frame = pl.DataFrame({"user_id:token": interactions.users, "item_id:token": interactions.items})
    if interactions.times is not None:
        frame = frame.with_columns(pl.Series("timestamp:float", interactions.times / ticks))
    _write(paths.file("inter"), frame)
    if items is not None:
        texts = {f"{field}:token_seq": items[field].str.replace_all(r"\s", " ") for field in ITEM_FIELDS}
        _write(paths.file("item"), pl.DataFrame({"item_id:token": np.arange(items.height), **texts}))
    _write_samples(paths, max_his_len)


def _write(path: Path, frame: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.write_csv(temporary, separator="\t", quote_style="never")


def _write_samples(paths: DatasetPaths, max_his_len: int) -> None:
    """One line for each target that has a history, of the sequences just written."""
    catalogue = load_catalogue(paths.data_path, paths.dataset, needs_texts=False)
    for part in get_args(Split):
        with atomic_path(paths.file(f"{part}.inter")) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write("user_id:token\titem_id_list:token_seq\titem_id:token\n")
            for user, position in zip(*map(np.ndarray.tolist, catalogue.next_item_targets(part)), strict=True):
                history = " ".join(map(str, catalogue.history(user, position, max_his_len).tolist()))
                file.write(f"{catalogue.users[user]}\t{history}\t{catalogue.target(user, position)}\n")
