"""Kills every stage at moments of chance, starts it again, and compares what is left with runs that nobody disturbed.

    python -m benchmarks.soak --kills 30 --seed 0 --json results/benchmarks/soak.json
    python -m benchmarks.soak --kills 3 --stages SASRec pictures

Each stage runs once undisturbed, at tiny size; then, in a folder of its own, it is killed by SIGKILL before a write, in
the middle of one, or at any moment, and the same command is given until it ends. Then both folders must hold the same
files with the same content, and no more work may have been done twice than lies between two saves. docs/benchmarks.md
says what one run found. Linux only. Exit status: 0 where all agrees, 1 where something does not.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.misbehaving_server import LocalServer, Pictures, Reply, Request
from benchmarks.soak.attempts import QUIET, Attempt, attempt, draw_kill
from benchmarks.soak.stages import STAGES, Stage, answer_of, prepare_start, write_inputs
from benchmarks.soak.warm import WarmStarter

Say = Callable[[Stage, str], None]
LATENCY = 0.03  # of the servers, so that there is a time at which something is under way
MOST_TRIES = 8  # to hit a run that is short, for one kill


class Services(NamedTuple):
    pictures: str  # addresses
    endpoint: str
    servers: tuple[LocalServer, ...]
    warm: WarmStarter | None

    def requests(self) -> int:
        return sum(server.counts.total() for server in self.servers)

    def forget(self) -> None:
        """An address that fails when it is first asked for does so again: for the next folder it is the first time."""
        for server in self.servers:
            server.counts.clear()


async def language_model(request: Request) -> Reply:
    await asyncio.sleep(LATENCY)
    message = {"role": "assistant", "content": json.dumps(answer_of(request.body))}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


@contextmanager
def services(warm: bool) -> Iterator[Services]:
    """Servers that outlive what is killed."""
    pictures, endpoint = LocalServer(Pictures(LATENCY)), LocalServer(language_model)
    with ExitStack() as stack:
        addresses = [stack.enter_context(server.running()) for server in (pictures, endpoint)]
        starter = stack.enter_context(WarmStarter(QUIET)) if warm else None
        yield Services(*addresses, (pictures, endpoint), starter)


class Outcome(NamedTuple):
    """What the kills of one stage did."""

    stage: str
    kills: list[str]  # where each hit
    faults: list[str]  # what should not be, in words
    units: int  # of the undisturbed run
    repeated: int  # that were done more than once
    allowed: int
    seconds: float
    failed: bool = False  # a start ended with an error

    def table(self) -> dict[str, Any]:
        return self._asdict()


def share_out(kills: int, stages: Sequence[Stage], rng: random.Random) -> list[int]:
    """How often each stage is killed: alike, and what is left over at random."""
    counts = [kills // len(stages)] * len(stages)
    for place in rng.sample(range(len(stages)), kills % len(stages)):
        counts[place] += 1
    return counts


def is_over(stage: Stage, folder: Path, killed: str) -> bool:
    """Whether a start now does finished work again: its results are there, and the parts they are of gone, or going.

    Args:
        killed: where the start before was, in words.
    """
    if not stage.results or not all((folder / name).is_file() for name in stage.results):
        return False
    return "os.remove" in killed or "os.rmdir" in killed or not any((folder / "results").rglob("*.parts"))


def soak(
    stage: Stage, folder: Path, kills: int, rng: random.Random, served: Services, known: set[str], say: Say
) -> Outcome:
    """Runs a stage undisturbed in `folder`/straight and killed in `folder`/killed, and compares both.

    Args:
        known: differences that an earlier stage made.
    """
    from benchmarks.soak.comparison import differences

    straight, killed, began = folder / "straight", folder / "killed", time.monotonic()

    def start(folder: Path, kill) -> Attempt:
        prepare_start(stage, folder)
        return attempt(stage, folder, served.endpoint, kill, served.requests, served.warm)

    served.forget()
    whole = start(straight, None)
    served.forget()
    if whole.status:
        faults = [f"the undisturbed run ended with status {whole.status}:\n{whole.said}"]
        return Outcome(stage.name, [], faults, whole.units, 0, 0, time.monotonic() - began, True)
    places: list[str] = []
    faults: list[str] = []
    units = allowed = 0
    for _ in range(kills):
        kill = draw_kill(rng, whole)
        for _ in range(MOST_TRIES):
            over = is_over(stage, killed, "".join(places[-1:]))
            found = start(killed, kill)
            units += found.units
            allowed += whole.units if over else 0
            if found.killed:
                break
            if found.status:
                faults.append(f"a start after {places[-1:]} ended with status {found.status}:\n{found.said}")
                break
            kill = kill.sooner()
        if not found.killed:
            if not found.status:
                faults.append(f"it could not be killed in {MOST_TRIES} tries")
            break
        allowed += stage.lost
        places.append(found.killed)
        say(stage, found.killed)
    over = is_over(stage, killed, "".join(places[-1:]))
    last = start(killed, None)
    units += last.units
    allowed += whole.units if over else 0
    repeated = units - whole.units
    if last.status:
        faults.append(f"the last start, after {places[-1:]}, ended with status {last.status}:\n{last.said}")
    else:
        faults += [fault for fault in differences(straight, killed) if fault not in known]
        if stage.unit and repeated > allowed:
            faults.append(f"{units} units of work were done for {whole.units}: at most {allowed} more may be")
    seconds = time.monotonic() - began
    return Outcome(stage.name, places, faults, whole.units, repeated, allowed, seconds, bool(last.status))


def table_lines(outcomes: Sequence[Outcome]) -> list[str]:
    lines = [f"{'stage':<20} {'kills':>5} {'work':>5} {'again':>6} {'allowed':>8} {'seconds':>8}  result"]
    for row in outcomes:
        result = "same" if not row.faults else f"{len(row.faults)} faults"
        lines.append(
            f"{row.stage:<20} {len(row.kills):>5} {row.units:>5} {row.repeated:>6} {row.allowed:>8}"
            f" {row.seconds:>8.0f}  {result}"
        )
    return lines


def run(kills: int, seed: int, stages: Sequence[Stage], folder: Path, warm: bool) -> list[Outcome]:
    """The stages in their order, up to the first that does not come to its end: the next need what it makes."""
    from src.common.log import duration

    rng, began, done = random.Random(seed), time.monotonic(), 0
    counts = [0 if stage not in stages else None for stage in STAGES]
    shared = iter(share_out(kills, stages, rng))
    counts = [next(shared) if count is None else count for count in counts]
    last = max(place for place, stage in enumerate(STAGES) if stage in stages)
    outcomes: list[Outcome] = []
    known: set[str] = set()

    def say(stage: Stage, place: str) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - began) / done * (kills - done)
        print(f"[{done}/{kills}] {stage.name}: killed {place}; about {duration(left)} left", flush=True)

    with services(warm) as served:
        for name in ("straight", "killed"):
            write_inputs(folder / name, served.pictures)
        for stage, count in zip(STAGES[: last + 1], counts, strict=False):  # stages before need no kill, only to run
            outcome = soak(stage, folder, count, rng, served, known, say)
            outcomes.append(outcome)
            known.update(outcome.faults)
            print("\n  ".join([table_lines(outcomes)[-1], *outcome.faults]), flush=True)
            if outcome.failed:
                break
    outcomes.append(verified(folder / "killed"))
    return outcomes


def verified(folder: Path) -> Outcome:
    """Whether every record that is left after the kills tells of what is there (src/verify.py)."""
    from src.lineage.artefacts import find_artefacts
    from src.lineage.links import Graph, Hasher

    began = time.monotonic()
    graph = Graph(*find_artefacts([folder]), Hasher())
    found = sorted(graph.nodes.values(), key=lambda node: str(node.path))
    faults = [f"{node.path}: {fault.reason}" for node in found for fault in node.faults]
    faults += [f"{node.path}: {'; '.join(node.notes)}" for node in found if node.status == "unknown"]
    return Outcome("the whole chain", [], faults, sum(node.artefact is not None for node in found), 0, 0,
                   time.monotonic() - began)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--kills", type=int, default=30, help="in all, shared out to the stages (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--stages", nargs="+", choices=names, default=names, metavar="STAGE",
        help=f"kill only these; those before them run undisturbed. Of: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--warm", action="store_true",
        help="start stages of one process that has loaded the libraries: much faster, and no kill falls into an import",
    )  # fmt: skip
    parser.add_argument("--work_dir", type=Path, help="folder to work in, and to leave (default: one that goes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there too")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.kills < 1:
        parser.error(f"--kills {args.kills}: it must be at least 1")
    if args.work_dir and args.work_dir.exists() and any(args.work_dir.iterdir()):
        parser.error(f"--work_dir {args.work_dir} holds something already: give an empty folder")
    if not sys.platform.startswith("linux"):
        parser.error("processes are found through /proc, which only Linux has")
    chosen = [stage for stage in STAGES if stage.name in args.stages]
    with tempfile.TemporaryDirectory(prefix="grec-soak-") as temporary:
        folder = (args.work_dir or Path(temporary)).resolve()
        outcomes = run(args.kills, args.seed, chosen, folder, args.warm)
    faults = sum(len(row.faults) for row in outcomes)
    killed = sum(len(row.kills) for row in outcomes)
    print("\n".join(["", *table_lines(outcomes), f"{killed} kills, {faults} faults"]))
    if args.json:
        from benchmarks.harness import machine
        from src.common.artifacts import write_json
        from src.common.record import commit

        told = {"machine": machine(), "commit": commit(), "command": ["benchmarks.soak", *sys.argv[1:]]}
        write_json(args.json, {**told, "stages": [row.table() for row in outcomes]}, indent=2)
        print(f"Results: {args.json}")
    if faults or killed < args.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
