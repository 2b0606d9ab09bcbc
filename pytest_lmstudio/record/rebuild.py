"""A run told by its log alone: for the report that nobody was left to write.

A log is text from outside: whatever does not look like what this package writes counts as not known.
"""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pytest_lmstudio import values
from pytest_lmstudio.record.build import build_report
from pytest_lmstudio.record.events import seconds_of
from pytest_lmstudio.record.facts import RunFacts
from pytest_lmstudio.record.history import amount, number
from pytest_lmstudio.record.stats import PRECEDENCE, counted_as, tally
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lmstudio.record.events import Event, Events


class LostTest(NamedTuple):
    """A test that was lost, and the kind of the error that it was lost to."""

    nodeid: str
    kind: str


class SeenTests(NamedTuple):
    """What a log tells of its run's tests.

    Attributes:
        outcomes: by node id, every outcome that a test had.
        ran: the LM tests that ran.
        kinds: by node id, the kind of the error that a test was lost to.
        others: how many of the tests that have no line of their own had which outcome.
    """

    outcomes: dict[str, set[str]]
    ran: set[str]
    kinds: dict[str, str]
    others: dict[str, int]

    @property
    def lost(self) -> list[str]:
        """The tests that were lost, in the order in which they ended."""
        return [nodeid for nodeid, words in self.outcomes.items() if counted_as(words) == "lm_error"]

    @property
    def tally(self) -> dict[str, int]:
        """How many of all tests had which outcome."""
        return {word: count + self.others.get(word, 0) for word, count in tally(self.outcomes).items()}


def rebuild(log: Events, *, run_id: str, going_on: bool = False) -> dict[str, Any]:
    """Return the report of a run from its log; for a run that came to its end, the one that the run wrote.

    What the log of a run that was cut off does not tell is None (``exit_status``, ``cache.entries``), and ``notes``
    say so. Its gate is judged by the calls and tests seen.

    Args:
        log: the log.
        run_id: the run's id, should the log have lost it.
        going_on: whether the run is still in progress: calls that have not ended are left out.
    """
    events = _without_open_calls(log.events) if going_on else log.events
    return build_report(events, run=facts_of(log, run_id, going_on=going_on))


def lost_tests(events: Iterable[Event]) -> list[LostTest]:
    """Return the tests that were lost, in the order in which they ended."""
    tests = tests_of(events)
    return [LostTest(nodeid, tests.kinds.get(nodeid, "")) for nodeid in tests.lost]


def has_ended(events: Iterable[Event]) -> bool:
    """Tell whether the run came to its end."""
    return any(event["event"] == "run_end" for event in events)


def is_ours(events: Iterable[Event]) -> bool:
    """Tell whether a log is one of a run."""
    return any(event["event"] == "run_start" or event["event"].startswith("gen_") for event in events)


def settings_from(plain: object) -> Settings:
    """Undo `Settings.as_dict` for settings of any version: what is missing or does not fit has its default."""
    known = plain if isinstance(plain, dict) else {}
    hints = get_type_hints(Settings)
    found = {name: _setting(name, known[name], hints[name]) for name in Settings._fields if name in known}
    return Settings(**{name: value for name, (fits, value) in found.items() if fits})


def facts_of(log: Events, run_id: str, *, going_on: bool = False) -> RunFacts:
    """Return what a log tells of its run besides calls; see `rebuild`."""
    events = log.events
    start, end = _first(events, "run_start"), _first(events, "run_end")
    settings, tests = settings_from(start.get("settings")), tests_of(events)
    started_at = start.get("started_at")
    if seconds_of(started_at) is None:
        started_at = events[0]["ts"] if events else ""
    return RunFacts(
        run_id=_text(start, "run_id") or run_id,
        started_at=str(started_at),
        duration_s=_duration_s(events, started_at, end),
        pipeline_version=settings.pipeline_version,
        plugin_version=_text(start, "plugin_version"),
        exit_status=_count(end.get("exit_status")),
        settings=settings,
        outcomes=_told_tally(end.get("tests")) or tests.tally,
        llm_tests=len(tests.ran),
        llm_tests_lost=len(tests.ran.intersection(tests.lost)),
        workers_crashed=sum(event["event"] == "worker_crashed" for event in events),
        interrupted=end.get("interrupted") is True,
        cache_entries=_count(end.get("cache_entries")),
        damaged_lines=log.damaged_lines,
        problems=(*_problems(end), *_unknowns(events, start, end, going_on=going_on)),
    )


def _unknowns(events: Sequence[Event], start: Event, end: Event, *, going_on: bool) -> Iterable[str]:
    """Yield what a reader of the report must know of how it came about."""
    last = events[-1]["ts"] if events else "its start"
    if not start:
        yield "rebuilt from a log without its beginning: the run's settings are not known, defaults stand in for them"
    if going_on:
        yield f"as of {last}: the run is still in progress; calls and tests that have not ended are left out"
    elif not end:
        yield f"rebuilt from the log: the run was cut off after {last}; its exit status and what came later are unknown"


def _without_open_calls(events: Sequence[Event]) -> list[Event]:
    """Return the events less those of calls that may still end."""
    last: dict[object, Event] = {}
    for event in events:
        if isinstance(call_id := event.get("call_id"), str):
            last[call_id] = event
    going_on = {id_ for id_, event in last.items() if event["event"] == "gen_request" or event.get("retry_in_ms")}
    return [event for event in events if not isinstance(id_ := event.get("call_id"), str) or id_ not in going_on]


def tests_of(events: Iterable[Event]) -> SeenTests:
    """Return what a log tells of its run's tests."""
    tests = SeenTests({}, set(), {}, {})
    others: dict[str, int] = {}
    for event in events:
        nodeid, outcome = event.get("nodeid"), event.get("outcome")
        if event["event"] != "test_end" or not isinstance(nodeid, str) or outcome not in PRECEDENCE:
            continue
        tests.outcomes.setdefault(nodeid, set()).add(outcome)
        if event.get("llm") is True and event.get("ran") is True:
            tests.ran.add(nodeid)
        if isinstance(kind := event.get("error_kind"), str):
            tests.kinds.setdefault(nodeid, kind)
        others = _told_tally(event.get("others")) or others
    return tests._replace(others=others)


def _told_tally(told: object) -> dict[str, int]:
    """Return a tally of tests from the log, empty when it is none."""
    if not isinstance(told, dict):
        return {}
    return {**tally({}), **{word: count for word in PRECEDENCE if (count := _count(told.get(word))) is not None}}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(event: Event, name: str) -> str:
    found = event.get(name)
    return found if isinstance(found, str) else ""


def _first(events: Iterable[Event], name: str) -> Event:
    return next((event for event in events if event["event"] == name), {})


def _problems(end: Event) -> list[str]:
    problems = end.get("problems")
    found = problems if isinstance(problems, list) else []
    return [problem for problem in found if isinstance(problem, str)]


def _duration_s(events: Sequence[Event], started_at: object, end: Event) -> float:
    told_s = amount(end.get("duration_s"))
    if told_s is not None:
        return told_s
    start_s = seconds_of(started_at)
    last_s = seconds_of(events[-1]["ts"]) if events else None
    return max(0.0, last_s - start_s) if start_s is not None and last_s is not None else 0.0


def _setting(name: str, value: object, hint: object) -> tuple[bool, Any]:
    """Return whether a value fits its setting, and the value as `Settings` holds it."""
    if name == "params":
        fits = isinstance(value, dict)
        return fits, tuple(value.items()) if isinstance(value, dict) else ()
    if name == "breaker" and isinstance(value, str):
        try:
            return True, values.breaker(value)
        except ValueError:
            return False, None
    return _fits(value, hint), value


def _fits(value: object, hint: object) -> bool:
    """Tell whether a value from JSON is of a type."""
    if get_origin(hint) in {Union, UnionType}:
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float:
        return number(value) is not None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else False
