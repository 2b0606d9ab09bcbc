"""Whether a test was lost: stopped by a call that got no answer, so that it neither passed nor failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

#: The attribute of a `TestReport` that carries our facts, also from worker to controller; plain data only.
ATTRIBUTE = "lmstudio"
LOST = "lm-error"


def lost_reason(error: BaseException | None) -> str | None:
    """Return why a test was lost, or None when the error is of another sort.

    An exception group counts when every leaf of it does.
    """
    if error is None:
        return None
    from pytest_lmstudio.errors import LMError  # not worth loading for suites whose tests pass

    if isinstance(error, LMError):
        return str(error) if error.category == "network" else None
    if isinstance(error, BaseExceptionGroup):
        reasons = [lost_reason(part) for part in error.exceptions]
        return reasons[0] if all(reasons) else None
    return None


def mark_report(
    report: pytest.TestReport,
    item: pytest.Item,
    error: BaseException | None,
    *,
    llm: bool,
    gate: bool,
    declared: bool = False,
) -> None:
    """Put our facts on a report, and turn the failure of a lost test into a skip of its own kind.

    An expected failure (xfail) is none when the model was not heard at all.
    """
    reason = lost_reason(error) if gate else None
    if not llm and reason is None:
        return
    setattr(report, ATTRIBUTE, {"llm": llm, "lost": reason, **({"declared": True} if declared else {})})
    if reason is not None:
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (str(path), (line or 0) + 1, f"{LOST}: {reason}")
        vars(report).pop("wasxfail", None)


def mark_case(report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
    """Let a declared case without the answer that it needs fail as a test does that asks by itself.

    It was asked in the test's setup, but nothing broke there; and no line of the suite is to be shown.
    """
    report.when = "call"
    if report.failed and call.excinfo is not None:
        report.longrepr = call.excinfo.getrepr(style="value")


def facts_of(report: Any) -> dict[str, Any]:
    """Return our facts on a report, empty when there are none."""
    facts = getattr(report, ATTRIBUTE, None)
    return facts if isinstance(facts, dict) else {}


def status_of(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Return category, letter and word of a lost test, None for any other."""
    return (LOST, "L", (LOST.upper(), {"yellow": True})) if facts_of(report).get("lost") else None


def word_of(report: Any) -> str | None:
    """Return how a report counts in the tally of tests, None when it does not."""
    if facts_of(report).get("lost"):
        return "lm_error"
    if report.outcome == "failed":
        # A crashed worker's test is reported in no phase; pytest counts it as failed too.
        return "error" if report.when in {"setup", "teardown"} else "failed"
    expected = hasattr(report, "wasxfail")
    if report.outcome == "skipped":
        return "xfailed" if expected else "skipped"
    if report.outcome == "passed" and report.when == "call":
        return "xpassed" if expected else "passed"
    return None
