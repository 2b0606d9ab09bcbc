"""Three accounts of one run held against each other: the server's record, the log of events, and the report.

A request is known to server and log by its tag, a number: the prompt with tag n has ``BASE_CHARS + n`` characters, and
the log holds lengths.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.process.chaos_suite import BASE_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.plugin.suite import Ran

Event = dict[str, Any]
Row = dict[str, Any]

#: What the client makes of what the server does, by its kind.
_TELLS = {
    "disconnect": (
        "reset_before_headers", "close_before_headers", "cut_after_headers", "reset_after_headers", "cut_mid_event",
        "reset_mid_event", "cut_after_delta",
    ),
    "timeout": ("stall_after_headers", "hang", "drip", "status_408", "status_504"),
    "rate_limited": ("rate_limit", "rate_limit_date", "busy_503"),
    "server_error": ("html_500", "status_502", "status_503", "loading_503", "compute_error", "engine_500"),
    "model_lost": ("crash", "unloaded", "reloaded"),
    "invalid_response": ("ends_early", "empty", "empty_stream", "html_200", "json_cut", "invalid_utf8"),
    "ok": (
        "healthy", "cut_before_done", "reset_after_finish", "stale_keep_alive", "split_packets", "slow",
        "echo", "reply", "embedding", "endless_stream",  # what stale_keep_alive does on a fresh connection
    ),
}  # fmt: skip
TELLS = {step: kind for kind, steps in _TELLS.items() for step in steps}
#: Where an answer that comes whole differs, or vectors, which none of these steps changes.
WHOLE = {"ends_early": "disconnect"}
VECTORS = dict.fromkeys(("empty", "empty_stream", "invalid_utf8"), "ok")
#: What else comes of a crash that hits a request in the midst of an event, or when its answer was whole.
AMID_CRASH = {"split_packets": "invalid_response", "drip": "invalid_response", "reset_after_finish": "ok"}
#: Steps that end a connection before any byte: a reused one may as well have ended while it was idle.
BEFORE_A_BYTE = {"reset_before_headers", "close_before_headers", "stale_keep_alive"}
#: How far the two sides' ideas of when the listening socket was closed may be apart.
_ABOUT_S = 0.1
_ENDS = {"gen_success": "ok", "gen_error": "failed", "gen_abandoned": "abandoned"}


class Attempt(NamedTuple):
    """One attempt as the log tells it; `told` is its kind of error, ``ok`` or ``abandoned``."""

    tag: int
    told: str
    phase: str | None
    stale: int
    at_limit: bool
    start_s: float
    end_s: float


class Explained(NamedTuple):
    """What explains attempts.

    Attributes:
        rows: requests that the server saw.
        unseen: attempts whose request never got there, see `Accounts._lost_on_the_way`.
    """

    rows: int
    unseen: int


@dataclass(frozen=True)
class Accounts:
    """What the three sides tell.

    Attributes:
        record: the server's, see `chaos_server.Chaos.record`.
        report: report.json.
        events: the log.
        offset_s: what to add to the server's clock to get the log's.
    """

    record: dict[str, Any]
    report: dict[str, Any]
    events: list[Event]
    offset_s: float

    @classmethod
    def of(cls, record: dict[str, Any], ran: Ran, offset_s: float) -> Accounts:
        """Return the accounts of a run."""
        return cls(record, ran.report, ran.events, offset_s)

    @cached_property
    def mistakes(self) -> list[str]:
        """Every disagreement, a line each."""
        return [*self._requests(), *self._sums(), *self._counts(), *self._lives()]

    @cached_property
    def calls(self) -> dict[str, list[Event]]:
        """The events of each call, in order."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            if "call_id" in event:
                found[event["call_id"]].append(event)
        return dict(found)

    @cached_property
    def attempts(self) -> dict[int, list[Attempt]]:
        """The attempts of each tag, in order; calls of one tag never overlap, since they are coalesced."""
        ends = {(e["call_id"], e["attempt"]): e for e in self.events if e["event"] in _ENDS and e["attempt"]}
        found: dict[int, list[Attempt]] = defaultdict(list)
        for sent in self.events:
            if sent["event"] == "gen_request":
                attempt = _attempt(sent, ends.get((sent["call_id"], sent["attempt"]), {}))
                found[attempt.tag].append(attempt)
        return dict(found)

    @cached_property
    def rows(self) -> dict[int, list[Row]]:
        """What the server saw and did, of each tag, in order."""
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.record["rows"]:
            found[row["tag"]].append(row)
        return dict(found)

    @cached_property
    def explained(self) -> dict[int, Explained | None]:
        """What explains each tag; None where the server and the log contradict each other."""
        tags = sorted(self.rows.keys() | self.attempts.keys())
        return {tag: self._explanation(self.attempts.get(tag, []), self.rows.get(tag, [])) for tag in tags}

    # The server and the log, request by request.

    def _requests(self) -> Iterator[str]:
        for tag, explained in self.explained.items():
            if explained is None:
                did = [f"{r['step']}{'!' if r['crashed'] else ''} {r['outcome']}" for r in self.rows.get(tag, [])]
                told = [f"{a.told} {a.phase or ''} stale={a.stale}" for a in self.attempts.get(tag, [])]
                yield f"tag {tag}: the server did {did}, the log tells {told}"

    def _explanation(self, attempts: Sequence[Attempt], rows: Sequence[Row]) -> Explained | None:
        """Return what explains all that happened to a tag with the fewest oddities; None when nothing does."""
        if not attempts:
            return None if rows else Explained(0, 0)
        found = []
        for first in self._explanations(attempts[0], rows):
            rest = self._explanation(attempts[1:], rows[first.rows :])
            if rest is not None:
                found.append(Explained(first.rows + rest.rows, first.unseen + rest.unseen))
        return min(found, key=lambda one: one.unseen, default=None)

    def _explanations(self, attempt: Attempt, rows: Sequence[Row]) -> Iterator[Explained]:
        """Yield what may explain one attempt, given what the server did from then on."""
        stale = attempt.stale
        if len(rows) < stale or not all(row["reused"] and row["step"] in BEFORE_A_BYTE for row in rows[:stale]):
            return
        if stale < len(rows) and _fits(attempt, rows[stale]):
            yield Explained(stale + 1, 0)
        if attempt.phase == "connecting":
            yield Explained(stale, 0)
        elif self._lost_on_the_way(attempt):
            yield Explained(stale, 1)

    def _lost_on_the_way(self, attempt: Attempt) -> bool:
        """Tell whether the server can have missed a request: its listening socket was closed over it, or it gave up."""
        gone = any(
            start + self.offset_s - _ABOUT_S < attempt.end_s and attempt.start_s < end + self.offset_s + _ABOUT_S
            for start, end in self.record["gaps"]
        )
        return attempt.at_limit or (gone and (attempt.told, attempt.phase) == ("disconnect", "waiting"))

    # The server and the log, summed up.

    def _sums(self) -> Iterator[str]:
        every = [attempt for attempts in self.attempts.values() for attempt in attempts]
        unseen = sum(one.unseen for one in self.explained.values() if one is not None)
        # Each attempt is a request, but for those that never got there; a kept connection that died is one more.
        expected = len(every) - unseen + sum(attempt.stale - (attempt.phase == "connecting") for attempt in every)
        record, limit = self.record, self.report["settings"]["concurrency"]
        yield from _same("requests of calls: seen, told", len(record["rows"]), expected)
        yield from _same("POSTs: all, of calls", record["posts"], len(record["rows"]))
        yield from _same("looks at the server", record["others"].count("GET /api/v1/models"), 1)
        # After a crash the list of models is asked until it shows the model again.
        yield from _same("routes", set(record["others"]) - {"GET /api/v1/models", "GET /v1/models"}, set())
        yield from _same("mistakes of the server", record["errors"], [])
        for whose, peak in (("server's", record), ("report's", self.report["concurrency"])):
            if peak["peak_in_flight"] > limit:
                yield f"by the {whose} account {peak['peak_in_flight']} requests were in flight, the limit is {limit}"

    # The log and the report.

    def _counts(self) -> Iterator[str]:
        report, ends = self.report, Counter(map(_end, self.calls.values()))
        left = {call_id for call_id, events in self.calls.items() if _end(events) == "abandoned"}
        used = [event for event in self.events if "call_id" in event and event["call_id"] not in left]
        made = Counter(event["event"] for event in used if event.get("attempt"))
        errors = Counter(event["error_kind"] for event in used if event["event"] == "gen_error")
        parts = {name: ends[name] for name in ("ok", "failed", "cached", "coalesced", "abandoned")}
        sent = ends["ok"] + ends["failed"]
        yield from _same("calls: reported, logged", report["calls"], {"total": len(self.calls), "sent": sent, **parts})
        logged = {
            "total": made["gen_request"],
            "ok": made["gen_success"],
            "failed": made["gen_error"],
            "retries": sum(event["event"] == "gen_request" and event["attempt"] > 1 for event in used),
            "stale_reconnects": sum(event.get("stale_reconnects") or 0 for event in used),
        }
        yield from _same("attempts: reported, logged", {n: report["attempts"][n] for n in logged}, logged)
        yield from _same("errors: reported, logged", report["errors_by_kind"], dict(errors))
        total = sum(report["calls"][part] for part in ("sent", "cached", "coalesced", "abandoned"))
        yield from _same("calls: total, parts", report["calls"]["total"], total)
        lost = report["lost"]
        yield from _same("lost", {name: count for name, count in lost.items() if count}, {})

    # How calls went on.

    def _lives(self) -> Iterator[str]:
        """Look at each call: attempts in order, and failed only when there was nothing more to be done."""
        gave_up = any(event["event"] == "breaker_open" and event["gave_up"] for event in self.events)
        retries = self.report["settings"]["retries"]
        for call_id, events in self.calls.items():
            numbers = [event["attempt"] for event in events if event["event"] == "gen_request"]
            yield from _same(f"call {call_id}: attempts", numbers, list(range(1, len(numbers) + 1)))
            last = events[-1]
            if _end(events) == "open" or last.get("retry_in_ms") is not None:
                yield f"call {call_id}: no end"
            elif _end(events) == "failed":
                begun = "stream" in last["nodeid"] and last["phase"] == "receiving"  # text was handed out
                useless = gave_up if last["error_kind"] == "circuit_open" else len(numbers) == retries + 1 or begun
                if not useless or last["error_category"] != "network":
                    yield f"call {call_id}: given up after {len(numbers)} attempts, {last['error_kind']}"


def _fits(attempt: Attempt, row: Row) -> bool:
    """Tell whether an attempt can have ended as it did after what the server did."""
    if attempt.phase == "connecting":
        return False
    if attempt.at_limit or attempt.told == "abandoned":
        return True
    step, told = row["step"], attempt.told
    if row["crashed"]:
        return told in {"model_lost", "disconnect", AMID_CRASH.get(step)}
    other = {} if row["stream"] else WHOLE if row["chat"] else WHOLE | VECTORS
    # Small packets may be on their way for longer than the client waits for what comes behind the end of an answer.
    whole = row["outcome"] != "aborted" or step == "split_packets"
    return bool(told == other.get(step, TELLS[step])) and (whole or told != "ok")


def _attempt(sent: Event, end: Event) -> Attempt:
    return Attempt(
        tag=sent["prompt_chars"] - BASE_CHARS,
        told=end.get("error_kind") or _ENDS.get(end.get("event", ""), "no outcome"),
        phase=end.get("phase"),
        stale=end.get("stale_reconnects") or 0,
        at_limit=bool(end.get("cut_at_limit")),
        start_s=_seconds(sent["ts"]),
        end_s=_seconds(end.get("ts") or sent["ts"]),
    )


def _seconds(ts: str) -> float:
    return datetime.fromisoformat(ts).timestamp()


def _end(events: Sequence[Event]) -> str:
    """Return how a call ended, from its events in order."""
    last = events[-1]
    if last["event"] == "gen_cached":
        return "coalesced" if last["source"] == "coalesced" else "cached"
    return _ENDS.get(last["event"], "open")


def _same(what: str, one: object, other: object) -> Iterator[str]:
    if one != other:
        yield f"{what}: {one} and {other}"
