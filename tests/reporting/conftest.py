"""Runs to compare."""

import pytest

from tests.reporting.pages import Runs


@pytest.fixture
def made(tmp_path):
    return Runs(tmp_path)
