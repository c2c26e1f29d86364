"""How GRec measures itself: CPU seconds of one thread, ours and a rival in turn, and one table and JSON for all of it.

A benchmark module is a list of parts; a part is a function of `quick` that yields rows. CPU seconds count this process
and its children (the workers of a DataLoader), so that a busy machine disturbs a ratio little.
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark."""

    name: str
    value: float
    unit: str  # "x" for a ratio rival / ours, else s, MB, ...
    higher_is_better: bool = True
    goal: float | None = None
    rival: str = ""  # what the value is measured against
    equal: bool | None = None  # did this run check that both sides computed the same thing
    runs: int = 1
    spread: tuple[float, float] | None = None  # smallest and largest of the runs
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return (
            self.value >= self.goal if self.higher_is_better else self.value <= self.goal
        ) and self.equal is not False

    def table(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


class Timings(NamedTuple):
    """CPU seconds of alternating runs; what the last run of each side gave."""

    ours: list[float]
    rival: list[float]
    our_result: Any
    rival_result: Any

    def ratio(self, name: str, rival: str, **more: Any) -> Row:
        """rival / ours: the median over pairs, and how far pairs spread."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.rival, strict=True)]
        more.setdefault("note", f"{median(self.ours):.4g} s against {median(self.rival):.4g} s")
        return Row(
            name,
            statistics.median(ratios),
            more.pop("unit", "x"),
            rival=rival,
            runs=len(ratios),
            spread=(min(ratios), max(ratios)),
            **more,
        )


Part = Callable[[bool], Iterable[Row]]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_megabytes() -> float:
    """Peak resident memory of this process; `ru_maxrss` would start from that of the parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def extra_megabytes(work: Callable[[], Any]) -> float:
    """Peak resident memory of this process during `work()`, above what it holds before; Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_megabytes()
    work()
    return peak_megabytes() - before


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of `work()`, and what it gave."""
    before = cpu_seconds()
    result = work()
    return cpu_seconds() - before, result


def alternate(ours: Callable[[], Any], rival: Callable[[], Any], runs: int, warm_up: bool = True) -> Timings:
    """Times both sides in turn, A B B A, after one unmeasured run of each."""
    if warm_up:
        ours(), rival()
    timings = Timings([], [], None, None)
    for number in range(runs):
        for side in ("ours", "rival") if number % 2 == 0 else ("rival", "ours"):
            seconds, result = timed(ours if side == "ours" else rival)
            getattr(timings, side).append(seconds)
            timings = timings._replace(**{"our_result" if side == "ours" else "rival_result": result})
    return timings


def machine() -> str:
    """What ran the benchmark, without its name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def real_data(dataset: str) -> Path | None:
    """The folder of a real dataset below $GREC_DATA, or None where it is absent."""
    root = os.environ.get("GREC_DATA")
    folder = Path(root or Path(__file__).resolve().parents[2] / "shared" / "data") / dataset
    return folder if folder.is_dir() else None


def run(
    parts: dict[str, Part],
    description: str | None,
    argv: list[str] | None = None,
    on_request: Collection[str] = (),
) -> None:
    """The entry of a benchmark: runs its parts, prints a table, and writes the JSON of docs/benchmarks.md.

    Args:
        on_request: parts that run only where --parts names them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few runs: ends within 50 s on 2 cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(parts),
        default=[name for name in parts if name not in on_request],
        metavar="PART",
        help=f"only these of {', '.join(parts)}"
        + (f" (default: all but {', '.join(on_request)})" if on_request else ""),
    )
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in args.parts:
        for row in _checked(parts[name](args.quick)):
            print(line(row), flush=True)
            rows.append(row)
    if args.json:
        from src.common.artifacts import write_json
        from src.common.record import commit

        table = {"machine": machine(), "commit": commit(), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        write_json(args.json, {**table, "rows": [row.table() for row in rows]}, indent=2)
        print(f"Results: {args.json}")
    missed = [row.name for row in rows if row.met is False]
    print(f"{len(rows)} rows, {len(missed)} below their goal" + (f": {'; '.join(missed)}" if missed else ""))


def _checked(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        json.dumps(row.table())  # fails here, beside its cause, if a value is no plain number
        yield row


def line(row: Row) -> str:
    """A row as people read it."""
    goal = (
        ""
        if row.goal is None
        else f"  goal {'>=' if row.higher_is_better else '<='} {row.goal:g}: {'met' if row.met else 'MISSED'}"
    )
    spread = (
        "" if row.spread is None or row.runs < 2 else f" [{row.spread[0]:.3g}-{row.spread[1]:.3g}, {row.runs} runs]"
    )
    equal = {True: "  equal", False: "  NOT EQUAL", None: ""}[row.equal]
    note = f"  ({row.note})" if row.note else ""
    return f"{row.name:58} {row.value:10.4g} {row.unit}{spread}{goal}{equal}{note}"
