"""Shards of one run made one: every number from the events of all, and the verdicts on the whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.record.build import Part, build_whole
from pytest_lmstudio.record.events import seconds_of
from pytest_lmstudio.record.facts import Evidence, LogFacts, RunFacts
from pytest_lmstudio.record.gate import judge, percent
from pytest_lmstudio.record.history import UNKNOWN_MODEL, calls_of, peak_in_flight
from pytest_lmstudio.record.rebuild import SeenTests, facts_of, tests_of
from pytest_lmstudio.record.server_log import log_facts
from pytest_lmstudio.record.stats import counted_as, tally
from pytest_lmstudio.settings import Settings
from pytest_lmstudio.text import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lmstudio.record.events import Event, Events
    from pytest_lmstudio.record.facts import CallFacts

#: Settings that may differ without a word: where a shard's server, folder and files were.
PLACES = frozenset({"url", "wait", "dir", "report", "html", "html_texts", "metrics_port", "metrics_file"})
#: What pytest returns, the worst first; 5, no tests collected, is no failure of a shard.
_WORST_FIRST = (3, 4, 2, 1, 0)
_NO_TESTS = 5


class CannotMergeError(ValueError):
    """These are no shards of one run; one line that says why."""


@dataclass(frozen=True)
class Shard:
    """One run of several.

    Attributes:
        name: what it is called in messages.
        log: its log.
        run_id: its id, should the log have lost it.
        lane: what the names of its workers begin with, so that they are not those of other shards.
    """

    name: str
    log: Events
    run_id: str
    lane: str = ""

    @cached_property
    def facts(self) -> RunFacts:
        """What its log tells besides calls."""
        return facts_of(self.log, self.run_id)

    @cached_property
    def part(self) -> Part:
        """Its events and calls."""
        events = [{**event, "worker": f"{self.lane}{event.get('worker', 'main')}"} for event in self.log.events]
        return Part(events, calls_of(events))

    @cached_property
    def tests(self) -> SeenTests:
        """How its tests ended."""
        return tests_of(self.log.events)

    @property
    def sent(self) -> int:
        """Calls that needed the server."""
        return sum(call.sent for call in self.part.calls)

    @property
    def failed(self) -> int:
        """Those of them that got no answer."""
        return sum(call.outcome == "failed" for call in self.part.calls)

    @property
    def models(self) -> set[str]:
        """The models that it asked; a call that met no server has none."""
        return {call.model for call in self.part.calls} - {UNKNOWN_MODEL}


class Merged(NamedTuple):
    """Shards as one run: its report, and the events and calls that it is of."""

    report: dict[str, Any]
    events: list[Event]
    calls: tuple[CallFacts, ...]


def merge(shards: Sequence[Shard], *, max_error_rate: float | None = None) -> Merged:
    """Return the shards of one run as one, whatever order they are given in.

    Percentiles and rates are worked out from the calls of all. A test that asks the model counts once, by the worst
    outcome that it had in any shard; of the others the log has only counts, which are added. Requests in flight and the
    breaker are those of each shard alone: see ``concurrency`` in the schema of the report.

    Args:
        shards: one or more.
        max_error_rate: the limit of the gate, 0 to 1; None is that of the shards.

    Raises:
        CannotMergeError: they are not of one pipeline version, model and limit, or one is there twice.
    """
    in_order = sorted(shards, key=lambda shard: (shard.facts.started_at, shard.facts.run_id))
    ranked = [replace(shard, lane=f"{number}/") for number, shard in enumerate(in_order, 1)]
    _check(ranked, max_error_rate)
    parts = [shard.part for shard in ranked]
    run = _facts(ranked, max_error_rate)
    calls, log = _in_turn(parts)
    report = build_whole(parts, Evidence(run, calls, {}, log))
    if report["gate"]["failed"] and report["exit_status"] == 0:
        report["exit_status"] = 1
    report["shards"] = [_shown(shard) for shard in ranked]
    events = [event for part in parts for event in part.events]
    return Merged(report, events, tuple(call for part in parts for call in part.calls))


def _check(shards: Sequence[Shard], max_error_rate: float | None) -> None:
    first = shards[0]
    runs: dict[str, Shard] = {}
    calls: dict[str, Shard] = {}
    for shard in shards:
        if (same := runs.setdefault(shard.facts.run_id, shard)) is not shard:
            msg = f"{same.name} and {shard.name} are the same run, {shard.facts.run_id}: name it once"
            raise CannotMergeError(msg)
        if any(calls.setdefault(call.call_id, shard) is not shard for call in shard.part.calls):
            msg = f"{shard.name} holds calls of another shard: is it a copy?"
            raise CannotMergeError(msg)
        _check_pair(first, shard)
        limits = [one.facts.settings.max_error_rate for one in (first, shard)]
        if limits[0] != limits[1] and max_error_rate is None:
            shown = f"{first.name} has the limit {percent(limits[0])}, {shard.name} {percent(limits[1])}"
            msg = f"{shown}: say which one is meant with --max-error-rate"
            raise CannotMergeError(msg)


def _check_pair(one: Shard, other: Shard) -> None:
    """Refuse what makes two runs of two suites: see `--compare`."""
    for what, first, second in (
        ("pipeline version", one.facts.pipeline_version, other.facts.pipeline_version),
        ("model", one.facts.settings.model, other.facts.settings.model),
        ("kind of server", _kind(one), _kind(other)),
    ):
        unknown = what == "kind of server" and None in {first, second}
        if first != second and not unknown:
            shown = [repr(value) if value else "none" for value in (first, second)]
            told = f"{one.name} has the {what} {shown[0]}, {other.name} {shown[1]}"
            msg = f"{told}: --merge takes the shards of one run, --compare any two runs"
            raise CannotMergeError(msg)


def _kind(shard: Shard) -> str | None:
    """Return what the server of a shard was, None when none answered."""
    seen = (event.get("server") for event in shard.log.events if event["event"] == "preflight")
    kinds = (server.get("kind") for server in seen if isinstance(server, dict))
    return next((kind for kind in kinds if isinstance(kind, str)), None)


def _facts(shards: Sequence[Shard], max_error_rate: float | None) -> RunFacts:
    facts = [shard.facts for shard in shards]
    first = facts[0]
    settings = first.settings._replace(
        max_error_rate=first.settings.max_error_rate if max_error_rate is None else max_error_rate,
        concurrency=max(one.settings.concurrency for one in facts),
    )
    tests = _tests(shards)
    return RunFacts(
        run_id=f"merged-{hashlib.sha256(' '.join(sorted(one.run_id for one in facts)).encode()).hexdigest()[:8]}",
        started_at=first.started_at,
        duration_s=_duration_s(facts),
        pipeline_version=first.pipeline_version,
        plugin_version=", ".join(sorted({one.plugin_version for one in facts})),
        exit_status=_exit_status(shards),
        settings=settings,
        outcomes=_outcomes(shards, tests),
        llm_tests=len(tests.ran),
        llm_tests_lost=len(tests.ran.intersection(tests.lost)),
        workers_crashed=sum(one.workers_crashed for one in facts),
        interrupted=any(one.interrupted for one in facts),
        damaged_lines=sum(one.damaged_lines for one in facts),
        problems=(*_remarks(shards), *(f"{text} (shard {one.run_id})" for one in facts for text in one.problems)),
    )


def _duration_s(facts: Sequence[RunFacts]) -> float:
    """Return the time from the first beginning to the last end, as far as it is known."""
    starts = [(seconds_of(one.started_at), one.duration_s) for one in facts]
    known = [(start_s, start_s + lasted_s) for start_s, lasted_s in starts if start_s is not None]
    span_s = max(end for _, end in known) - min(start for start, _ in known) if known else 0.0
    return max(span_s, *(lasted_s for _, lasted_s in starts))


def _tests(shards: Sequence[Shard]) -> SeenTests:
    """Return how the tests of all ended; that one shard skipped what another ran is how some tools make shards."""
    seen = tests_of(event for shard in shards for event in shard.log.events)
    words = [{counted_as(shard.tests.outcomes.get(nodeid, ())) for shard in shards} for nodeid in seen.outcomes]
    ran = [{word for word in known if word is not None and word != "skipped"} for known in words]
    return seen._replace(outcomes={nodeid: one or {"skipped"} for nodeid, one in zip(seen.outcomes, ran, strict=True)})


def _outcomes(shards: Sequence[Shard], tests: SeenTests) -> dict[str, int]:
    """Return the tally of all tests: those with lines of their own once, and the other tests of each shard."""
    total = Counter(tally(tests.outcomes))
    for shard in shards:
        own = tally(shard.tests.outcomes)
        total.update({word: max(n - own.get(word, 0), 0) for word, n in shard.facts.outcomes.items()})
    return {word: total[word] for word in tally({})}


def _exit_status(shards: Sequence[Shard]) -> int | None:
    """Return what pytest would have returned for the whole, less its gate: that is judged anew."""
    known = [_status(shard) for shard in shards]
    if None in known:
        return None
    return next((status for status in _WORST_FIRST if status in known), known[0])


def _status(shard: Shard) -> int | None:
    facts = shard.facts
    gate = judge(
        max_error_rate=facts.settings.max_error_rate,
        calls_sent=shard.sent,
        calls_failed=shard.failed,
        tests=facts.llm_tests,
        tests_lost=facts.llm_tests_lost,
    )
    by_gate = facts.exit_status == 1 and gate.failed and not facts.outcomes["failed"] + facts.outcomes["error"]
    return 0 if by_gate or facts.exit_status == _NO_TESTS else facts.exit_status


def _remarks(shards: Sequence[Shard]) -> Iterable[str]:
    """Yield what somebody who reads the whole must know of its shards."""
    settings = [shard.facts.settings for shard in shards]
    named = (name for name in Settings._fields if name not in PLACES | {"max_error_rate", "pipeline_version", "model"})
    found = {name: [str(one.as_dict()[name]) for one in settings] for name in named}
    odd = [f"{name} ({', '.join(dict.fromkeys(values))})" for name, values in found.items() if len(set(values)) > 1]
    if odd:
        yield f"the shards' settings differ: {', '.join(odd)}"
    apart = [shard for shard in shards[1:] if shard.models and shards[0].models.isdisjoint(shard.models)]
    if shards[0].models and apart:
        models = " and ".join(", ".join(sorted(one.models)) for one in (shards[0], apart[0]))
        yield f"the shards asked different models, {models}: name one with --lmstudio-model"
    versions = sorted({shard.facts.plugin_version for shard in shards})
    if len(versions) > 1:
        yield f"the shards ran with different versions of pytest-lmstudio: {', '.join(versions)}"


def _in_turn(parts: Sequence[Part]) -> tuple[tuple[CallFacts, ...], LogFacts | None]:
    """Return all calls and logs as if each shard had begun when the one before it had ended.

    What is told by the order of calls, such as models that take turns, is so of one server: two shards that ran side by
    side would look like it.
    """
    calls: list[CallFacts] = []
    logs: list[LogFacts] = []
    free_s = float("-inf")
    for part in parts:
        spans = [(a.start_s, a.end_s or a.start_s) for call in part.calls for a in call.attempts if a.start_s]
        late_s = max(0.0, free_s - min((start_s for start_s, _ in spans), default=free_s)) if spans else 0.0
        free_s = max(free_s, *(end_s + late_s for _, end_s in spans)) if spans else free_s
        calls += part.calls if not late_s else (_later(call, late_s) for call in part.calls)
        if (log := log_facts(part.events)) is not None:
            logs.append(log._replace(hung_up_s=tuple(at_s + late_s for at_s in log.hung_up_s)))
    return tuple(calls), _one_log(logs)


def _later(call: CallFacts, late_s: float) -> CallFacts:
    moved = (a._replace(start_s=a.start_s + late_s) if a.start_s is not None else a for a in call.attempts)
    return call._replace(attempts=tuple(moved))


def _one_log(logs: Sequence[LogFacts]) -> LogFacts | None:
    if not logs:
        return None
    counts: Counter[str] = Counter()
    for log in logs:
        counts.update(log.counts)
    return LogFacts(
        source=logs[0].source,
        complete=all(log.complete for log in logs),
        exited=any(log.exited for log in logs),
        counts=dict(counts),
        exit_codes=tuple(dict.fromkeys(code for log in logs for code in log.exit_codes)),
        hung_up_s=tuple(at_s for log in logs for at_s in log.hung_up_s),
    )


def _shown(shard: Shard) -> dict[str, Any]:
    facts = shard.facts
    return {
        "run_id": facts.run_id,
        "started_at": facts.started_at,
        "duration_s": round(facts.duration_s, 3),
        "exit_status": facts.exit_status,
        "url": without_userinfo(facts.settings.url),
        "sent": shard.sent,
        "failed": shard.failed,
        "peak_in_flight": peak_in_flight(shard.part.calls),
    }
