"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.flags import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.client.alm import AsyncLM
    from pytest_lmstudio.client.lm import LM
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.session import Run

#: Tests whose fixture closure holds one of these ask the model.
FIXTURES = frozenset({"lm", "alm", "lm_session", "reply"})


def _run(config: pytest.Config) -> Run:
    from pytest_lmstudio import live  # a suite without LM tests never gets here

    return live.attach(config)


def _client(request: pytest.FixtureRequest, item: pytest.Item | None) -> LM:
    """Return a client for a test, or (None) for whichever test is being set up."""
    caller = _run(request.config).caller(item)
    from pytest_lmstudio.client.lm import LM

    return LM(caller)


@pytest.fixture
def lm(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model: ``lm("What is the capital of France?")`` returns a `Reply`."""
    client = _client(request, request.node)
    yield client
    client.close()


@pytest.fixture
def alm(request: pytest.FixtureRequest) -> Iterator[AsyncLM]:
    """Ask the model from an async test, with ``await``; else as `lm`."""
    caller = _run(request.config).caller(request.node)
    from pytest_lmstudio.client.alm import AsyncLM

    client = AsyncLM(caller)
    yield client
    client.close()


@pytest.fixture(scope="session")
def lm_session(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model from a fixture of wider scope; marks do not apply, calls are booked to the test being set up."""
    client = _client(request, None)
    yield client
    client.close()


class CaseFixtures:
    """The fixtures of declared cases, of one pytest.

    They ask for no other fixture: `request`, or one that has the case, takes pytest longer than a cached answer takes.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.fixture
    def case(self) -> dict[str, Any]:
        """Return the fields of this test's case, of which `@pytest.mark.llm_cases(...)` made one test each."""
        from pytest_lmstudio.cases.asked import row_of

        return row_of(self._run())

    @pytest.fixture
    def reply(self) -> Reply:
        """Return the answer to this test's case; it was asked while the tests before it ran."""
        __tracebackhide__ = True
        from pytest_lmstudio.cases.asked import reply_to

        return reply_to(self._run())

    def _run(self) -> Run:
        __tracebackhide__ = True
        if PROBLEMS not in self._config.stash:  # no test of the suite has cases, and nothing was made ready for any
            from pytest_lmstudio.cases.asked import UNDECLARED

            pytest.fail(UNDECLARED, pytrace=False)
        return _run(self._config)
