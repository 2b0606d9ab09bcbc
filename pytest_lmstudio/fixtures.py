"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.session import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.client.lm import LM, AsyncLM


@pytest.fixture
def lm(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model: ``lm("What is the capital of France?")`` returns a `Reply`."""
    client = request.config.stash[RUN].client(request.node)
    yield client
    client.close()


@pytest.fixture
def alm(request: pytest.FixtureRequest) -> AsyncLM:
    """Ask the model from an async test, with ``await``; else as `lm`."""
    return request.config.stash[RUN].async_client(request.node)


@pytest.fixture(scope="session")
def lm_session(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model from a fixture of wider scope; marks do not apply, calls are booked to the test being set up."""
    client = request.config.stash[RUN].client(None)
    yield client
    client.close()
