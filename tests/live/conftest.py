"""The real server for the tests that need one: one a process, skipped with a reason where it cannot be had."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedModel, EmbeddedServer, find_model

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Set where the real server has to be there, as in CI, so that it cannot be skipped unnoticed.
NEEDED = "LMSTUDIO_TESTS_NEED_LIVE"


@pytest.fixture(scope="session")
def model() -> EmbeddedModel:
    try:
        return find_model({})
    except EmbeddedError as error:
        if os.environ.get(NEEDED) == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def server(model: EmbeddedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Serve the packaged model to two requests at once; tests leave it running."""
    log_path = tmp_path_factory.mktemp("embedded") / "server.log"
    running = EmbeddedServer.start(model, parallel=2, log_path=log_path)
    try:
        yield running
    finally:
        running.stop()
