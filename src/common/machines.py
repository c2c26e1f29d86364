"""Ranks on several machines: they meet or end together, see one folder for what they write, and read the same files.

Each of these would otherwise show late: as ranks that wait for one that is gone, or as results mixed of different data.
"""

import os
import socket
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.distributed import gather, is_main, rank, world_size

if TYPE_CHECKING:
    import torch.distributed as dist

MEETING_SECONDS = 1800.0  # ranks check data before they meet, and one of them may see a slower disk
POLL_SECONDS = 0.2
SEEN_SECONDS = 120.0  # for what work has made: storage may keep an old list of names for a minute
SHARED_SECONDS = 10.0  # after which a new file is seen on network storage that caches names


def _store() -> "dist.Store | None":
    """What torchrun's agents keep for their ranks, whether or not these have joined; None without torchrun."""
    if world_size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")  # a restarted job meets anew
    return dist.PrefixStore("/".join(["grec", *(os.environ.get(name, "") for name in names)]), store)


def tell_the_others(error: BaseException) -> None:
    """Says that this rank ends, to those that wait for it in `meet`. Never fails itself."""
    with suppress(Exception):
        if store := _store():
            store.set("ended", f"rank {rank()} on {socket.gethostname()} has ended: {error or type(error).__name__}")


def meet() -> None:
    """Waits until all ranks are here. Called before they join.

    Raises:
        ValueError: one has ended before, or does not come.
    """
    deadline = time.monotonic() + MEETING_SECONDS
    try:
        store = _store()
        if store is None:
            return
        store.add("ready", 1)
        while (ready := store.add("ready", 0)) < world_size() and not store.check(["ended"]):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        ended = store.get("ended").decode() if ready < world_size() and store.check(["ended"]) else ""
    except RuntimeError as error:  # all that a store raises
        raise ValueError(f"the ranks on {os.environ['MASTER_ADDR']} have ended ({error}): see the log there") from error
    if ended:
        raise ValueError(ended)
    if ready < world_size():
        raise ValueError(
            f"{ready} of {world_size()} ranks are ready after {MEETING_SECONDS:.0f} s: see the others' logs"
        )


def check_shared(folder: Path, flag: str) -> None:
    """All ranks must see what rank 0 writes into `folder`, which is made where it is missing.

    Raises:
        ValueError: on every rank, where one does not.
    """
    if world_size() == 1:
        return
    marker, token = folder / f".shared-{uuid.uuid4().hex}", ("", "")
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
        token = (str(folder.absolute()), marker.name)
    whole, name = gather(token)[0]
    deadline = time.monotonic() + SHARED_SECONDS
    while not (seen := (folder / name).exists()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    found = gather((seen, f"rank {rank()} on {socket.gethostname()} in {folder.absolute()}"))
    if is_main():
        marker.unlink()
    blind = [who for seen, who in found if not seen]
    if blind:
        raise ValueError(
            f"rank 0 writes into {whole}, which {len(blind)} of {world_size()} ranks do not see, the first being"
            f" {blind[0]}: give one {flag} that all machines share"
        )


def wait_until_seen(folder: Path, names: list[str]) -> None:
    """Waits until rank 0 sees the files that this and every other rank has written into a shared folder.

    Raises:
        TimeoutError: on every rank, where it does not.
    """
    if world_size() == 1:
        return
    written = gather((names, socket.gethostname()))
    missing: list[Path] = []
    if is_main():
        deadline = time.monotonic() + SEEN_SECONDS
        wanted = [folder / name for name in chain.from_iterable(part for part, _ in written)]
        while (missing := [path for path in wanted if not path.is_file()]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    missing = gather(missing)[0]
    if missing:
        who = next(host for part, host in written if missing[0].name in part)
        raise TimeoutError(
            f"{missing[0]}, written on {who}, is not seen by rank 0 after {SEEN_SECONDS:.0f} s ({len(missing)} files):"
            f" the storage shows new files too late. Start the same command again: it goes on from them"
        )


def check_same(value: Any, what: str) -> None:
    """All ranks must have read the same.

    Raises:
        ValueError: on every rank, where one has not.
    """
    found = gather((value, f"rank {rank()} on {socket.gethostname()}"))
    other = next((who for theirs, who in found if theirs != found[0][0]), None)
    if other:
        raise ValueError(f"{other} has read other {what} than rank 0: give all machines the same files and flags")
