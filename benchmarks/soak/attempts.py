"""Starts a stage, lets it end or kills every process of it, and says what became of it."""

import json
import os
import random
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.soak.child import ORDERS, Orders
from benchmarks.soak.stages import Stage
from benchmarks.soak.warm import WarmProcess, WarmStarter

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds that one attempt may take
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True)
class Kill:
    """When to kill: before or in the middle of a write, or after so many seconds."""

    at_write: int = 0
    in_middle: bool = False
    seconds: float = 0.0

    def sooner(self) -> "Kill":
        """The next try, where the work was over before."""
        return Kill(max(1, self.at_write // 2) if self.at_write else 0, self.in_middle, self.seconds / 2)


class Attempt(NamedTuple):
    """What one start of a stage came to."""

    status: int  # exit status; negative where a signal ended it
    killed: str  # where, in words; empty where it came to its end
    writes: int  # of the process that wrote most
    units: int
    seconds: float
    said: str  # the end of what it printed


def draw_kill(rng: random.Random, straight: Attempt) -> Kill:
    """Three in five at a write, of these half in its middle; the others at any moment."""
    if rng.random() < 0.6 and straight.writes:
        return Kill(at_write=rng.randint(1, straight.writes), in_middle=rng.random() < 0.5)
    return Kill(seconds=rng.uniform(0.05, 1) * straight.seconds)


def attempt(
    stage: Stage,
    folder: Path,
    endpoint: str,
    kill: Kill | None,
    requests: Callable[[], int],
    warm: WarmStarter | None = None,
) -> Attempt:
    """One start of a stage in `folder`.

    Args:
        endpoint: address of the language model.
        requests: how many the servers have had.
        warm: starts stages of one process; None: each is started as a user would.
    """
    token = secrets.token_hex(8)
    log = folder.parent / "notes" / f"{token}.tsv"
    log.parent.mkdir(exist_ok=True)
    kill = kill or Kill()
    unit = stage.unit if ":" in stage.unit else ""
    orders = Orders(str(log), token, unit, stage.settings, kill.at_write, kill.in_middle)
    environment = {**QUIET, **orders.environment(), "PYTHONPATH": str(ROOT)}
    environment |= {"OPENAI_BASE_URL": f"{endpoint}/v1", "OPENAI_API_KEY": "none"}
    asked, started, killed = requests(), time.monotonic(), ""
    output = log.with_suffix(".out")
    process: WarmProcess | subprocess.Popen
    if warm and not stage.ranks:
        process = warm.start(stage.words(folder), folder, output, environment)
    else:
        with open(output, "w") as file:
            process = subprocess.Popen(
                stage.command(folder), cwd=folder, env={**os.environ, **environment}, stdout=file, stderr=file
            )
    while process.poll() is None and not killed:
        seconds = time.monotonic() - started
        if kill.seconds and seconds >= kill.seconds:
            killed = f"after {seconds:.1f} s"
        elif kill.at_write and (place := where_it_died(log)):
            killed = place
        elif seconds > PATIENCE:
            end_all(process.pid, token)
            raise TimeoutError(f"{stage.name} did not end within {PATIENCE} s; what it said: {output}")
        time.sleep(0.01)
    if killed:
        end_all(process.pid, token)  # the process itself, and ranks that torchrun has started
    status = process.wait()
    killed = killed or where_it_died(log)
    end_all(0, token)
    lines = [line.split("\t") for line in log.read_text().splitlines()] if log.is_file() else []
    writes = Counter(process_id for kind, process_id, _ in lines if kind == "write")
    units = requests() - asked if stage.unit == "requests" else sum(kind == "unit" for kind, *_ in lines)
    seconds = time.monotonic() - started
    said = output.read_text(errors="replace")[-4000:]
    return Attempt(status, killed, max(writes.values(), default=0), units, seconds, said)


def where_it_died(log: Path) -> str:
    """What an attempt noted before it killed itself."""
    text = log.read_text() if log.is_file() else ""
    return next((line.split("\t")[2] for line in text.splitlines() if line.startswith("die\t")), "")


def end_all(first: int, token: str) -> None:
    """Kills every process of an attempt, until none is left; known by its number or by what it was told."""
    while found := [*([first] if first else []), *processes_of(token)]:
        first = 0
        for process_id in found:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        time.sleep(0.02)


def processes_of(token: str) -> list[int]:
    """Living processes that were started with the orders of an attempt."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended, or is another user's
            continue
        value = next((part for part in environment.split(b"\0") if part.startswith(ORDERS.encode() + b"=")), b"")
        if state != "Z" and value and json.loads(value.partition(b"=")[2])["token"] == token:
            found.append(int(folder.name))
    return found
