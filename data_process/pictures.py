"""Pictures from the web: fetched, decoded and written, in shares that keep each host to one worker."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from data_process.cluster import Write, check_engine
from data_process.fetching import Fetcher, FetchLimits
from data_process.host_queue import HostQueue
from data_process.patience import Failure
from src.common.artifacts import atomic_path
from src.common.cli import check_at_least
from src.common.images import open_image, to_jpeg

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
    engine: str = "local"  # this process, or "ray"
    workers: int = 0  # of Ray; 0: one a node

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, max_side=1, min_side=1)
        check_engine(self)
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
    with atomic_path(place, synced=False) as temporary:  # `is_settled` compares sizes
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


# ---- many of them -------------------------------------------------------------------------------------------------
def by_host(pictures: Sequence[Picture], count: int) -> list[list[Picture]]:
    """At most `count` shares of about one size; no host is in two of them, nor is any that an item names beside it."""
    first: dict[str, str] = {}  # of each host, another of its group, up to the one that stands for all

    def group_of(host: str) -> str:
        while first.setdefault(host, host) != host:
            first[host] = host = first[first[host]]
        return host

    for picture in pictures:
        hosts = hosts_of(picture)
        for host in hosts[1:]:
            first[group_of(host)] = group_of(hosts[0])
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(group_of(hosts_of(picture)[0]), []).append(picture)
    shares: list[list[Picture]] = [[] for _ in range(min(count, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return shares


async def fetch_share(
    pictures: Sequence[Picture], config: DownloadConfig, slots_of_others: int | None, write: Write
) -> None:
    """Fetches pictures, as many at once as the limits allow; `write` gets the journal's line of each.

    Args:
        slots_of_others: requests at once to a host that no picture names; None: as many as to the others.
    """
    queue = HostQueue(((hosts_of(picture)[0], picture) for picture in pictures), config.per_host)
    own = {host for picture in pictures for host in hosts_of(picture)}

    def slots(host: str) -> int:
        return config.per_host if slots_of_others is None or host in own else slots_of_others

    async def work(fetcher: Fetcher, pool: Executor) -> None:
        while (taken := await queue.take()) is not None:
            host, picture = taken
            write(await obtain(picture, config, fetcher, pool))
            await queue.done(host)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, DECODERS)) as pool:
        async with Fetcher(config, slots) as fetcher:
            await asyncio.gather(*(work(fetcher, pool) for _ in range(min(config.concurrency, len(pictures)))))


def hosts_of(picture: Picture) -> list[str]:
    """Of its addresses, in their order; an empty name where there is none."""
    hosts = []
    for url in picture.urls:
        try:
            hosts.append(urlsplit(url.strip()).hostname)
        except ValueError:
            continue  # no address at all: `obtain` says so
    return [host for host in hosts if host] or [""]
