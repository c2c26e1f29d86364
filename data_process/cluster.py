"""Jobs on a Ray cluster: how it is found, and workers that each do a share of a job over the network.

The cluster is the one that RAY_ADDRESS names, or that was started on this machine; without one Ray starts here. The
dataset lies on storage that all nodes share, under one path.
"""

import argparse
import asyncio
import os
import re
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from src.common import distributed
from src.common.cli import check_at_least

ENGINES = ("local", "ray")
CONNECT_SECONDS = 10.0
ROOT = Path(__file__).resolve().parents[1]
CODE = ("data_process", "src")  # what workers import

Row = dict[str, Any]  # a line of a journal
Write = Callable[[Row], None]
Job = Callable[[Write], Awaitable[None]]  # does its share of the work, and hands over each line as soon as it is known


def check_engine(config: Any) -> None:
    """Checks `config.engine` and `config.workers`."""
    check_at_least(config, workers=0)
    if config.engine not in ENGINES:
        raise ValueError(f"unknown --engine {config.engine!r}: choose one of {', '.join(ENGINES)}")
    if config.workers and config.engine != "ray":
        raise ValueError(f"--workers {config.workers} is for --engine ray: leave it out, or add that")


def add_engine_flags(parser: argparse._ActionsContainer, local: str, workers: str) -> None:
    parser.add_argument("--engine", choices=ENGINES, default="local", help=f"local: {local}; ray: a cluster")
    parser.add_argument("--workers", type=int, default=0, help=f"of Ray; 0: {workers}")


def connect() -> Any:
    """The package Ray, connected to its cluster, whose workers will have our code.

    Raises:
        ValueError: Ray is not installed, torchrun is in the way, or nothing answers where RAY_ADDRESS points.
    """
    if distributed.world_size() > 1:
        raise ValueError("--engine ray starts its own workers: run it without torchrun, and say how many by --workers")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            'with --engine ray the package Ray must be there: pip install "ray[data]". Or use --engine local'
        ) from error
    if not ray.is_initialized():
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        modules = [str(ROOT / folder) for folder in CODE]
        ray.init(runtime_env={"py_modules": modules}, log_to_driver=False)
    return ray


def _check_address(address: str) -> None:
    """Ray itself tries for minutes, and says nothing."""
    place = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if place is None:  # not set, or a word that Ray knows
        return
    try:
        socket.create_connection((place[1], int(place[2])), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}). Start it with: ray start --head, or unset"
            f" RAY_ADDRESS to start Ray on this machine"
        ) from error


def workers_by_node(workers: int, at_most: int) -> int:
    """`workers`, or one a node; no more than there is work for.

    Raises:
        ValueError: more than the cluster has CPUs, which would wait for ever.
    """
    ray = connect()
    room = int(ray.cluster_resources().get("CPU", 0))
    if workers > room:
        raise ValueError(f"--workers {workers}: the Ray cluster has {room} CPUs")
    return max(1, min(workers or len([node for node in ray.nodes() if node["Alive"]]), room, at_most))


class Worker:
    """Runs one job, and gives its lines as they come, those that came together as one list."""

    async def lines(self, job: Job, marker: str | None):
        if marker is not None and not Path(marker).exists():
            folder = Path(marker).parent
            raise ValueError(f"node {os.uname().nodename} does not see {folder}: it must be on storage that all share")
        queue: asyncio.Queue[Row | None] = asyncio.Queue()
        work = asyncio.ensure_future(job(queue.put_nowait))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        ended = False
        while not ended:
            rows = [await queue.get()]
            while not queue.empty():
                rows.append(queue.get_nowait())
            ended = rows[-1] is None
            yield [row for row in rows if row is not None]
        await work  # raises what ended it


def lines_of(jobs: Sequence[Job], folder: Path | None) -> Iterator[Row]:
    """Runs every job on a worker of its own, nodes in turn, and gives their lines as they come.

    Args:
        folder: what all nodes must see, where jobs read or write files.

    Raises:
        ValueError: what a job found at fault; a node does not see the folder; a worker died.
    """
    ray = connect()
    marker = None if folder is None else folder.absolute() / f".shared-{uuid.uuid4().hex}"
    if marker is not None:
        marker.touch()
    try:
        remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Worker)
        workers = [remote.remote() for _ in jobs]  # kept, for they end with their last reference
        place = None if marker is None else str(marker)
        streams = [
            worker.lines.options(num_returns="streaming").remote(job, place)
            for worker, job in zip(workers, jobs, strict=True)
        ]
        while streams:
            (stream,), streams = ray.wait(streams, num_returns=1)
            try:
                rows = ray.get(next(stream))
            except StopIteration:
                continue
            yield from rows
            streams.append(stream)  # behind the others, so that each has its turn
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
    except ray.exceptions.RayActorError as error:
        raise ValueError(f"a Ray worker died ({error}): the same command goes on from what is done") from error
    finally:
        if marker is not None:
            marker.unlink(missing_ok=True)
