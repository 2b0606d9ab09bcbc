"""The server's own log as the run's event of it tells: plain numbers, checked before they are believed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.facts import LogFacts
from pytest_lmstudio.record.history import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

_EXIT_CODE = re.compile(r"null|-?\d{1,20}")
_COUNTED = frozenset({"crashed", "out_of_memory", "context", "loads", "unloads", "queued", "hung_up", "closed"})
_SOURCES = frozenset({"lmstudio", "embedded"})
#: The log's clock has whole seconds, and a server needs a moment to hear that its client is gone.
_EARLIER_S, _LATER_S = 1.5, 3.0


def log_facts(events: Iterable[Event]) -> LogFacts | None:
    """Return what the last event about the server's log tells, None without one."""
    told = [event for event in events if event["event"] == "server_log" and event.get("source") in _SOURCES]
    if not told:
        return None
    last = told[-1]
    counts = last.get("counts")
    return LogFacts(
        source=last["source"],
        complete=last.get("complete") is True,
        exited=last.get("exited") is True,
        counts={name: n for name, n in counts.items() if name in _COUNTED and _is_count(n)}
        if isinstance(counts, dict)
        else {},
        exit_codes=tuple(code for code in _list(last.get("exit_codes")) if _EXIT_CODE.fullmatch(str(code))),
        hung_up_s=tuple(s for found in _list(last.get("hung_up_s")) if (s := number(found)) is not None),
    )


def log_counts(log: LogFacts | None) -> dict[str, Any] | None:
    """Return what of it goes into the report."""
    if log is None:
        return None
    return {"source": log.source, "complete": log.complete, "exited": log.exited, "counts": dict(log.counts)}


def strangers_hangups(evidence: Evidence) -> int:
    """Return how often the log says that a client left a running request, when this run left none."""
    if evidence.log is None:
        return 0
    waiting = sorted(evidence.log.hung_up_s)
    for ours_s in sorted(_our_hangups_s(evidence)):
        match = next((s for s in waiting if ours_s - _EARLIER_S <= s <= ours_s + _LATER_S), None)
        if match is not None:
            waiting.remove(match)
    return len(waiting)


def _our_hangups_s(evidence: Evidence) -> Iterable[float]:
    """Yield when this run left a request: at a limit of its own, by an interrupt, or since its test had enough."""
    for call in evidence.calls:
        for attempt in call.attempts:
            if attempt.end_s is not None and _is_ours(attempt):
                yield attempt.end_s


def _is_ours(attempt: AttemptFacts) -> bool:
    return attempt.limit is not None or attempt.kind == "cancelled" or attempt.outcome == "abandoned"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
