"""A copy of the toy data that a test may spoil."""

import json
from pathlib import Path

import pytest

from tests.toy import toy_copy


@pytest.fixture
def data(tmp_path) -> Path:
    return toy_copy(tmp_path)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
