"""Runs an entry as `python -m` does, notes what it writes and how much work it did, and dies at a write if told to.

    python -m benchmarks.soak.child src.baselines.sasrec --dataset Demo ...

The environment says what is wanted (`Orders`). A write is a file opened to be written, renamed or removed below the
folder at work: between two of them, and in the middle of one, is where a kill does harm.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

ORDERS = "GREC_SOAK"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
MIDDLE_SECONDS = 0.2  # until a file that was opened holds something; some are written at once when they are closed


@dataclass(frozen=True)
class Orders:
    """What one attempt is to do beside its work.

    Attributes:
        log: where lines go: `write`, `unit`, `die`, each with the process id.
        token: by which every process of the attempt is known, those of torchrun too.
        unit: `module:name`, a function whose calls are counted as work; empty: none.
        settings: `module:name` -> value, so that tiny runs save as often as long ones.
        die_at: the write, counted from 1, before which to die; 0: none.
        in_middle: die while that write is under way, not before it.
    """

    log: str
    token: str
    unit: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    die_at: int = 0
    in_middle: bool = False

    def environment(self) -> dict[str, str]:
        return {ORDERS: json.dumps(asdict(self))}


class Watch:
    """Hears of every write of this process."""

    def __init__(self, orders: Orders, folder: str):
        self.orders, self.folder, self.count, self.dying = orders, folder, 0, False
        self.log = os.open(orders.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(self, kind: str, text: str = "") -> None:
        os.write(self.log, f"{kind}\t{os.getpid()}\t{text}\n".encode())

    def __call__(self, event: str, arguments: tuple) -> None:
        """An audit hook (sys.addaudithook)."""
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITES):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if self.dying or not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(self.folder):
            return
        self.count += 1
        self.say("write", f"{event} {path[len(self.folder) :]}")
        if self.count == self.orders.die_at:
            self.dying = True
            if self.orders.in_middle and event == "open":
                threading.Thread(target=self.die_in_middle, args=(path, event), daemon=True).start()
            else:
                self.die(path, event, "before")

    def die_in_middle(self, path: str, event: str) -> None:
        until = time.monotonic() + MIDDLE_SECONDS
        while time.monotonic() < until:
            try:
                if os.stat(path).st_size:
                    break
            except OSError:
                pass
        self.die(path, event, "in the middle of")

    def die(self, path: str, event: str, when: str) -> None:
        self.say("die", f"{when} {event} {path[len(self.folder) :]}")
        os.kill(os.getpid(), signal.SIGKILL)

    def count_calls(self, unit: str) -> None:
        """Notes each call of `module:name` that came to its end."""
        owner, name = place_of(unit)
        function = getattr(owner, name)

        @wraps(function)
        def counted(*arguments, **options):
            result = function(*arguments, **options)
            self.say("unit")
            return result

        setattr(owner, name, counted)


def place_of(name: str) -> tuple[Any, str]:
    """What holds a thing named `module:name` or `module:Class.name`, and its last name."""
    module, _, inner = name.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, last = inner.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return owner, last


def main() -> None:
    orders = Orders(**json.loads(os.environ[ORDERS]))
    watch = Watch(orders, f"{Path.cwd().resolve()}/")
    if orders.unit:
        watch.count_calls(orders.unit)
    for name, value in orders.settings:
        setattr(*place_of(name), value)
    del sys.argv[0]
    sys.addaudithook(watch)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
