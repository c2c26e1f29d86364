"""Amazon reviews of 2018 -> data/<DS>/: interactions, times, items, ids, addresses of images.

    python3 data_process/amazon18_data_process.py --dataset Games --input_path raw/amazon18 --user_k 5 --item_k 5

Reads <Category>.csv (item,user,rating,timestamp), or <Category>.json.gz, or <Category>_5.json.gz, the first that there
is; and meta_<Category>.json.gz. Items without metadata are left out.
"""

import argparse
import sys
from collections.abc import Iterator
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

CSV_COLUMNS = {"item": 0, "user": 1, "time": 3}
REVIEW_FIELDS = {"reviewerID": "user", "asin": "item", "unixReviewTime": "time"}


def open_source(config: AmazonConfig) -> Source:
    """The files of a category."""
    import polars as pl

    from data_process.raw_files import Tally, csv_blocks, find_file, json_blocks

    name = config.file_name
    names = [f"{name}{ending}" for ending in (".csv", ".csv.gz", ".json.gz", ".json", "_5.json.gz", "_5.json")]
    ratings = Tally(find_file(config.input_path, names, "--interactions_file", config.interactions_file))
    names = [f"meta_{name}{ending}" for ending in (".json.gz", ".json")]
    metadata = Tally(find_file(config.input_path, names, "--metadata_file", config.metadata_file))
    logger.info("interactions: %s, items: %s", ratings.path, metadata.path)
    if ".csv" in ratings.path.suffixes:
        blocks = csv_blocks(ratings.path, CSV_COLUMNS, ratings, types={"time": pl.Int64})
    else:
        schema = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
        reviews = json_blocks(ratings.path, schema, list(schema), ratings)
        blocks = (block.rename(REVIEW_FIELDS) for block in reviews)
    return Source(blocks, item_blocks(metadata, config.image_urls), tallies=[ratings, metadata])


def item_blocks(tally: "Tally", image_urls: bool) -> "Iterator[pl.DataFrame]":
    """The items of a metadata file, in the form that `Source` asks for."""
    import polars as pl

    from data_process.raw_files import json_blocks

    texts = pl.List(pl.String)
    schema = {"asin": pl.String, "title": pl.String, "brand": pl.String, "description": texts, "category": texts}
    columns = [
        pl.col("asin").alias("item"),
        "title",
        pl.col("description").list.join(" ", ignore_nulls=True),
        pl.col("brand").str.replace(r"^\s*by\s*\n\s*", ""),  # "by\n    Nintendo", as the page had it
        # The last category of some items is a piece of the page.
        pl.col("category")
        .list.eval(pl.element().filter(~pl.element().str.contains("</span>", literal=True)))
        .list.join(", ", ignore_nulls=True)
        .alias("categories"),
    ]
    if image_urls:
        schema |= {"imageURLHighRes": texts, "imageURL": texts}
        large, small = (
            pl.col(name).list.eval(pl.element().filter(pl.element() != "")) for name in ("imageURLHighRes", "imageURL")
        )
        columns.append(pl.when(large.list.len() > 0).then(large).otherwise(small).alias("image_urls"))
    for block in json_blocks(tally.path, schema, ["asin"], tally):
        yield block.select(columns)


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
