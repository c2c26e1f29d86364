"""Documents and launchers hold what they promise: paths exist, flags exist, launchers print a command that parses."""

import argparse
import ast
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
ENTRIES = [
    name
    for name in TRACKED
    if name.endswith(".py")
    and name.split("/")[0] in OWN_PACKAGES
    and re.search(r"^if __name__ == .__main__.:", (ROOT / name).read_text(), re.MULTILINE)
]


def test_this_is_a_checkout():
    if not TRACKED:
        pytest.skip("git does not answer here, so documents were not tested")
    assert "README.md" in DOCUMENTS
    assert LAUNCHERS


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
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = here / path if path else ROOT / name
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            missing.add(link)
    assert not missing, f"{name} names what does not exist: {sorted(missing)}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_in_a_line_ends_in_that_line(name):
    """What wraps is seen neither by these tests nor by who copies it."""
    odd = [line for line in prose_of(name).splitlines() if line.count("`") % 2]
    assert not odd, f"{name} has code that goes on in the next line, or a fence that does not end: {odd}"


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_paths_in_shell_scripts_exist(name):
    lines = command_lines((ROOT / name).read_text())
    words = [word for line in lines for word in words_of(line.lstrip("# "))]
    missing = {path for path in repository_paths(words) if not (ROOT / path).exists()}
    assert not missing, f"{name} names what does not exist: {sorted(missing)}"


def test_both_readmes_hold_the_same_commands():
    """Blocks, and code and links in the text; each names itself and the other, and links to its own headings."""
    assert fences("README.md") == fences("README_zh.md")
    ours, theirs = (prose_of(name).replace("README_zh.md", "README.md") for name in ("README.md", "README_zh.md"))
    assert sorted(INLINE.findall(ours)) == sorted(INLINE.findall(theirs))
    files, their_files = (
        sorted(link for link in LINK.findall(text) if not link.startswith("#")) for text in (ours, theirs)
    )
    assert files == their_files
    assert len(HEADING.findall(ours)) == len(HEADING.findall(theirs))


@pytest.mark.parametrize("readme", ["README.md", "README_zh.md"])
def test_every_document_is_linked_from_the_readme(readme):
    links = {link.partition("#")[0] for link in LINK.findall((ROOT / readme).read_text())}
    pages = {name for name in DOCUMENTS if name.startswith("docs/") or name.count("/") == 0}
    assert not pages - links - {"README.md", "README_zh.md"}


# ---- flags -----------------------------------------------------------------------------------------------------------
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
        if words[0] in ("bash", "sbatch") and len(words) > 1:
            script = words[1].removeprefix("./")
            if script in LAUNCHERS or script in WRAPPERS:
                commands += [Command(entry, tuple(words[2:]), script in WRAPPERS) for entry in entries_of(script)]
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
    known = frozenset().union(FLAGS_OF_OTHERS, *map(flags_of, ENTRIES))
    alone = [code.split()[0].split("=")[0] for code in inline_codes(name) if re.match(r"--[a-zA-Z]", code)]
    wrong += [flag for flag in alone if spelt_alike(flag) not in known]
    assert not wrong, f"{name} shows flags that do not exist: {wrong}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_documents_are_whole(name):
    """A block can be pasted: no flag that is required is missing, and every value can be read."""
    shells = [fence.text for fence in fences(name) if fence.language in ("", "bash", "sh", "shell")]
    lines = [line for text in shells for line in command_lines(text)]
    wrong = [said for line in lines for command in commands_in(line) if (said := complaint(command))]
    assert not wrong, f"{name} shows commands that would not start: {wrong}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_variables_before_scripts_are_read_by_them(name):
    lines = inline_codes(name)
    for fence in fences(name):
        lines += command_lines(fence.text)
    wrong = []
    for settings, script in (found for line in lines for found in BEFORE_SCRIPT.findall(line)):
        if (ROOT / script).is_file():
            known = set(re.findall(r"\w+", script_text(script)))
            variables = {word.partition("=")[0] for word in words_of(settings)}
            wrong += [f"{script} {variable}" for variable in variables - known if not OF_OTHERS.match(variable)]
    assert not wrong, f"{name} sets variables that nobody reads: {wrong}"


def script_text(script: str) -> str:
    """A shell script and those that it sources, and what starts Python."""
    text = (ROOT / script).read_text()
    for sourced in re.findall(r"source [^\n]*?([\w.-]+)\.sh", text):
        for path in ((ROOT / script).parent / f"{sourced}.sh", ROOT / "scripts" / f"{sourced}.sh"):
            if path.is_file():
                text += path.read_text()
    return text + (ROOT / "scripts/env.sh").read_text() + (ROOT / "setup.sh").read_text()


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_flag_is_documented(entry):
    """In its --help, and in a document, where people look for what they read in another's command."""
    parser = parser_of(entry)
    parser.format_help()  # used to fail on a lone % in a help text
    silent = [action.option_strings or action.dest for action in parser._actions if not action.help]
    assert not silent, f"{entry} says nothing of {silent}"
    named = {spelt_alike(flag) for name in DOCUMENTS for flag in FLAG.findall((ROOT / name).read_text())}
    missing = [
        action.option_strings[0]
        for action in parser._actions
        if action.option_strings and not {spelt_alike(flag) for flag in action.option_strings} & named
    ]
    assert not missing, f"no document tells what {entry} does with {missing}: say it in docs/"


# ---- messages --------------------------------------------------------------------------------------------------------
FAQ = "docs/faq.md"
SHELL_TEXT = r'"(?:\$\{[^}]*\}|[^"\\]|\\.)*"'
LEAST_WORDS = 12  # characters of a message that are its own, not values


@cache
def messages() -> tuple[re.Pattern, ...]:
    """What our code can say: its texts, with anything at all where a value goes."""
    texts = []
    for name in TRACKED:
        if name.endswith(".py") and name.split("/")[0] in OWN_PACKAGES:
            tree = ast.parse((ROOT / name).read_text())
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    texts.append([part.value if isinstance(part, ast.Constant) else None for part in node.values])
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                    texts.append([node.value])
        elif name in ("setup.sh", "scripts/env.sh", "scripts/launch.sh"):
            for said in re.findall(rf"{SHELL_TEXT}(?: \\\n\s*{SHELL_TEXT})*", (ROOT / name).read_text()):
                joined = re.sub(r'" \\\n\s*"', " ", said)[1:-1]
                parts = re.split(r"(\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|\$\w+)", joined)
                texts.append([None if place % 2 else part for place, part in enumerate(parts)])
    long_enough = [parts for parts in texts if sum(map(len, filter(None, parts))) >= LEAST_WORDS]
    return tuple(
        re.compile("".join(".*" if part is None else re.escape(part) for part in parts), re.DOTALL)
        for parts in long_enough
    )


def quoted_messages() -> list[str]:
    return [fence.text.strip() for fence in fences(FAQ) if fence.language == "text"]


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_in_the_faq_are_those_of_the_code(message):
    message = re.sub(r"^(error|setup): ", "", message)
    assert any(pattern.fullmatch(message) for pattern in messages()), f"nothing says: {message}"


def test_every_entry_of_the_faq_quotes_a_message_or_needs_none():
    """An entry is found by what was printed."""
    text = (ROOT / FAQ).read_text()
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    entries = dict(zip(parts[1::2], parts[2::2], strict=True))
    silent = {title for title, body in entries.items() if not re.search(r"^```(text|console)", body, re.MULTILINE)}
    assert len(entries) > 25
    assert {title.partition(" (")[0] for title in silent} == {
        "flash-attn is missing, or does not build",
        "The figures are poor",
    }


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
    wrong += filter(None, map(complaint, commands))
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
