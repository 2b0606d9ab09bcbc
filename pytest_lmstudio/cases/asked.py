"""What the fixtures `case` and `reply` give a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cases.ahead import Ahead
from pytest_lmstudio.cases.declare import case_of
from pytest_lmstudio.cases.source import BadCases
from pytest_lmstudio.errors import LMError, LMSchemaError

if TYPE_CHECKING:
    from pytest_lmstudio.cases.declare import Case
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.session import Run

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

UNDECLARED = (
    "`case` and `reply` need cases: mark the test with @pytest.mark.llm_cases('cases.jsonl', prompt='...'), or ask the "
    "model yourself with the fixture `lm`"
)
_OUT_OF_TURN = (
    "`case` and `reply` do not know which test asks, since another plugin runs tests in a way of its own: run without "
    "it, or ask the model with the fixture `lm`"
)


def row_of(run: Run) -> dict[str, Any]:
    """Return the fields of the case of the test that runs now."""
    _, case = _now(run)
    try:
        return case.row()
    except BadCases as error:
        pytest.fail(str(error), pytrace=False)


def reply_to(run: Run) -> Reply:
    """Return the answer to the case of the test that runs now.

    Raises:
        LMError: there is no answer.
        LMSchemaError: the answer breaks its schema.
    """
    item, case = _now(run)
    if run.ahead is None:  # pytest was let loose on tests in some way of its own
        run.ahead = Ahead(run, None)
    try:
        return run.ahead.reply(item, case)
    except BadCases as error:
        pytest.fail(f"{case.source.name}, {case.source.unit} {case.line}: {error}", pytrace=False)
    except (LMError, LMSchemaError) as error:
        run.case_error = error
        raise


def _now(run: Run) -> tuple[pytest.Item, Case]:
    """Return the test that runs now, and its case."""
    item = run.running()
    if item is None:
        pytest.fail(_OUT_OF_TURN, pytrace=False)
    case = case_of(item)
    if case is None:
        pytest.fail(UNDECLARED, pytrace=False)
    return item, case
