"""When a test is lost, and how its reports count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_lmstudio import outcome
from pytest_lmstudio.errors import ErrorKind, LMError, LMSchemaError, make_error

LOST = make_error(ErrorKind.TIMEOUT, "late")
CANCELLED = make_error(ErrorKind.CANCELLED, "stopped")
AUTH = make_error(ErrorKind.AUTH, "no token")
FORGIVEN = make_error(ErrorKind.CONTEXT_OVERFLOW, "full", category="network")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (LOST, "late"),
        (CANCELLED, "stopped"),
        (FORGIVEN, "full"),
        (AUTH, None),
        (make_error(ErrorKind.CACHE_MISS, "not there"), None),
        (LMError("plain"), None),
        (LMSchemaError("broken"), None),
        (ConnectionError("not ours"), None),
        (AssertionError("wrong"), None),
        (caused(AssertionError("wrong"), LOST), None),
        (KeyboardInterrupt(), None),
        (ExceptionGroup("g", [LOST, CANCELLED]), "late"),
        (ExceptionGroup("g", [ExceptionGroup("h", [CANCELLED]), LOST]), "stopped"),
        (BaseExceptionGroup("g", [LOST, KeyboardInterrupt()]), None),
        (ExceptionGroup("g", [LOST, AssertionError("wrong")]), None),
        (ExceptionGroup("g", [LOST, ExceptionGroup("h", [LOST, AUTH])]), None),
    ],
)
def test_only_network_errors_lose_a_test(error: BaseException | None, reason: str | None) -> None:
    assert outcome.lost_reason(error) == reason


def report(when: str = "call", result: str = "failed", **more: Any) -> Any:
    return SimpleNamespace(when=when, outcome=result, longrepr="traceback", **more)


ITEM = cast("pytest.Item", SimpleNamespace(location=("tests/test_a.py", 6, "test_one")))


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
@pytest.mark.parametrize("llm", [True, False])
def test_a_lost_test_is_skipped_in_its_own_way(when: str, llm: bool) -> None:
    lost = report(when, wasxfail="flaky")
    outcome.mark_report(lost, ITEM, LOST, llm=llm, gate=True)
    assert vars(lost) == {
        "when": when,
        "outcome": "skipped",
        "longrepr": ("tests/test_a.py", 7, "lm-error: late"),
        "lmstudio": {"llm": llm, "lost": "late"},
    }
    assert outcome.status_of(lost) == ("lm-error", "L", ("LM-ERROR", {"yellow": True}))
    assert outcome.word_of(lost) == "lm_error"


@pytest.mark.parametrize(("error", "gate"), [(LOST, False), (AUTH, True), (None, True), (AssertionError("no"), True)])
def test_any_other_report_keeps_its_outcome(error: BaseException | None, gate: bool) -> None:
    kept = report()
    outcome.mark_report(kept, ITEM, error, llm=True, gate=gate)
    assert (kept.outcome, kept.longrepr, kept.lmstudio) == ("failed", "traceback", {"llm": True, "lost": None})
    assert outcome.status_of(kept) is None


def test_the_reports_of_other_tests_are_left_alone() -> None:
    other = report()
    outcome.mark_report(other, ITEM, AssertionError("no"), llm=False, gate=True)
    assert vars(other) == vars(report())
    assert outcome.facts_of(other) == {}


def test_a_test_without_a_line_is_lost_at_line_one() -> None:
    lost = report()
    item = cast("pytest.Item", SimpleNamespace(location=("test_a.txt", None, "doc")))
    outcome.mark_report(lost, item, LOST, llm=True, gate=True)
    assert lost.longrepr == ("test_a.txt", 1, "lm-error: late")


@pytest.mark.parametrize(
    ("when", "result", "more", "word"),
    [
        ("call", "failed", {}, "failed"),
        ("???", "failed", {}, "failed"),  # of a worker that crashed
        ("setup", "failed", {}, "error"),
        ("teardown", "failed", {}, "error"),
        ("call", "passed", {}, "passed"),
        ("setup", "passed", {}, None),
        ("teardown", "passed", {}, None),
        ("setup", "skipped", {}, "skipped"),
        ("call", "skipped", {"wasxfail": ""}, "xfailed"),
        ("setup", "skipped", {"wasxfail": "reason"}, "xfailed"),
        ("call", "passed", {"wasxfail": ""}, "xpassed"),
        ("call", "rerun", {}, None),
        ("call", "failed", {"lmstudio": "no facts"}, "failed"),
    ],
)
def test_a_report_counts_by_its_phase_and_outcome(
    when: str, result: str, more: dict[str, Any], word: str | None
) -> None:
    assert outcome.word_of(report(when, result, **more)) == word
