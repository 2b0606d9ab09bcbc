"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.cases.declare import Case
    from pytest_lmstudio.client.alm import AsyncLM
    from pytest_lmstudio.client.lm import LM
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.session import Run

_UNDECLARED = (
    "`case` and `reply` need cases: mark the test with @pytest.mark.llm_cases('cases.jsonl', prompt='...'), or ask the "
    "model yourself with the fixture `lm`"
)
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


@pytest.fixture
def _lmstudio_case() -> Case:
    """Stand for a case where none is declared; `@pytest.mark.llm_cases` puts one in its place."""
    pytest.fail(_UNDECLARED, pytrace=False)


# The next two do without `request`: pytest makes it anew for each fixture that asks, which is much of what a test with
# a cached answer costs.
@pytest.fixture
def case(_lmstudio_case: Case) -> dict[str, Any]:
    """Return the fields of this test's case, of which `@pytest.mark.llm_cases(...)` made one test each."""
    from pytest_lmstudio.cases.asked import row_of

    return row_of(_lmstudio_case)


@pytest.fixture
def reply(_lmstudio_case: Case) -> Reply:
    """Return the answer to this test's case; it was asked while the tests before it ran."""
    __tracebackhide__ = True
    from pytest_lmstudio.cases.asked import reply_to

    return reply_to(_run(_lmstudio_case.config), _lmstudio_case)


@pytest.fixture(scope="session")
def lm_session(request: pytest.FixtureRequest) -> Iterator[LM]:
    """Ask the model from a fixture of wider scope; marks do not apply, calls are booked to the test being set up."""
    client = _run(request.config).client(None)
    yield client
    client.close()
