"""A dataset without what language models make, an endpoint to point to, and a log that tests can look at."""

from contextlib import ExitStack

import pytest

from benchmarks.misbehaving_server import LocalServer
from src.common.log import logger
from tests.data_process.llm_endpoint import KEY, Model
from tests.toy import NAME, toy_copy


@pytest.fixture(autouse=True)
def _log(caplog):
    """Messages can be looked at, and the next test gets the logger as it was."""
    caplog.set_level("INFO", logger.name)
    yield
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def data(tmp_path):
    """The toy dataset, without what is to be made."""
    data = toy_copy(tmp_path)
    for suffix in ("item_enriched_v2.json", "user.json"):
        (data / NAME / f"{NAME}.{suffix}").unlink()
    return data


@pytest.fixture
def endpoint(monkeypatch):
    """Starts a server with the given answers, and points the environment to it."""
    with ExitStack() as stack:

        def start(model: Model) -> Model:
            monkeypatch.setenv("OPENAI_BASE_URL", stack.enter_context(LocalServer(model).running()) + "/v1")
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            return model

        yield start
