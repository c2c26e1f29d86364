"""Documents and launchers hold what they promise: paths exist, flags exist, launchers print a command that parses."""

import os
import re
import shlex
import subprocess
import sys
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


def test_this_is_a_checkout():
    if not TRACKED:
        pytest.skip("git does not answer here, so documents were not tested")
    assert "README.md" in DOCUMENTS
    assert LAUNCHERS


# ---- what a document says --------------------------------------------------------------------------------------------
class Fence(NamedTuple):
    language: str
    text: str


FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def fences(name: str) -> list[Fence]:
    return [Fence(*match) for match in FENCE.findall((ROOT / name).read_text())]


def inline_codes(name: str) -> list[str]:
    return INLINE.findall(FENCE.sub("", (ROOT / name).read_text()))


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


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_in_documents_exist(name):
    text = (ROOT / name).read_text()
    lines = [*inline_codes(name)]
    for fence in fences(name):
        if fence.language in ("bash", "sh", "shell"):
            lines += command_lines(fence.text)
    here = (ROOT / name).parent
    words = [word for line in lines for word in words_of(line)]
    # In a folder's own README, a bare file name means the file beside it.
    missing = {path for path in repository_paths(words) if not (ROOT / path).exists() and not (here / path).exists()}
    missing |= {f"-m {module}" for line in lines for module in modules_run(words_of(line)) if not module_exists(module)}
    links = {link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")}
    missing |= {link for link in links if not (here / link).exists()}
    assert not missing, f"{name} names what does not exist: {sorted(missing)}"


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_paths_in_shell_scripts_exist(name):
    lines = command_lines((ROOT / name).read_text())
    words = [word for line in lines for word in words_of(line.lstrip("# "))]
    missing = {path for path in repository_paths(words) if not (ROOT / path).exists()}
    assert not missing, f"{name} names what does not exist: {sorted(missing)}"


def test_both_readmes_hold_the_same_commands():
    assert fences("README.md") == fences("README_zh.md")
    placeholders = re.compile(r"<!--.*?-->")
    assert placeholders.findall((ROOT / "README.md").read_text()) == placeholders.findall(
        (ROOT / "README_zh.md").read_text()
    )


# ---- flags -----------------------------------------------------------------------------------------------------------
class Command(NamedTuple):
    entry: str  # a .py file, or a module after -m
    flags: tuple[str, ...]


def parse_command(words: list[str]) -> Command | None:
    """The Python entry of ours that a command runs, and the flags after it; None for other commands."""
    if "python" not in words[0] and words[0] not in ("torchrun", "accelerate"):
        return None
    for place, word in enumerate(words):
        is_module = place > 0 and words[place - 1] == "-m"
        if is_module and word.split(".")[0] not in OWN_PACKAGES:
            return None  # pytest, ruff, pip
        is_own_file = word.endswith(".py") and word.removeprefix("./").split("/")[0] in OWN_PACKAGES
        if is_module or is_own_file:
            flags = [flag.split("=")[0] for flag in words[place + 1 :] if re.match(r"--[a-zA-Z]", flag)]
            return Command(word.removeprefix("./"), tuple(flags))
    return None


@cache
def flags_of(entry: str) -> frozenset[str]:
    """What `--help` of an entry lists; dashes and underscores are alike."""
    command = [sys.executable, entry] if entry.endswith(".py") else [sys.executable, "-m", entry]
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command[1:])} --help failed:\n{done.stderr[-2000:]}"
    return frozenset(flag.replace("-", "_") for flag in re.findall(r"--[a-zA-Z][\w-]*", done.stdout))


def unknown_flags(command: Command) -> list[str]:
    known = flags_of(command.entry)
    return [flag for flag in command.flags if flag.replace("-", "_") not in known]


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
    """The commands of ours on one line: run directly, or by a launcher, whose further flags go to its entries."""
    commands = []
    for part in re.split(r"&&|\|\||;|\s\|\s", line):
        words = words_of(part)
        while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("nohup", "time", "exec")):
            words = words[1:]
        if not words:
            continue
        if "scripts/slurm.sh" in words[1:-1]:  # it runs the launcher that follows
            words = ["bash", *words[words.index("scripts/slurm.sh") + 1 :]]
        if words[0] == "bash" and len(words) > 1:
            script = words[1].removeprefix("./")
            if script in LAUNCHERS or script in WRAPPERS:
                flags = tuple(word.split("=")[0] for word in words[2:] if word.startswith("--"))
                commands += [Command(entry, flags) for entry in entries_of(script)]
        elif command := parse_command(words):
            commands.append(command)
    return commands


@pytest.mark.parametrize("name", DOCUMENTS)
def test_flags_in_documents_exist(name):
    lines = inline_codes(name)
    for fence in fences(name):
        lines += command_lines(fence.text)
    wrong = [
        f"{command.entry} {flag}" for line in lines for command in commands_in(line) for flag in unknown_flags(command)
    ]
    assert not wrong, f"{name} shows flags that do not exist: {wrong}"


# ---- shell scripts ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_scripts_parse(name):
    done = subprocess.run(["bash", "-n", name], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_print_a_command_whose_flags_exist(name):
    commands = [command for line in dry_run(name) for command in commands_in(line)]
    assert commands, f"DRY_RUN=1 bash {name} printed no command of ours: {dry_run(name)}"
    wrong = [f"{command.entry} {flag}" for command in commands for flag in unknown_flags(command)]
    assert not wrong, f"{name} passes flags that do not exist: {wrong}"


@pytest.mark.parametrize("name", [n for n in SHELL_SCRIPTS if re.search("ds_z3_|train_nodes", (ROOT / n).read_text())])
def test_launchers_of_zero_3_end_with_the_merge(name):
    """The parts of a ZeRO-3 checkpoint are no model yet."""
    last = (ROOT / name).read_text().splitlines()[-1]
    assert last.startswith("# python -m src.merge_zero3 ")
    (command,) = commands_in(last.removeprefix("# "))
    assert not unknown_flags(command)


# ---- nothing of one machine ------------------------------------------------------------------------------------------
def test_no_file_names_a_machine_or_a_registry():
    """Joined here from pieces, since this file is searched too."""
    parts = [
        ("/", "work/"),
        ("/tmp/", "bash_jobs"),
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("download.", "pytorch.org"),
        ("registry.", "npmjs"),
        ("deb.", "debian.org"),
        ("conda.", "anaconda.org"),
        ("proxy.", "golang.org"),
    ]
    forbidden = re.compile("|".join(r"(?<![\w.$}>-])" + re.escape("".join(pieces)) for pieces in parts))
    found = []
    for name in TRACKED:
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue  # a picture or the like
        found += [f"{name}: {match}" for match in forbidden.findall(text)]
    assert not found
