"""The report: every number and verdict of a run, from its events and what the session knew."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.record.diagnosis import diagnose
from pytest_lmstudio.record.escalation import judge_escalation
from pytest_lmstudio.record.events import EVENTS_LOST
from pytest_lmstudio.record.facts import Evidence, RunFacts
from pytest_lmstudio.record.gate import judge
from pytest_lmstudio.record.history import amount, calls_of, cases_of, peak_in_flight
from pytest_lmstudio.record.seen import server_of
from pytest_lmstudio.record.server_log import log_counts, log_facts
from pytest_lmstudio.record.stats import percentile, ratio, rounded, spread, tally, wilson
from pytest_lmstudio.text import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts

__all__ = ["DISCONNECTS", "SCHEMA_VERSION", "Part", "RunFacts", "build_report", "build_whole", "tally"]

SCHEMA_VERSION = 1
DISCONNECTS = frozenset({"disconnect", "timeout", "cancelled"})


class Part(NamedTuple):
    """The log of a run, or of one of the shards that make one: its events, and the calls in them."""

    events: Sequence[Event]
    calls: tuple[CallFacts, ...]


def build_report(events: Sequence[Event], *, run: RunFacts) -> dict[str, Any]:
    """Return the report of a run, plain data that is valid JSON.

    Every call counts once, by its ``call_id``: ``calls.total`` is sent + cached + coalesced + abandoned, ``sent`` is
    ok + failed, ``attempts.total`` is ok + failed. A call that a crash or an interrupt cut off has failed as
    ``cancelled``. Attempts of abandoned calls are in no number but ``concurrency.peak_in_flight``. Percentiles are
    interpolated linearly.
    """
    calls, log = calls_of(events), log_facts(events)
    return build_whole([Part(events, calls)], Evidence(run, calls, {}, log, cases_of(events)))


def build_whole(parts: Sequence[Part], evidence: Evidence) -> dict[str, Any]:
    """Return the report of all parts, see `build_report`.

    Args:
        parts: the logs. What was in flight at once, and how long the breaker paused, is found in each alone, since the
            clocks, limits and servers of two need not be the same.
        evidence: what the verdicts are drawn from, its `report` yet empty.
    """
    run = evidence.run
    numbers = _numbers(parts, evidence)
    sent = numbers["calls"]
    gate = judge(
        max_error_rate=run.settings.max_error_rate,
        calls_sent=sent["sent"],
        calls_failed=sent["failed"],
        tests=run.llm_tests,
        tests_lost=run.llm_tests_lost,
        categories=numbers["errors_by_category"],
        interrupted=run.interrupted,
        unknown=next((problem for problem in run.problems if problem.startswith(EVENTS_LOST)), None),
    )
    evidence = evidence.reported(numbers)
    escalation = judge_escalation(evidence)
    return {
        **numbers,
        "gate": gate._asdict(),
        "escalation": {"escalate": escalation.escalate, "reasons": list(escalation.reasons)},
        "diagnosis": diagnose(evidence),
    }


def _numbers(parts: Sequence[Part], evidence: Evidence) -> dict[str, Any]:
    """Return the report without its verdicts."""
    run = evidence.run
    events = [event for part in parts for event in part.events]
    calls = [call for part in parts for call in part.calls]
    used = [call for call in calls if call.outcome != "abandoned"]
    attempts = [attempt for call in used for attempt in call.attempts]
    successes = [attempt for attempt in attempts if attempt.outcome == "ok"]
    return {
        "schema_version": SCHEMA_VERSION,
        **_head(run),
        "server": {**server_of([part.events for part in parts], run.settings.url), "log": log_counts(evidence.log)},
        "settings": _settings(run),
        "calls": _call_counts(calls),
        "attempts": _attempt_counts(attempts),
        "rates": _rates(used, attempts),
        "latency_ms": _latency(successes),
        "ttft_ms": spread(_results(successes, "ttft_ms"), 50, 95),
        "tokens_per_second": spread(_results(successes, "tokens_per_second"), 50, 95),
        "prompt_chars": _prompt_chars(calls),
        "tokens": {"in": _total(successes, "tokens_in"), "out": _total(successes, "tokens_out")},
        **_errors(used),
        "by_model": _by_model(used),
        "concurrency": _concurrency(events, calls, run),
        "breaker": _breaker(parts),
        "cache": _cache(calls, attempts, run),
        "tests": dict(run.outcomes) or tally({}),
        "lost": {
            "requests_without_outcome": sum(attempt.outcome == "lost" for attempt in attempts),
            "workers_crashed": run.workers_crashed,
            "damaged_lines": run.damaged_lines,
        },
        "notes": [*dict.fromkeys(_notes(events)), *run.problems],
    }


def _notes(events: Iterable[Event]) -> Iterator[str]:
    """Yield what the run met besides calls, such as a damaged cache."""
    yield from (str(event.get("message")) for event in events if event["event"] == "note")


def _head(run: RunFacts) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "started_at": run.started_at,
        "duration_s": rounded(run.duration_s),
        "pipeline_version": run.pipeline_version,
        "plugin_version": run.plugin_version,
        "exit_status": run.exit_status,
    }


def _settings(run: RunFacts) -> dict[str, Any]:
    return {**run.settings.as_dict(), "url": without_userinfo(run.settings.url)}


def _call_counts(calls: Sequence[CallFacts]) -> dict[str, int]:
    counts = Counter(call.outcome for call in calls)
    return {
        "total": len(calls),
        "sent": counts["ok"] + counts["failed"],
        "ok": counts["ok"],
        "failed": counts["failed"],
        "cached": counts["cached"],
        "coalesced": counts["coalesced"],
        "abandoned": counts["abandoned"],
    }


def _attempt_counts(attempts: Sequence[AttemptFacts]) -> dict[str, int]:
    failed = sum(attempt.failed for attempt in attempts)
    return {
        "total": len(attempts),
        "ok": len(attempts) - failed,
        "failed": failed,
        "retries": sum(attempt.number > 1 for attempt in attempts),
        "disconnects": _disconnects(attempts),
        "stale_reconnects": int(sum(_results(attempts, "stale_reconnects"))),
    }


def _rates(used: Sequence[CallFacts], attempts: Sequence[AttemptFacts]) -> dict[str, Any]:
    counts = _call_counts(used)
    interval = wilson(counts["failed"], counts["sent"])
    tried = [call.attempts[0].failed for call in used if call.attempts and call.attempts[0].number == 1]
    return {
        "error_rate": ratio(counts["failed"], counts["sent"]),
        "disconnect_rate": ratio(_disconnects(attempts), len(attempts)),
        "first_attempt_failure_rate": ratio(sum(tried), len(tried)),
        "error_rate_ci95": list(interval) if interval else None,
    }


def _disconnects(attempts: Iterable[AttemptFacts]) -> int:
    return sum(attempt.failed and attempt.kind in DISCONNECTS for attempt in attempts)


def _latency(successes: Sequence[AttemptFacts]) -> dict[str, Any]:
    values = [attempt.latency_ms for attempt in successes if attempt.latency_ms is not None]
    return {
        **spread(values, 50, 95, 99),
        "mean": rounded(math.fsum(values) / len(values)) if values else None,
        "max": rounded(max(values, default=None)),
        "count": len(values),
    }


def _prompt_chars(calls: Iterable[CallFacts]) -> dict[str, Any]:
    lengths = [call.prompt_chars for call in calls if call.prompt_chars is not None]
    return {"p50": percentile(lengths, 50), "p95": percentile(lengths, 95), "max": max(lengths, default=None)}


def _errors(used: Iterable[CallFacts]) -> dict[str, dict[str, int]]:
    pairs = [
        pair
        for call in used
        for pair in (
            *((attempt.kind, attempt.category) for attempt in call.attempts if attempt.failed),
            *((error.kind, error.category) for error in call.errors),
        )
    ]
    return {
        "errors_by_kind": dict(Counter(str(kind) for kind, _ in pairs).most_common()),
        "errors_by_category": dict(Counter(str(category) for _, category in pairs).most_common()),
    }


def _by_model(used: Iterable[CallFacts]) -> dict[str, Any]:
    models: dict[str, list[CallFacts]] = {}
    for call in used:
        models.setdefault(call.model, []).append(call)
    return {model: _model(models[model]) for model in sorted(models)}


def _model(calls: Sequence[CallFacts]) -> dict[str, Any]:
    counts = _call_counts(calls)
    latencies = [a.latency_ms for c in calls for a in c.attempts if a.outcome == "ok" and a.latency_ms is not None]
    return {
        "calls": counts["total"],
        "sent": counts["sent"],
        "failed": counts["failed"],
        "error_rate": ratio(counts["failed"], counts["sent"]),
        "latency_ms": spread(latencies, 50, 95),
    }


def _concurrency(events: Iterable[Event], calls: Iterable[CallFacts], run: RunFacts) -> dict[str, int]:
    changes = [
        (amount(event.get("limit")), amount(event.get("previous")))
        for event in events
        if event["event"] == "concurrency_changed"
    ]
    return {
        "limit": run.settings.concurrency,
        "peak_in_flight": peak_in_flight(calls),
        "reductions": sum(new is not None and old is not None and new < old for new, old in changes),
    }


def _breaker(parts: Iterable[Part]) -> dict[str, Any]:
    pauses = [_pauses(part.events) for part in parts]
    return {"trips": sum(trips for trips, _ in pauses), "paused_s": rounded(sum(paused_s for _, paused_s in pauses))}


def _pauses(events: Iterable[Event]) -> tuple[int, float]:
    """Count pauses: those that ended tell how long they were, one that was not ended is as long as it was meant."""
    trips, paused_s, pending_s = 0, 0.0, 0.0
    for event in events:
        if event["event"] == "breaker_open" and not event.get("gave_up"):
            trips += 1
            pending_s += amount(event.get("pause_s")) or 0.0
        elif event["event"] == "breaker_closed":
            paused_s += amount(event.get("paused_s")) or 0.0
            pending_s = 0.0
    return trips, paused_s + pending_s


def _cache(calls: Iterable[CallFacts], attempts: Sequence[AttemptFacts], run: RunFacts) -> dict[str, Any]:
    looked = list(calls)
    missed = [c for c in looked if _missed(c)]
    return {
        "hits": sum(call.outcome == "cached" for call in looked),
        "misses": len(missed),
        "stores": sum(attempt.result.get("stored") is True for attempt in attempts),
        "evictions": int(sum(_results(attempts, "evicted"))),
        "entries": run.cache_entries,
        "size_limit": run.settings.cache_size,
    }


def _missed(call: CallFacts) -> bool:
    """Tell whether the cache was asked and did not have the answer; an offline miss makes no request."""
    asked = any(attempt.request.get("cache") == "miss" for attempt in call.attempts)
    return asked or any(error.kind == "cache_miss" for error in call.errors)


def _results(attempts: Iterable[AttemptFacts], name: str) -> list[float]:
    return [value for attempt in attempts if (value := amount(attempt.result.get(name))) is not None]


def _total(successes: Sequence[AttemptFacts], name: str) -> int | None:
    """Return a sum of tokens, None when answers came but none told its tokens."""
    known = _results(successes, name)
    return None if successes and not known else int(sum(known))
