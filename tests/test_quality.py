"""What any file must keep to, whatever it does."""

import fnmatch
import tomllib

import pytest

from tests.test_documents import ROOT, TRACKED

MOST_LINES = 400
CODE = [name for name in TRACKED if name.endswith((".py", ".sh")) or name == ".ci/run"]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def num_lines(name: str) -> int:
    return len((ROOT / name).read_text().splitlines())


def test_files_can_be_read_at_a_sitting():
    if not TRACKED:
        pytest.skip("git does not answer here, so no file was looked at")
    assert len(CODE) > 100
    long = {name: num_lines(name) for name in CODE if num_lines(name) > MOST_LINES}
    assert not long, f"split by subject what has more than {MOST_LINES} lines: {long}"


def test_every_file_of_the_core_is_measured():
    """A file that was renamed would drop out of the measure of coverage without a word."""
    patterns = SETTINGS["coverage"]["run"]["include"]
    gone = [pattern for pattern in patterns if not fnmatch.filter(TRACKED, pattern)]
    assert not gone or not TRACKED, f"[tool.coverage.run] in pyproject.toml names what does not exist: {gone}"
    assert SETTINGS["coverage"]["report"]["fail_under"] >= 90


def test_names_that_vulture_ignores_are_in_use():
    text = "\n".join((ROOT / name).read_text() for name in CODE)
    unused = [name for name in SETTINGS["vulture"]["ignore_names"] if name not in text]
    assert not unused, f"[tool.vulture] in pyproject.toml ignores what is gone: {unused}"
