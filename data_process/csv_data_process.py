"""Your own tables, CSV, TSV or Parquet -> data/<DS>/. Columns are named by flags.

    python3 data_process/csv_data_process.py --dataset Shop --input_path orders.csv --user_column customer \\
        --item_column sku --time_column ordered_at --time_unit text --items_file products.parquet --title_column name

Without --items_file there are no texts: enough for popularity or SASRec, not for embeddings and language models.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.preparation import PreparationConfig, Source, add_preparation_flags, prepare
from src.common.cli import new_parser, user_errors
from src.common.log import setup_logging

TICKS = 1000  # of a second
TIME_UNITS = {"s": 1_000, "ms": 1, "us": 1e-3, "ns": 1e-6, "text": None}  # ticks of one
OPTIONAL_FIELDS = ("description", "brand", "categories")


@dataclass(frozen=True, kw_only=True)
class TableConfig(PreparationConfig):
    """Names of columns. None: there is none; for optional texts, that of the field's own name, if it is there."""

    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str | None = None
    time_unit: str = "s"
    separator: str | None = None
    items_file: Path | None = None
    items_item_column: str | None = None
    title_column: str = "title"
    description_column: str | None = None
    brand_column: str | None = None
    categories_column: str | None = None
    image_column: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.time_unit not in TIME_UNITS:
            raise ValueError(f"--time_unit {self.time_unit}: choose one of {', '.join(TIME_UNITS)}")
        if self.separator is not None and len(self.separator.encode()) != 1:
            raise ValueError(f"--separator {self.separator!r} must be one character; a tab is $'\\t'")
        if self.items_file is None and self.image_column:
            raise ValueError("--image_column is a column of --items_file, which is missing")


def open_source(config: TableConfig) -> Source:
    """The tables; columns are checked now, rows are read later."""
    from data_process.own_tables import Table, interaction_blocks, item_blocks

    interactions = Table(config.input_path, "--input_path", config.separator)
    wanted = {"--user_column": config.user_column, "--item_column": config.item_column}
    has_times = bool(config.time_column)
    if config.time_column:
        wanted["--time_column"] = config.time_column
    interactions.check(wanted)
    ticks_of_unit = TIME_UNITS[config.time_unit]
    blocks = interaction_blocks(interactions, config.user_column, config.item_column, config.time_column, ticks_of_unit)
    if config.items_file is None:
        return Source(blocks, None, has_times, TICKS, [interactions.tally])
    items = Table(config.items_file, "--items_file", config.separator)
    columns = {"item": config.items_item_column or config.item_column, "title": config.title_column}
    items.check({"--items_item_column": columns["item"], "--title_column": columns["title"]})
    for field in OPTIONAL_FIELDS:
        given = getattr(config, f"{field}_column")
        if given:
            items.check({f"--{field}_column": given})
        if given or field in items.columns:
            columns[field] = given or field
    if config.image_column:
        items.check({"--image_column": config.image_column})
        columns["image"] = config.image_column
    tallies = [interactions.tally, items.tally]
    return Source(blocks, item_blocks(items, columns), has_times, TICKS, tallies)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_preparation_flags(parser, "table of interactions: .parquet, else text with a header, also .gz")
    add = parser.add_argument
    add("--user_column", default=TableConfig.user_column, help="column of users")
    add("--item_column", default=TableConfig.item_column, help="column of items")
    add("--time_column", help="column of times (default: none, the order of the rows counts)")
    units = "what a number there counts, since 1970; text: dates such as 2024-05-01 12:30:00; typed dates need none"
    add("--time_unit", choices=list(TIME_UNITS), default=TableConfig.time_unit, help=units)
    add("--separator", help="between columns of text (default: a tab in .tsv and .inter, else a comma)")
    add("--items_file", type=Path, help="table of items (default: none, then there are no texts)")
    add("--items_item_column", help="its column of items (default: that of --item_column)")
    add("--title_column", default=TableConfig.title_column, help="its column of titles")
    for field in OPTIONAL_FIELDS:
        add(f"--{field}_column", help=f"its column of the {field} (default: {field}, where there is one)")
    add(
        "--image_column",
        help="its column of images: paths below data/<DS>/, or addresses; one, or a list",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    setup_logging()
    with user_errors():
        config = TableConfig(**vars(args))
        prepare(config, open_source(config))


if __name__ == "__main__":
    main()
