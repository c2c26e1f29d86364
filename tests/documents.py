"""Reads documents and launchers for the tests: their code, links and commands, and the parsers of our entries."""

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("index", "src", "scripts", "config", "docs", "tests", "benchmarks", "data_process", "notebook", ".ci")
OWN_PACKAGES = ("index", "src", "scripts", "benchmarks", "data_process")


def tracked_files() -> list[str]:
    """Files of this repository, committed or about to be; none outside a git checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError:
        return []
    return sorted({name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})


TRACKED = tracked_files()
DOCUMENTS = [name for name in TRACKED if name.endswith(".md")]
SHELL_SCRIPTS = [name for name in TRACKED if name.endswith(".sh") or name == ".ci/run"]
LAUNCHES = re.compile(
    r"source (scripts/launch|.*/(metric_ddp|evaluate))\.sh"
)  # itself, or as a task of another launcher
LAUNCHERS = [name for name in SHELL_SCRIPTS if LAUNCHES.search((ROOT / name).read_text())]
WRAPPERS = {"scripts/quickstart.sh": "scripts/quickstart.py"}  # shell scripts that hand their flags to a Python entry
ENTRIES = [  # programs of ours that read flags; what runs without any would run here
    name
    for name in TRACKED
    if name.endswith(".py")
    and name.split("/")[0] in OWN_PACKAGES
    and re.search(r"^if __name__ == .__main__.:", (ROOT / name).read_text(), re.MULTILINE)
    and re.search(
        r"\b(parse_args|new_parser|build_parser|parse_config|benchmarks\.harness)\b", (ROOT / name).read_text()
    )
]


# ---- what a document says --------------------------------------------------------------------------------------------
class Fence(NamedTuple):
    language: str
    text: str


FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def fences(name: str) -> list[Fence]:
    return [Fence(*match) for match in FENCE.findall((ROOT / name).read_text())]


def prose_of(name: str) -> str:
    return FENCE.sub("", (ROOT / name).read_text())


def inline_codes(name: str) -> list[str]:
    return INLINE.findall(prose_of(name))


@cache
def anchors_of(path: Path) -> frozenset[str]:
    """What links may say after `#`: GitHub's names of the headings."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", path.read_text())):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return frozenset(found)


def command_lines(text: str) -> list[str]:
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # prose with an apostrophe, or a quote that spans lines
        return line.split()


def repository_paths(words: list[str]) -> set[str]:
    """Words that name a place in this repository; patterns, variables and outputs of runs are left out."""
    found = set()
    for word in words:
        path = word.strip(".,:;()\"'").removeprefix("./") if not word.startswith(".ci") else word
        if re.search(r"[<>*${}|=\\…]", path) or "//" in path or "..." in path:
            continue
        folder, slash, _ = path.partition("/")
        in_root = not slash and re.fullmatch(r"[\w.-]+\.(sh|md|toml|txt|yml)|Makefile|Dockerfile|LICENSE", path)
        if (slash and folder in CODE_FOLDERS) or in_root:
            found.add(path.split("::")[0].rstrip("/"))
    return found


def modules_run(words: list[str]) -> set[str]:
    return {word for before, word in pairwise(words) if before == "-m" and word.split(".")[0] in OWN_PACKAGES}


def module_exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


# ---- commands and flags ----------------------------------------------------------------------------------------------
class Command(NamedTuple):
    entry: str  # a .py file, or a module after -m
    words: tuple[str, ...]  # after it
    whole: bool = True  # these are all; else a launcher puts more before them

    @property
    def flags(self) -> list[str]:
        return [word.split("=")[0] for word in self.words if re.match(r"--[a-zA-Z]", word)]


def parse_command(words: list[str]) -> Command | None:
    """The Python entry of ours that a command runs, and what follows it; None for other commands."""
    if not re.search(r"(^|/)(python[\d.]*|torchrun|accelerate|deepspeed)$", words[0]):
        return None
    for place, word in enumerate(words):
        is_module = place > 0 and words[place - 1] == "-m"
        if is_module and word.split(".")[0] not in OWN_PACKAGES:
            return None  # pytest, ruff, pip
        is_own_file = word.endswith(".py") and word.removeprefix("./").split("/")[0] in OWN_PACKAGES
        if is_module or is_own_file:
            return Command(word.removeprefix("./"), tuple(words[place + 1 :]))
    return None


STARTS = re.compile(r"^(bash|sbatch)$|(^|/)(python[\d.]*|torchrun|accelerate|deepspeed)$")
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
FLAGS_OF_OTHERS = {
    "--no_deps",
    "--prefix",
    "--help",
    "--nproc_per_node",
    "--master_port",
    "--ipc",
    "--num_processes",
    "--num_machines",
    "--deepspeed_config_file",
}  # pip, torchrun, ...
BEFORE_SCRIPT = re.compile(r"((?:[A-Z][A-Z0-9_]*=(?:\"[^\"]*\"|\S+)\s+)+)bash (?:\./)?([\w./-]+\.sh)")
OF_OTHERS = re.compile(r"(CUDA|HF|OMP|NCCL|TORCH|WANDB|OPENAI|RAY|GLOO)_")  # variables of what we run on


class ParserFound(BaseException):
    """Carries a parser out of an entry: past its `except`s, so no Exception."""


@cache
def parser_of(entry: str) -> argparse.ArgumentParser:
    """The parser of an entry, taken when it is about to read the command line."""

    def stop(parser: argparse.ArgumentParser, *_) -> None:
        raise ParserFound(parser)

    module = entry.removesuffix(".py").replace("/", ".") if "/" in entry else entry
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):  # imported before: no matter
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [entry])
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        try:
            runpy.run_module(module.removesuffix(".__main__"), run_name="__main__")
        except ParserFound as found:
            return found.args[0]
    raise AssertionError(f"{entry} reads no flags")


def spelt_alike(flag: str) -> str:
    """Dashes and underscores are alike."""
    return "--" + flag.removeprefix("--").replace("-", "_")


@cache
def flags_of(entry: str) -> frozenset[str]:
    actions = parser_of(entry)._actions
    return frozenset(spelt_alike(flag) for action in actions for flag in action.option_strings if flag[:2] == "--")


def unknown_flags(command: Command) -> list[str]:
    known = flags_of(command.entry)
    return [flag for flag in command.flags if spelt_alike(flag) not in known]


def complaint(command: Command) -> str | None:
    """What the parser of an entry says of a whole command: a flag that is missing, a value that it cannot read."""
    if not command.whole or {"...", "--help"} & set(command.words) or "--resume" in command.words:
        return None  # with --resume index/main.py takes the other flags from the run
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parser_of(command.entry).parse_args(command.words)
        except SystemExit:
            return f"{command.entry}: {said.getvalue().splitlines()[-1]}"
    return None


@cache
def dry_run(launcher: str) -> tuple[str, ...]:
    """The commands that a launcher prints with DRY_RUN=1 on a checkout without data."""
    environment = {key: value for key, value in os.environ.items() if key not in ("FOREGROUND", "LOG_FILE")}
    done = subprocess.run(
        ["bash", launcher],
        cwd=ROOT,
        env={**environment, "DRY_RUN": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"DRY_RUN=1 bash {launcher} failed:\n{done.stderr[-2000:]}"
    return tuple(done.stdout.splitlines())


def entries_of(launcher: str) -> list[str]:
    if launcher in WRAPPERS:
        return [WRAPPERS[launcher]]
    return [command.entry for line in dry_run(launcher) for command in commands_in(line)]


def commands_in(line: str) -> list[Command]:
    """The commands of ours on one line: run directly, or by a launcher, whose further flags go to its entries.

    What stands before them does not matter: variables, nohup, srun, `docker compose run --rm grec`.
    """
    commands = []
    for part in re.split(r"&&|\|\||;|\s\|\s|\s\d?>|\s&(?=\s|$)", line):
        words = words_of(part)
        start = next((place for place, word in enumerate(words) if STARTS.search(word)), None)
        if start is None:
            continue
        words = words[start:]
        if words[0] in ("bash", "sbatch"):  # the last one counts: a script may run the launcher that follows it
            runs = [p for p, word in enumerate(words) if word.removeprefix("./") in {*LAUNCHERS, *WRAPPERS}]
            if runs:
                script = words[runs[-1]].removeprefix("./")
                further = tuple(words[runs[-1] + 1 :])
                commands += [Command(entry, further, script in WRAPPERS) for entry in entries_of(script)]
        elif command := parse_command(words):
            commands.append(command)
    return commands


def script_text(script: str) -> str:
    """A shell script and those that it sources, and what starts Python."""
    text = (ROOT / script).read_text()
    for sourced in re.findall(r"source [^\n]*?([\w.-]+)\.sh", text):
        for path in ((ROOT / script).parent / f"{sourced}.sh", ROOT / "scripts" / f"{sourced}.sh"):
            if path.is_file():
                text += path.read_text()
    return text + (ROOT / "scripts/env.sh").read_text() + (ROOT / "setup.sh").read_text()
