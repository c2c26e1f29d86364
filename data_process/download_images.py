"""Downloads the picture of every item: many at once, within limits, and goes on where a killed run was.

    python3 data_process/download_images.py --dataset Games

Addresses are those of <dataset>.image_urls.json ({item: [address, ...]}, the best first), of --urls FILE, or of a field
of <dataset>.item.json (--url_field). Each picture is decoded, turned upright, made an RGB JPEG of at most --max_side
pixels, and written where every stage looks for it: images/<original item id>.jpg. <dataset>.images.jsonl has a line for
each item: its file, or why there is none. Private addresses are refused unless --allow_host names the host.

Exit status: 0 where all pictures are there, 1 where more than the share --max_failed is missing, 2 where the input is
at fault, 130 when stopped.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.cluster import Job, add_engine_flags, lines_of, workers_by_node
from data_process.journal import Journal
from data_process.patience import Progress
from data_process.pictures import DownloadConfig, Picture, by_host, fetch_share
from src.common import artifacts, dataset_readers
from src.common.artifacts import DatasetPaths
from src.common.cli import add_dataset_flags, add_switch, new_parser, user_errors

IDS = ("item", "original")


# ---- what is to be done ----------------------------------------------------------------------------------------------
def find_pictures(config: DownloadConfig, paths: DatasetPaths) -> list[Picture]:
    """The place and the addresses of the picture of every item, in ascending order of items.

    Raises:
        FileNotFoundError, ValueError: no addresses, or those of no item; a place that is outside the dataset's folder.
    """
    items = dataset_readers.load_items(paths)
    places = dataset_readers.image_places(paths, items)
    if config.url_field:
        source, table = paths.file("item.json"), _urls_of_field(items, config.url_field)
    else:
        source = config.urls or paths.file("image_urls.json")
        table = _urls_of_file(config, paths, source)
    if not any(table.get(item) for item in items):
        raise ValueError(f"{source} has no address for any item of {config.dataset}: is it another dataset's?")
    return [Picture(item, places[item], table.get(item, [])) for item in sorted(items)]


def _urls_of_field(items: Mapping[int, Mapping[str, Any]], field: str) -> dict[int, list[str]]:
    table = {}
    for item, values in items.items():
        given = values.get(field) or []
        given = given if isinstance(given, list) else [given]
        if not all(isinstance(url, str) for url in given):
            raise ValueError(f"--url_field {field}: item {item} has {given!r:.80}, which are no addresses")
        table[item] = [url for url in given if url.strip()]
    return table


def _urls_of_file(config: DownloadConfig, paths: DatasetPaths, source: Path) -> dict[int, list[str]]:
    given = dataset_readers.load_image_urls(source)
    if config.ids == "original":
        numbers = dataset_readers.load_id_map(paths.file("item2id"))
        return {numbers[name]: urls for name, urls in given.items() if name in numbers}
    for item in given:
        if not item.isdecimal():
            raise ValueError(
                f"{source}: {item!r} is no item id: pass --ids original if it is one of {paths.dataset}.item2id"
            )
    return {int(item): urls for item, urls in given.items()}


def is_settled(picture: Picture, row: Mapping[str, Any] | None, retry_failed: bool) -> bool:
    """Whether an earlier run did all there is to do: the file is there as it was written, or cannot be had."""
    if row is None:
        return False
    if row["status"] != "failed":
        return picture.place.is_file() and picture.place.stat().st_size == row["bytes"]
    return not (row["passing"] or retry_failed or row["urls"] != picture.urls or picture.place.is_file())


# ---- all of them -----------------------------------------------------------------------------------------------------
def download(config: DownloadConfig) -> Counter[str]:
    """Fetches what is missing, prints a summary, and gives how many items have which status or cause of failure."""
    from src.common.log import logger

    if config.engine == "ray":  # workers run in folders of their own
        config = replace(config, data_path=config.data_path.absolute())
    paths = artifacts.dataset_paths(config.data_path, config.dataset)
    pictures = find_pictures(config, paths)
    folders = {picture.place.parent for picture in pictures}
    artifacts.check_writable(next(iter(folders)) / "x.jpg")
    with Journal(paths.file("images.jsonl"), "item") as journal:
        for folder in folders:
            for leftover in folder.glob(".*.jpg.*.jpg"):  # what a killed run was writing
                leftover.unlink()
        left = [
            picture
            for picture in pictures
            if not is_settled(picture, journal.rows.get(str(picture.item)), config.retry_failed)
        ]
        logger.info(f"{len(pictures):,} pictures: {len(left):,} to fetch, {len(pictures) - len(left):,} settled before")
        _fetch(left, config, journal)
        rows = [journal.rows[str(picture.item)] for picture in pictures]
    logger.info(summary(rows, journal.path))
    return Counter(row.get("cause", row["status"]) for row in rows)


def _fetch(pictures: list[Picture], config: DownloadConfig, journal: Journal) -> None:
    """Fetches the pictures on the engine, and writes each line as it comes."""
    progress, failed = Progress(len(pictures), "pictures"), 0

    def write(row: dict[str, Any]) -> None:
        nonlocal failed
        journal.write(row)
        failed += row["status"] == "failed"
        progress.step(f"{failed:,} failed")

    if config.engine == "local" or not pictures:
        asyncio.run(fetch_share(pictures, config, None, write))
        return
    jobs = _shares(pictures, config, workers_by_node(config.workers, at_most=config.concurrency))
    for row in lines_of(jobs, config.data_path / config.dataset):
        write(row)


def _shares(pictures: list[Picture], config: DownloadConfig, workers: int) -> list[Job]:
    """Whole hosts to each worker, so that the limits of a host hold. One of which no item speaks, to which a server
    redirects, is divided among the workers."""
    shares = by_host(pictures, workers)
    slots_of_others = max(1, config.per_host // len(shares))
    return [
        partial(
            fetch_share, share, replace(config, concurrency=(config.concurrency + number) // len(shares)),
            slots_of_others,
        )
        for number, share in enumerate(shares)
    ]  # fmt: skip


def summary(rows: list[dict[str, Any]], manifest: Path) -> str:
    """A table of how many items have which status, with an example of each cause of failure."""
    counts = Counter(row.get("cause", row["status"]) for row in rows)
    examples: dict[str, str] = {}
    for row in rows:
        if row["status"] == "failed":
            examples.setdefault(row["cause"], f"item {row['item']}: {row['reason']:.120}")
    lines = [f"{count:>10,}  {name:<20}{examples.get(name, '')}".rstrip() for name, count in counts.most_common()]
    return "\n".join([f"{len(rows):,} items, each with a line in {manifest}:", *lines])


def build_parser() -> argparse.ArgumentParser:
    default = {field.name: field.default for field in fields(DownloadConfig)}
    parser = new_parser(__doc__)
    add_dataset_flags(parser)

    def add(name: str, kind: type, text: str, **options: Any) -> None:
        parser.add_argument(f"--{name}", type=kind, default=default[name], help=text, **options)

    add("urls", Path, "addresses: a .json {item: [address, ...]} or a .tsv of item<TAB>address;"
        " default: <dataset>.image_urls.json")  # fmt: skip
    add("url_field", str, "take them from this field of <dataset>.item.json")
    add("ids", str, "ids of the addresses: those of items, or the original ones of <dataset>.item2id", choices=IDS)
    add("max_side", int, "the longer side of a picture is made at most so many pixels")
    add("min_side", int, "a picture whose longer side is shorter is a placeholder, and counts as none")
    add("concurrency", int, "pictures at once")
    add("per_host", int, "of these, from one host")
    add("attempts", int, "attempts at an address, after failures that may pass")
    add("timeout", float, "seconds that one answer may take")
    add("first_wait", float, "seconds between the first attempts; it doubles from one to the next")
    add("max_wait", float, "seconds between attempts, at most; a server that asks for more is left alone")
    add("max_bytes", int, "bytes of one answer, at most")
    add("max_redirects", int, "redirects to follow; each is checked as the first address was")
    add("allow_host", str, "hosts that may have a private, loopback or link-local address", nargs="+", metavar="HOST")
    add("user_agent", str, "what the downloader calls itself; a contact address is polite")
    add("max_failed", float, "share of items without a picture up to which the exit status is 0")
    add_engine_flags(parser, "this process", "one for each node")
    add_switch(
        parser, "--retry_failed", help="try again, too, what failed for good: not found, too large, no picture, ..."
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        config = DownloadConfig(**vars(args))
        try:
            counts = download(config)
        except KeyboardInterrupt:
            print("stopped: the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None
    failed = counts.total() - counts["ok"] - counts["kept"]
    if failed > config.max_failed * counts.total():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
