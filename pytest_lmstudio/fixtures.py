"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.client.lm import LM, AsyncLM
    from pytest_lmstudio.session import Run

#: Tests whose fixture closure holds one of these ask the model.
FIXTURES = frozenset({"lm", "alm", "lm_session", "reply"})


def _run(config: pytest.Config) -> Run:
    from pytest_lmstudio import live  # a suite without LM tests never gets here

    return live.attach(config)


@pytest.fixture
def lm(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model: ``lm("What is the capital of France?")`` returns a `Reply`."""
    client = _run(request.config).client(request.node)
    yield client
    client.close()


@pytest.fixture
def alm(request: pytest.FixtureRequest) -> Iterator[AsyncLM]:
    """Ask the model from an async test, with ``await``; else as `lm`."""
    client = _run(request.config).async_client(request.node)
    yield client
    client.close()


@pytest.fixture(scope="session")
def lm_session(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model from a fixture of wider scope; marks do not apply, calls are booked to the test being set up."""
    client = _run(request.config).client(None)
    yield client
    client.close()
