"""What a JUnit XML file tells of a run: properties of the suite, and those of each test."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lmstudio.records import Call

#: What the names of all our properties begin with.
PREFIX = "lmstudio."
#: The suite's, by their place in the report; those that are not known are left out.
_OF_REPORT = (
    "run_id",
    "pipeline_version",
    *(f"calls.{name}" for name in ("total", "sent", "ok", "failed", "cached", "coalesced")),
    *("attempts.total", "attempts.failed", "attempts.retries"),
    *("rates.error_rate", "rates.disconnect_rate", "rates.first_attempt_failure_rate", "gate.max_error_rate"),
    *(f"latency_ms.{name}" for name in ("p50", "p95", "p99", "max")),
    *("ttft_ms.p50", "ttft_ms.p95", "tests.lm_error"),
)
_GATE = {True: "failed", False: "passed", None: "not judged"}


def properties_of_suite(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of the suite's properties: rates from 0 to 1, times in ms, counts.

    Args:
        report: the report, see `record.build.build_report`.
    """
    for place in _OF_REPORT:
        value: Any = report
        for name in place.split("."):
            value = value[name]
        if value not in {None, ""}:
            yield PREFIX + place, _text(value)
    if (ends := report["rates"]["error_rate_ci95"]) is not None:
        yield f"{PREFIX}rates.error_rate_ci95.lo", _text(ends[0])
        yield f"{PREFIX}rates.error_rate_ci95.hi", _text(ends[1])
    yield f"{PREFIX}gate", _GATE[report["gate"]["failed"]]
    for kind, count in report["errors_by_kind"].items():
        yield f"{PREFIX}errors.{kind}", _text(count)


def properties_of_test(calls: Sequence[Call]) -> list[tuple[str, str]]:
    """Return name and value of the properties of a test by its calls; latencies are of attempts that went well."""
    attempts = [attempt for call in calls for attempt in call.attempts]
    latencies_ms = [attempt.latency_ms for attempt in attempts if attempt.kind is None]
    kinds = Counter(attempt.kind for attempt in attempts if attempt.kind is not None)
    kinds.update(call.error.kind for call in calls if call.error is not None and not call.attempts)
    counts: dict[str, float] = {
        "calls": len(calls),
        "failed": sum(call.error is not None for call in calls),
        "cached": sum(call.reply is not None and not call.attempts for call in calls),
        "attempts": len(attempts),
        **{f"errors.{kind}": count for kind, count in sorted(kinds.items())},
    }
    if latencies_ms:
        counts |= {"latency_ms.mean": fmean(latencies_ms), "latency_ms.max": max(latencies_ms)}
    return [(PREFIX + name, _text(value)) for name, value in counts.items()]


def _text(value: object) -> str:
    """Return a value as text; of a number no more digits than tell something."""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
