"""From the interactions and items of any source to `data/<DS>/`: what every entry for raw data shares."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from src.common.artifacts import DatasetPaths
from src.common.cli import add_switch, check_at_least
from src.common.log import logger

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from data_process.interactions import Interactions
    from data_process.item_texts import ItemTable
    from data_process.raw_files import Tally

YEAR_2200 = 7_258_118_400  # unix seconds
SPLITS = ("leave_one_out", "temporal")
INTER_FORMATS = ("json", "parquet")


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """What is kept, how it is split, and where it goes."""

    dataset: str
    input_path: Path
    output_path: Path = Path("data")
    user_k: int = 5
    item_k: int = 5
    split: str = "leave_one_out"
    valid_share: float = 0.1
    test_share: float = 0.1
    inter_format: str = "json"
    image_urls: bool = True
    plots: bool = True
    overwrite: bool = False

    def __post_init__(self):
        check_at_least(self, user_k=1, item_k=1)
        if self.split not in SPLITS:
            raise ValueError(f"--split {self.split}: choose one of {', '.join(SPLITS)}")
        if self.inter_format not in INTER_FORMATS:
            raise ValueError(f"--inter_format {self.inter_format}: choose one of {', '.join(INTER_FORMATS)}")
        for name in ("valid_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: it must lie between 0 and 1")
        if self.valid_share + self.test_share >= 1:
            raise ValueError(f"--valid_share {self.valid_share} --test_share {self.test_share} leave nothing to train")
        if not self.dataset or Path(self.dataset).name != self.dataset:
            raise ValueError(
                f"--dataset {self.dataset!r} must be a plain name: it becomes a folder and begins file names"
            )

    @property
    def paths(self) -> DatasetPaths:
        return DatasetPaths(self.output_path, self.dataset)


@dataclass(frozen=True)
class Source:
    """Raw data as frames of some thousand rows; reading has not begun.

    Attributes:
        interactions: frames with user, item (text) and, if `has_times`, time (int64), in the order of the input.
        items: frames with item, title, description, brand, categories (text) and perhaps image (a path below the
            dataset's folder) or image_urls (a list); None: nothing is known of items.
        ticks: of time, in one second.
        tallies: of the files that `interactions` and `items` read.
    """

    interactions: "Iterable[pl.DataFrame]"
    items: "Iterable[pl.DataFrame] | None"
    has_times: bool = True
    ticks: int = 1
    tallies: "list[Tally]" = field(default_factory=list)


@dataclass
class Funnel:
    """How many interactions each step has left."""

    read: int = 0
    in_reach: int = 0  # in the k-core while repeats and items without texts still count
    with_items: int = 0  # of items that have texts
    without_repeats: int = 0
    kept: int = 0
    repeated_items: int = 0  # rows of the item file that name an item again


def add_preparation_flags(parser: argparse.ArgumentParser, input_help: str) -> None:
    parser.add_argument("--dataset", required=True, help="name of the dataset to make")
    parser.add_argument("--input_path", type=Path, required=True, help=input_help)
    parser.add_argument("--output_path", type=Path, default=Path("data"), help="folder to hold <dataset>/")
    for name, default in (("user_k", PreparationConfig.user_k), ("item_k", PreparationConfig.item_k)):
        what = name.partition("_")[0]
        parser.add_argument(f"--{name}", type=int, default=default, help=f"interactions that each {what} must have")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=PreparationConfig.split,
        help="the last item of each user tests and the one before validates, or one moment for all parts them",
    )
    for name in ("valid", "test"):
        parser.add_argument(
            f"--{name}_share",
            type=float,
            default=getattr(PreparationConfig, f"{name}_share"),
            help=f"of the interactions, with --split temporal: the part for {name}",
        )
    parser.add_argument(
        "--inter_format",
        choices=INTER_FORMATS,
        default=PreparationConfig.inter_format,
        help="of the interactions; parquet, with times and parts in it, for millions of users",
    )
    add_switch(
        parser, "--image_urls", default=True, help="write <dataset>.image_urls.json where the input has addresses"
    )
    add_switch(parser, "--plots", default=True, help="draw <dataset>.statistics.png")
    add_switch(parser, "--overwrite", help="replace the dataset where there is one")


# ---- the whole job ---------------------------------------------------------------------------------------------------
class Prepared(NamedTuple):
    """A dataset that was written: interactions in order and with ids; row i is item i; ends as in `<DS>.split.json`."""

    interactions: "Interactions"
    items: "pl.DataFrame | None"
    ends: "np.ndarray | None"


def prepare(config: PreparationConfig, source: Source) -> Prepared:
    """Writes the dataset and its statistics.

    Raises:
        FileExistsError: there is a dataset of that name, and it may not be overwritten.
        ValueError: the input is broken, or nothing is left of it.
    """
    from data_process.dataset_files import check_target, write_dataset, write_dataset_record
    from data_process.dataset_statistics import write_statistics
    from data_process.interactions import renumbered, temporal_ends

    check_target(config.paths, config.overwrite)
    if config.split == "temporal" and not source.has_times:
        raise ValueError("--split temporal needs times, and the input has none: name their column, or split otherwise")
    funnel = Funnel()
    interactions, table = _select(config, source, funnel)
    for tally in source.tallies:
        tally.report()
    _check_times(interactions, source.ticks)
    ids = renumbered(interactions)
    items = None
    if table is not None:
        codes = _distinct(interactions.items)
        items = table.table(codes)
        if not config.image_urls and "image_urls" in items.columns:
            items = items.drop("image_urls")
    ends = None
    if config.split == "temporal":
        assert ids.times is not None  # a source without times has been refused
        ends = temporal_ends(ids.users, ids.times, config.valid_share, config.test_share)
    write_dataset(config.paths, ids, source.ticks, ends, items, config.inter_format)
    raw = {f"raw {number}": tally.path for number, tally in enumerate(source.tallies, 1)}
    write_dataset_record(config.paths, config, raw)
    write_statistics(config.paths, ids, items, source.ticks, funnel, ends, config.plots)
    return Prepared(ids, items, ends)


def _check_times(interactions: "Interactions", ticks: int) -> None:
    if interactions.times is not None and (latest := int(interactions.times.max()) // ticks) > YEAR_2200:
        raise ValueError(
            f"the latest interaction would be {latest:,} seconds after 1970, that is after the year 2200: times are in"
            f" a finer unit than was thought (a CSV of your own: give --time_unit)"
        )


def _select(config: PreparationConfig, source: Source, funnel: Funnel) -> "tuple[Interactions, ItemTable | None]":
    """The k-core, in order, without repeats, of items that have texts; and these texts.

    The core of all that was read holds the core of what repeats and unknown items leave, and is found without sorting:
    so it comes first, and the rest of the work is on what may stay.
    """
    from data_process.interactions import core_rows, in_order, read_interactions, without_repeats
    from data_process.item_texts import ItemTable

    def core(interactions: "Interactions") -> "Interactions":
        return interactions.take(core_rows(interactions.users, interactions.items, config.user_k, config.item_k))

    interactions = read_interactions(source.interactions)
    funnel.read = interactions.num_rows
    if not funnel.read:
        raise ValueError(f"{config.input_path} has no interaction: it ends after its first line, or none can be used")
    interactions = core(interactions)
    funnel.in_reach = interactions.num_rows
    table = None
    if source.items is not None and funnel.in_reach:
        table = ItemTable(interactions.item_names, interactions.items).read(source.items)
        funnel.repeated_items = table.repeats
        if table.repeats:
            shown = (
                "%d rows of the file of items name an item again, the first being %r: of each item the first row counts"
            )
            logger.warning(shown, table.repeats, table.first_repeat)
        if not table.has_row.any():
            raise ValueError(
                f"none of the items of {config.input_path} that have {config.item_k} interactions stands in the file of"
                f" items: are both of the same category?"
            )
        interactions = interactions.take(table.has_row[interactions.items])
    funnel.with_items = interactions.num_rows
    interactions = without_repeats(in_order(interactions))
    funnel.without_repeats = interactions.num_rows
    interactions = core(interactions)
    funnel.kept = interactions.num_rows
    if not funnel.kept:
        raise ValueError(
            f"no interaction of {funnel.read:,} is left: --user_k {config.user_k} --item_k {config.item_k} ask for more"
            f" than there is. Lower them"
        )
    return interactions, table


def _distinct(codes: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.flatnonzero(np.bincount(codes))
