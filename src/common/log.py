"""Messages for people: on rank 0 only, to the terminal and, where asked, to a file."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from src.common.distributed import is_main

if TYPE_CHECKING:
    from tqdm import tqdm

TERMINAL_SECONDS, FILE_SECONDS = 0.2, 30.0  # between two looks of a progress bar
T = TypeVar("T")
logger = logging.getLogger("grec")


def setup_logging(log_file: str | Path | None = None, to_stderr: bool = False) -> logging.Logger:
    """Prepares the `grec` logger. Other ranks speak only of warnings and errors, to standard error.

    Args:
        to_stderr: rank 0 speaks there too, where standard output is for a program to read.
    """
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)
    line = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout if is_main() and not to_stderr else sys.stderr)]
    if log_file is not None and is_main():
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(line)
        logger.addHandler(handler)
    return logger


def progress(work: Iterable[T] | None = None, **options) -> "tqdm[T]":
    """A progress bar with the time left, on rank 0; where nobody looks on, such as in a log file, a line now and then.

    Args:
        work: what to go through; else call `update` on what comes back.
        options: those of tqdm, such as desc, unit, total.
    """
    from tqdm import tqdm

    interval = TERMINAL_SECONDS if sys.stderr.isatty() else FILE_SECONDS
    return tqdm(work, mininterval=interval, disable=not is_main(), **options)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
