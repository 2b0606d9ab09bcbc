"""Events folded into calls and attempts, each counted once however the log was torn."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lmstudio.errors import KINDS, ErrorKind
from pytest_lmstudio.record.events import seconds_of
from pytest_lmstudio.record.facts import AttemptFacts, CallError, CallFacts, CasesFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import CallOutcome

#: The model of a call that met none, since no server was there to name one.
UNKNOWN_MODEL = "unknown"
_ENDS = {"gen_success": "ok", "gen_error": "failed", "gen_abandoned": "abandoned"}
_LOST = CallError("cancelled", "network", "the process that made the call died or was interrupted")


class _Attempt:
    __slots__ = ("in_flight", "request", "result")

    def __init__(self) -> None:
        self.request: Event = {}
        self.result: Event = {}
        self.in_flight = 0


class _Call:
    __slots__ = ("attempts", "errors", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.attempts: defaultdict[int, _Attempt] = defaultdict(_Attempt)
        self.errors: list[Event] = []


def number(value: object) -> float | None:
    """Return a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def amount(value: object) -> float | None:
    """Return a finite number from 0 up as a float, None for anything else."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def calls_of(events: Sequence[Event]) -> tuple[CallFacts, ...]:
    """Return the calls of a log in the order in which they were first heard of."""
    gathered = _gather(events)
    attempts = [attempt for call in gathered.values() for attempt in call.attempts.values() if attempt.request]
    if attempts:
        _count_in_flight(attempts, events)
    return tuple((_cached_facts if _only_cached(call) else _facts)(call_id, call) for call_id, call in gathered.items())


def cases_of(events: Iterable[Event]) -> CasesFacts:
    """Return what a log tells of declared cases."""
    ran, workers = set[str](), set[str]()
    for event in events:
        if event["event"] == "test_end" and event.get("declared") is True and event.get("ran") is True:
            ran.add(str(event.get("nodeid")))
        elif event["event"] in {"gen_request", "gen_cached"} and event.get("worker") != "main":
            workers.add(str(event.get("worker")))
    return CasesFacts(len(ran), len(workers))


def peak_in_flight(calls: Iterable[CallFacts]) -> int:
    """Return the most requests that were in flight at once."""
    return max((attempt.in_flight for call in calls for attempt in call.attempts), default=0)


def _gather(events: Iterable[Event]) -> dict[str, _Call]:
    calls: defaultdict[str, _Call] = defaultdict(_Call)
    for event in events:
        call_id, name = event.get("call_id"), event["event"]
        if isinstance(call_id, str) and (name in _ENDS or name in {"gen_request", "gen_cached"}):
            call = calls[call_id]
            call.events.append(event)
            if name != "gen_cached":  # which is about no attempt
                _note(call, event, _attempt_number(event))
    return dict(calls)


def _note(call: _Call, event: Event, attempt: int) -> None:
    """Put an event in its place; the first one wins, should a log hold it twice."""
    name = event["event"]
    if name == "gen_request":
        call.attempts[attempt].request = call.attempts[attempt].request or event
    elif name == "gen_error" and attempt == 0:
        call.errors.append(event)
    elif name in _ENDS and attempt > 0:
        call.attempts[attempt].result = call.attempts[attempt].result or event


def _attempt_number(event: Event) -> int:
    """Return the attempt that an event is about; only errors and abandoned calls may have none, which is 0."""
    least = 0 if event["event"] in {"gen_error", "gen_abandoned"} else 1
    found = number(event.get("attempt"))
    return 1 if found is None else max(int(found), least)


def _count_in_flight(attempts: Iterable[_Attempt], events: Sequence[Event]) -> None:
    """Set on each attempt how many requests were in flight once it began.

    An attempt lasts from its request for its latency: the line that tells its end is written later, when its place may
    already be another's. One that was lost lasts as long as it can have lasted, so that the number may be too high for
    a moment, but never above the limit, nor too low. Times are whole ms, and at the same ms ends come first.
    """
    at_once = 0
    for _, _, step, attempt in sorted(_edges(attempts, events), key=lambda edge: edge[:2]):
        at_once += step
        if step > 0:
            attempt.in_flight = at_once


def _edges(attempts: Iterable[_Attempt], events: Sequence[Event]) -> Iterator[tuple[int, int, int, _Attempt]]:
    """Yield ms, order, +1 or -1."""
    order = {id(event): place for place, event in enumerate(events)}
    ends = _Ends(events)
    for attempt in attempts:
        start_s = seconds_of(attempt.request["ts"])
        if start_s is None:
            continue
        start_ms, place = round(start_s * 1000), 2 * order[id(attempt.request)]
        told_ms = _told_ms(attempt.result, start_ms) if attempt.result else ends.latest_ms(attempt.request, start_ms)
        end_ms = max(start_ms, told_ms)
        yield start_ms, place, 1, attempt
        yield end_ms, place + 1 if end_ms == start_ms else -1, -1, attempt


def _told_ms(result: Event, start_ms: int) -> int:
    """Return when an attempt ended; where the clock was set back in between, its latency alone tells."""
    told_ms, latency_ms = _ms_of(result), amount(result.get("latency_ms"))
    if latency_ms is None:
        return start_ms if told_ms is None else told_ms
    lasted_ms = start_ms + int(latency_ms)
    return lasted_ms if told_ms is None or told_ms < start_ms else min(told_ms, lasted_ms)


class _Ends:
    """When the attempts of which no end was told were over at the latest."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._last = {str(event.get("worker")): event for event in events if event["event"] != "worker_crashed"}
        self._crashed = {str(event.get("worker")): event for event in events if event["event"] == "worker_crashed"}

    def latest_ms(self, request: Event, start_ms: int) -> int:
        """Return it for the attempt of a request, which began at `start_ms`.

        It was over when its hard limit had passed, when its process was found dead, and when its slot was another's.
        Where the log tells none of these, when the last was heard of its process.
        """
        worker, limit_ms = str(request.get("worker")), number(request.get("timeout_ms"))
        over_ms = [_ms_of(event) for event in (self._crashed.get(worker), self._next_in(request)) if event is not None]
        over_ms.append(None if limit_ms is None else start_ms + int(limit_ms))
        told_ms = [ms for ms in over_ms if ms is not None]
        return min(told_ms) if told_ms else _ms_of(self._last[worker]) or start_ms

    def _next_in(self, request: Event) -> Event | None:
        """Return the next request that was sent with the same slot."""
        slot = request.get("slot")
        later = itertools.dropwhile(lambda event: event is not request, self._events)
        same = (e for e in later if e is not request and e["event"] == "gen_request" and e.get("slot") == slot)
        return None if slot is None else next(same, None)


def _ms_of(event: Event) -> int | None:
    at_s = seconds_of(event["ts"])
    return None if at_s is None else round(at_s * 1000)


def _only_cached(call: _Call) -> bool:
    """Tell whether nothing but its one look into the cache is known of a call, which is most calls of most runs."""
    return len(call.events) == 1 and call.events[0]["event"] == "gen_cached"


def _cached_facts(call_id: str, call: _Call) -> CallFacts:
    """Return what `_facts` would, at a third of its time."""
    (event,) = call.events
    chars = amount(event.get("prompt_chars"))
    return CallFacts(
        call_id=call_id,
        outcome="coalesced" if event.get("source") == "coalesced" else "cached",
        model=_text(event, "model") or UNKNOWN_MODEL,
        nodeid=_text(event, "nodeid"),
        prompt_chars=None if chars is None else int(chars),
    )


def _facts(call_id: str, call: _Call) -> CallFacts:
    attempts = tuple(_attempt_facts(n, attempt) for n, attempt in sorted(call.attempts.items()))
    errors = tuple(CallError(*_kind_of(event), str(event.get("message", ""))) for event in call.errors)
    outcome = _outcome(call, attempts)
    if outcome == "failed" and _unfinished(call, attempts):
        errors = (*errors, _LOST)
    lengths = [int(chars) for event in call.events if (chars := amount(event.get("prompt_chars"))) is not None]
    return CallFacts(
        call_id=call_id,
        outcome=outcome,
        model=_first_text(call.events, "model") or UNKNOWN_MODEL,
        nodeid=_first_text(call.events, "nodeid"),
        prompt_chars=lengths[0] if lengths else None,
        attempts=attempts,
        errors=errors,
    )


def _outcome(call: _Call, attempts: Sequence[AttemptFacts]) -> CallOutcome:
    names = {event["event"] for event in call.events}
    if any(event["event"] == "gen_abandoned" and _attempt_number(event) == 0 for event in call.events):
        return "abandoned"  # whether it came to its end or not, nobody asked for it
    if any(attempt.outcome == "ok" for attempt in attempts):
        return "ok"
    if "gen_abandoned" in names:
        return "abandoned"
    if "gen_cached" in names:
        source = _first_text([event for event in call.events if event["event"] == "gen_cached"], "source")
        return "coalesced" if source == "coalesced" else "cached"
    return "failed"


def _unfinished(call: _Call, attempts: Sequence[AttemptFacts]) -> bool:
    """Tell whether the last word of a call was a retry that never came: its process died in the back-off."""
    last = next((event for event in reversed(call.events) if event["event"] != "gen_request"), None)
    if last is None or (attempts and attempts[-1].outcome == "lost"):
        return False
    return last["event"] == "gen_error" and last.get("retry_in_ms") is not None


def _attempt_facts(n: int, attempt: _Attempt) -> AttemptFacts:
    request, result = attempt.request, attempt.result
    outcome = _ENDS[result["event"]] if result else "lost"
    kind, category = (None, None)
    if outcome == "failed":
        kind, category = _kind_of(result)
    elif outcome == "lost":
        kind, category = _LOST.kind, _LOST.category
    return AttemptFacts(
        number=n,
        outcome=outcome,  # type: ignore[arg-type]  # the words of _ENDS, and lost
        kind=kind,
        category=category,
        phase=result.get("phase") if outcome == "failed" else None,
        start_s=seconds_of(request["ts"]) if request else None,
        latency_ms=amount(result.get("latency_ms")),
        timeout_ms=amount(request.get("timeout_ms")),
        in_flight=attempt.in_flight,
        request=request,
        result=result,
    )


def _kind_of(event: Event) -> tuple[str, str]:
    """Return kind and category of an error, also of one that a later version wrote."""
    kind = str(event.get("error_kind") or "unknown")
    category = event.get("error_category")
    if not isinstance(category, str):
        category = KINDS[ErrorKind(kind)].category if kind in set(ErrorKind) else "other"
    return kind, category


def _first_text(events: Iterable[Event], key: str) -> str:
    return next((found for event in events if (found := _text(event, key))), "")


def _text(event: Event, key: str) -> str:
    found = event.get(key)
    return found if isinstance(found, str) else ""
