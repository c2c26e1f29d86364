"""Settings of these tests."""

import pytest


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr("src.text_generation.core.NUM_RESAMPLES", 20)
