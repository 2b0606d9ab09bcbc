"""What the fixtures `case` and `reply` give a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cases.ahead import Ahead
from pytest_lmstudio.cases.declare import Case, case_of
from pytest_lmstudio.cases.source import BadCases

if TYPE_CHECKING:
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.session import Run

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

_UNDECLARED = (
    "`case` and `reply` need cases: mark the test with @pytest.mark.llm_cases('cases.jsonl', prompt='...'), or ask the "
    "model yourself with the fixture `lm`"
)


def row_of(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the fields of a test's case."""
    case = getattr(request, "param", None)
    if not isinstance(case, Case):
        pytest.fail(_UNDECLARED, pytrace=False)
    try:
        return case.row()
    except BadCases as error:
        pytest.fail(str(error), pytrace=False)


def reply_to(run: Run, item: pytest.Item) -> Reply:
    """Return the answer to a test's case.

    Raises:
        LMError: there is no answer.
        LMSchemaError: the answer breaks its schema.
    """
    case = case_of(item)
    if case is None:
        pytest.fail(_UNDECLARED, pytrace=False)
    if run.ahead is None:  # pytest was let loose on tests in some way of its own
        run.ahead = Ahead(run, None)
    try:
        return run.ahead.reply(item, case)
    except BadCases as error:
        pytest.fail(f"{case.source.name}, {case.source.unit} {case.line}: {error}", pytrace=False)
