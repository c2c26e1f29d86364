"""Documents and launchers hold what they promise: paths exist, flags exist, launchers print a command that parses."""

import re
import subprocess

import pytest

from tests.documents import (
    BEFORE_SCRIPT,
    DOCUMENTS,
    ENTRIES,
    FLAG,
    FLAGS_OF_OTHERS,
    HEADING,
    INLINE,
    LAUNCHERS,
    LINK,
    OF_OTHERS,
    ROOT,
    SHELL_SCRIPTS,
    TRACKED,
    anchors_of,
    command_lines,
    commands_in,
    complaint,
    dry_run,
    fences,
    flags_of,
    inline_codes,
    module_exists,
    modules_run,
    parser_of,
    prose_of,
    repository_paths,
    script_text,
    spelt_alike,
    unknown_flags,
    words_of,
)


def test_this_is_a_checkout():
    if not TRACKED:
        pytest.skip("git does not answer here, so documents were not tested")
    assert "README.md" in DOCUMENTS
    assert LAUNCHERS


# ---- what a document says --------------------------------------------------------------------------------------------
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


def test_tiny_models_are_made_of_the_family_that_is_trained():
    """docs/finetune_readme.md made models/tiny of Qwen2-VL and trained it as a Qwen2, which is refused."""
    lines = [line for name in DOCUMENTS for fence in fences(name) for line in command_lines(fence.text)]
    made = {out: family for line in lines for family, out in re.findall(r"--family (\S+) --out (\S+)", line)}
    trained = re.findall(r"--base_model (models/tiny\S*) --model_type (\S+)", "\n".join(lines))
    assert trained
    assert {base: made.get(base) for base, _ in trained} == dict(trained)


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
