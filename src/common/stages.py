"""Chains of our own commands: each is printed as it can be pasted, and is not run again where it is done already."""

import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from src.common.artifacts import read_json, write_json

STAMP = "stage.key"  # says which settings and inputs a half-finished folder belongs to


class Stages:
    """Runs stages in order and remembers what is done, each under a key of its settings and of all before it."""

    def __init__(self, file: Path, total: int):
        """
        Args:
            file: the record, which the next start reads.
            total: how many stages there are, for messages.
        """
        self.file, self.total, self.number, self.key = file, total, 0, ""
        self.done: dict[str, dict[str, Any]] = read_json(self.file) if self.file.is_file() else {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, settings: Any, outputs: Callable[[], Iterable[Path]], work: Callable[[], None]) -> None:
        """Does `work` unless it is done under the same settings and inputs and its outputs are still there."""
        self.number += 1
        text = json.dumps([self.key, name, settings], sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        title = f"[{self.number}/{self.total}] {name}"
        before = self.done.get(name)
        if before and before["key"] == self.key and all(Path(path).exists() for path in before["outputs"]):
            self.seconds[name] = before["seconds"]
            print(f"{title}: done before, in {before['seconds']:.0f} s", flush=True)
            return
        print(f"{title} ...", flush=True)
        started = time.time()
        work()
        self.seconds[name] = round(time.time() - started, 1)
        made = [str(path) for path in outputs()]
        if missing := [path for path in made if not Path(path).exists()]:
            raise RuntimeError(f"the stage {name} ended without {missing[0]}")
        self.done[name] = {"key": self.key, "seconds": self.seconds[name], "outputs": made}
        write_json(self.file, self.done, indent=1)
        print(f"{title}: {self.seconds[name]:.0f} s", flush=True)

    def claim(self, folder: Path) -> None:
        """Empties the folder of the stage at work, unless an earlier start with the same key left it to go on from."""
        stamp = folder / STAMP
        if folder.is_dir() and (not stamp.is_file() or stamp.read_text() != self.key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(self.key)


def hold_lock(file: Path, refusal: str) -> IO[str]:
    """An open file that nobody else can lock before it is closed, at the latest by the end of this process.

    Raises:
        SystemExit: another process holds it; with the text `refusal`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = open(file, "w")  # noqa: SIM115 the caller holds it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit(refusal) from error
    return lock


# ---- commands --------------------------------------------------------------------------------------------------------
def print_command(*words: Any, **environment: str) -> list[str]:
    """Prints `python WORDS` as a shell in this folder takes it, and gives it as a list."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    command = [str(python), *map(str, words)]
    settings = [f"{name}={shlex.quote(value)} " for name, value in environment.items()]
    print(f"  {''.join(settings)}{shlex.join(command)}", flush=True)
    return command


def run_here(module: str, *flags: Any) -> None:
    """Runs an entry in this process: its command is printed, not started, which saves the time to import torch."""
    words = print_command("-m", module, *flags)[3:]
    importlib.import_module(module).main(words)


def run_process(module: str, *flags: Any, ranks: int = 0, **environment: str) -> None:
    """Runs an entry in a process that ends with this one, however it ends.

    Args:
        ranks: so many processes under torchrun; 0: one without it.
        environment: variables to set for it.

    Raises:
        SystemExit: it failed; what it said stands above.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks else []
    command = print_command(*torchrun, "-m", module, *flags, **environment)

    def die_with_parent() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    done = subprocess.run(command, env={**os.environ, **environment}, preexec_fn=die_with_parent)
    if done.returncode:
        raise SystemExit(
            f"{module} failed with status {done.returncode}; its message stands above. Start again to go on"
        )
