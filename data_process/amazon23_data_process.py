"""Amazon reviews of 2023 -> data/<DS>/: interactions, times, items, ids, addresses of images.

    python3 data_process/amazon23_data_process.py --dataset Games --input_path raw/amazon23 --user_k 5 --item_k 5

Reads <Category>.csv.gz (user_id,parent_asin,rating,timestamp), or its parts <Category>.train.csv.gz, .valid and .test,
or <Category>.jsonl.gz, the first that there is; and meta_<Category>.jsonl.gz. Items are parents (parent_asin).
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.amazon_files import AmazonConfig, add_amazon_flags
from data_process.preparation import Source, prepare
from src.common.cli import new_parser, user_errors
from src.common.log import logger, setup_logging

if TYPE_CHECKING:
    import polars as pl

    from data_process.raw_files import Tally

FIELDS = {"user_id": "user", "parent_asin": "item", "timestamp": "time"}
MILLISECONDS = 1000  # ticks of a second: what `timestamp` counts


def open_source(config: AmazonConfig) -> Source:
    """The files of a category."""
    from data_process.raw_files import Tally, find_file

    name = config.file_name
    endings = (".csv.gz", ".csv", ".train.csv.gz", ".train.csv", ".jsonl.gz", ".jsonl")
    names = [f"{name}{ending}" for ending in endings]
    file = find_file(config.input_path, names, "--interactions_file", config.interactions_file)
    files = [file]
    if f"{name}.train.csv" in file.name:
        for part in ("valid", "test"):
            rest = file.with_name(file.name.replace(".train.", f".{part}."))
            files.append(find_file(config.input_path, [rest.name], "--interactions_file", rest))
    names = [f"meta_{name}{ending}" for ending in (".jsonl.gz", ".jsonl")]
    metadata = Tally(find_file(config.input_path, names, "--metadata_file", config.metadata_file))
    logger.info("interactions: %s, items: %s", ", ".join(map(str, files)), metadata.path)
    tallies = [Tally(file) for file in files]
    blocks = chain.from_iterable(map(interaction_blocks, tallies))
    return Source(blocks, item_blocks(metadata), ticks=MILLISECONDS, tallies=[*tallies, metadata])


def interaction_blocks(tally: "Tally") -> "Iterator[pl.DataFrame]":
    import polars as pl

    from data_process.raw_files import csv_blocks, header_columns, json_blocks

    if ".csv" in tally.path.suffixes:
        header = header_columns(tally.path, ",")
        columns = {new: header.of(old) for old, new in FIELDS.items()}
        yield from csv_blocks(tally.path, columns, tally, has_header=True, types={"time": pl.Int64})
    else:
        schema = {"user_id": pl.String, "parent_asin": pl.String, "timestamp": pl.Int64}
        yield from (block.rename(FIELDS) for block in json_blocks(tally.path, schema, list(schema), tally))


def item_blocks(tally: "Tally") -> "Iterator[pl.DataFrame]":
    """The items of a metadata file, in the form that `Source` asks for."""
    import polars as pl

    from data_process.raw_files import json_blocks

    texts, picture = pl.List(pl.String), pl.Struct({"hi_res": pl.String, "large": pl.String})
    schema = {"parent_asin": pl.String, "title": pl.String, "store": pl.String, "description": texts}
    schema |= {"categories": texts, "images": pl.List(picture), "details": pl.Struct({"Brand": pl.String})}
    for block in json_blocks(tally.path, schema, ["parent_asin"], tally):
        url = pl.coalesce(pl.element().struct.field("hi_res"), pl.element().struct.field("large"))
        yield block.select(
            pl.col("parent_asin").alias("item"),
            "title",
            pl.col("description").list.join(" ", ignore_nulls=True),
            pl.coalesce(pl.col("details").struct.field("Brand"), "store").alias("brand"),
            pl.col("categories").list.join(", ", ignore_nulls=True),
            pl.col("images").list.eval(url).list.drop_nulls().alias("image_urls"),
        )


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_amazon_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    setup_logging()
    with user_errors():
        config = AmazonConfig(**vars(args))
        prepare(config, open_source(config))


if __name__ == "__main__":
    main()
