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
import os
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.fetching import Fetcher, FetchLimits
from data_process.host_queue import HostQueue
from data_process.journal import Journal
from data_process.patience import Failure, Progress
from src.common import artifacts, dataset_readers
from src.common.artifacts import DatasetPaths
from src.common.cli import add_dataset_flags, add_switch, check_at_least, new_parser, user_errors
from src.common.images import open_image, to_jpeg

IDS = ("item", "original")
DECODERS = 8  # threads; a picture of the most pixels takes half a gigabyte


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(FetchLimits):
    """Which pictures, and what counts as one; the limits of fetching them are those of `FetchLimits`."""

    dataset: str
    data_path: Path = Path("data")
    urls: Path | None = None  # <dataset>.image_urls.json
    url_field: str | None = None
    ids: str = "item"
    max_side: int = 512
    min_side: int = 10
    max_failed: float = 0.0
    retry_failed: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, max_side=1, min_side=1)
        if self.min_side > self.max_side:
            raise ValueError(f"--min_side {self.min_side} is over --max_side {self.max_side}")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"--max_failed {self.max_failed} is a share from 0 to 1")
        if self.urls and self.url_field:
            raise ValueError("--urls and --url_field both say where addresses stand: drop one of them")


class Picture(NamedTuple):
    """What is to be fetched for an item."""

    item: int
    place: Path
    urls: list[str]


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


# ---- one picture -----------------------------------------------------------------------------------------------------
def keep(place: Path) -> dict[str, Any] | None:
    """The journal's fields of a file that was there before and decodes; None where there is none such."""
    try:
        image = open_image(place)
    except ValueError:
        return None
    return {"status": "kept", "bytes": place.stat().st_size, "width": image.width, "height": image.height}


def store(data: bytes, content_type: str, place: Path, max_side: int, min_side: int) -> dict[str, Any]:
    """Writes what was fetched as JPEG; gives the journal's fields.

    Raises:
        Failure: it is no picture, or a placeholder of a few pixels.
    """
    try:
        jpeg = to_jpeg(data, max_side)
    except ValueError as error:
        kind = f" ({content_type:.60})" if content_type else ""
        raise Failure("no picture", f"{len(data):,} bytes{kind} hold {error}"[:400]) from error
    if max(jpeg.width, jpeg.height) < min_side:
        raise Failure("too small", f"{jpeg.width} x {jpeg.height} pixels, below --min_side {min_side}")
    with artifacts.atomic_path(place, synced=False) as temporary:  # `is_settled` compares sizes
        temporary.write_bytes(jpeg.data)
    return {"status": "ok", "bytes": len(jpeg.data), "width": jpeg.width, "height": jpeg.height}


async def obtain(picture: Picture, config: DownloadConfig, fetcher: Fetcher, pool: Executor) -> dict[str, Any]:
    """The journal's line of an item: from the first of its addresses that gives a picture, or why none does."""
    run = partial(asyncio.get_running_loop().run_in_executor, pool)
    line = {"item": str(picture.item), "file": str(picture.place.relative_to(config.data_path / config.dataset))}
    if picture.place.is_file() and (kept := await run(keep, picture.place)):
        return {**line, **kept}
    # `passing` is what the next run may change: passing failures, and refusals, since it may allow the host.
    failure, passing, reasons = Failure("no address", "no address is known"), False, []
    for url in picture.urls:
        try:
            fetched = await fetcher.fetch(url.strip())
            stored = await run(
                store, fetched.data, fetched.content_type, picture.place, config.max_side, config.min_side
            )
            return {**line, **stored, "url": url, "attempts": fetched.attempts}
        except Failure as error:
            failure, passing = error, passing or error.passing or error.cause == "refused address"
            reasons.append(f"{url:.300}: {error}")
    return {
        **line,
        "status": "failed",
        "cause": failure.cause,
        "reason": "; ".join(reasons) or str(failure),
        "passing": passing,
        "urls": picture.urls,
    }


# ---- all of them -----------------------------------------------------------------------------------------------------
def download(config: DownloadConfig) -> Counter[str]:
    """Fetches what is missing, prints a summary, and gives how many items have which status or cause of failure."""
    from src.common.log import logger

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
        asyncio.run(_download(left, config, journal))
        rows = [journal.rows[str(picture.item)] for picture in pictures]
    logger.info(summary(rows, journal.path))
    return Counter(row.get("cause", row["status"]) for row in rows)


async def _download(pictures: list[Picture], config: DownloadConfig, journal: Journal) -> None:
    queue = HostQueue(((_host(picture), picture) for picture in pictures), config.per_host)
    progress, failed = Progress(len(pictures), "pictures"), 0

    async def work(fetcher: Fetcher, pool: Executor) -> None:
        nonlocal failed
        while (taken := await queue.take()) is not None:
            host, picture = taken
            row = await obtain(picture, config, fetcher, pool)
            journal.write(row)
            failed += row["status"] == "failed"
            progress.step(f"{failed:,} failed")
            await queue.done(host)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, DECODERS)) as pool:
        async with Fetcher(config) as fetcher:
            await asyncio.gather(*(work(fetcher, pool) for _ in range(min(config.concurrency, len(pictures)))))


def _host(picture: Picture) -> str:
    try:
        return urlsplit(picture.urls[0].strip()).hostname or "" if picture.urls else ""
    except ValueError:
        return ""  # no address at all: `obtain` says so


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
