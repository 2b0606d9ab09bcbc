"""Runs that show one symptom each, and runs that only look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.unit.record.logs import bad, bads, event, good, goods, report_of

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


class Case(NamedTuple):
    """A run that shows a symptom, what is said of it, and a run that is nearly the same and does not.

    `fix` and `cause` are what the run's numbers make of them; None where the row's own stand.
    """

    symptom: str
    shows: list[Event]
    evidence: str
    near_miss: list[Event]
    fix: str | None = None
    cause: str | None = None
    facts: dict[str, Any] = {}  # noqa: RUF012  # never written to
    near_facts: dict[str, Any] = {}  # noqa: RUF012  # the same


def rows_of(events: list[Event], **facts: Any) -> dict[str, dict[str, str]]:
    """Return the rows of a run's diagnosis by their symptoms, in their order."""
    return {row["symptom"]: row for row in report_of(events, **facts)["diagnosis"]}


def own_limit(count: int, limit: str | None = "attempt", phase: str = "waiting", **fields: Any) -> list[Event]:
    return bads(count, "timeout", **{"latency_ms": 45_000, "limit": limit, "phase": phase, **fields})


def foreign(latencies: list[int], kind: str = "disconnect", timeout_ms: int = 120_000, **fields: Any) -> list[Event]:
    return [
        line
        for i, latency in enumerate(latencies)
        for line in bad(f"f{i}", kind, i * 1_000_000, latency, timeout_ms=timeout_ms, **fields)
    ]


def crowd(
    at_once: int, rounds: int, fails: list[int], *, kind: str = "server_error", lasts_ms: int = 1000
) -> list[Event]:
    """Return rounds of so many calls at once, of which those of the named places fail."""
    return [
        line
        for n in range(at_once * rounds)
        for line in (bad if n % at_once in fails else _good)(
            f"n{at_once}-{n}", kind, 500_000 + n // at_once * 10_000 + n % at_once, lasts_ms
        )
    ]


def _good(call_id: str, _: str, at_ms: float, latency_ms: float) -> list[Event]:
    return good(call_id, at_ms, latency_ms)


def turns(slow_ms: int) -> list[Event]:
    """Return calls of two models that change after every second call."""
    calls = ((n, "ab"[n // 2 % 2], slow_ms if n % 2 == 0 else 1000) for n in range(12))
    return [line for n, model, ms in calls for line in good(f"t{n}", n * 60_000, ms, model=model)]


def of_kind(kind: str, category: str = "other", message: str = "told by the server", count: int = 1) -> list[Event]:
    return bads(count, kind, f"{kind}-", error_category=category, message=message)


def server_log(source: str = "lmstudio", **fields: Any) -> Event:
    """Return the event that tells what the server's own log has."""
    return event("server_log", source=source, **{"complete": True, "exited": False, "counts": {}, **fields})


def slowing(count: int, last_speed: float) -> list[Event]:
    """Return answers of which the last half comes at another speed than 40 tokens/s."""
    speeds = [40.0] * (count // 2) + [last_speed] * (count - count // 2)
    return [line for n, s in enumerate(speeds) for line in good(f"s{n}", n * 10_000, tokens_per_second=s)]


def quoted(kind: str, count: int = 1, message: str = "told by the server") -> str:
    return f'{count} error{"s" * (count > 1)} of kind {kind}, the first: "{message}"'


__all__ = [
    "Case", "bad", "bads", "crowd", "foreign", "good", "goods", "of_kind", "own_limit", "quoted", "rows_of",
    "server_log", "slowing", "turns",
]  # fmt: skip
