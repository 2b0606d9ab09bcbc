"""What is known of a run, its calls and their attempts, once the events are read."""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lmstudio.settings import Settings

CallOutcome = Literal["ok", "failed", "cached", "coalesced", "abandoned"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class RunFacts(NamedTuple):
    """What a report needs that the events do not tell.

    Attributes:
        run_id: the run's id.
        started_at: UTC, ISO 8601.
        duration_s: wall time of the session, seconds.
        pipeline_version: empty when unset.
        plugin_version: the plugin's.
        exit_status: pytest's, None when it is not known.
        settings: every setting, resolved.
        outcomes: how many tests had which outcome, see `stats.tally`.
        llm_tests: LM tests that ran.
        llm_tests_lost: those of them that were lost to a network error.
        workers_crashed: xdist workers that died.
        interrupted: whether the run was interrupted.
        cache_entries: entries in the cache at the end, None when it was not opened.
        damaged_lines: lines of the log that could not be read.
        problems: what the session met besides calls, a line each.
    """

    run_id: str
    started_at: str
    duration_s: float
    pipeline_version: str
    plugin_version: str
    exit_status: int | None
    settings: Settings
    outcomes: Mapping[str, int] = _NOTHING
    llm_tests: int = 0
    llm_tests_lost: int = 0
    workers_crashed: int = 0
    interrupted: bool = False
    cache_entries: int | None = None
    damaged_lines: int = 0
    problems: tuple[str, ...] = ()


class AttemptFacts(NamedTuple):
    """One attempt of a call; times are Unix seconds, durations ms, None is not known.

    Attributes:
        number: 1 for the first.
        outcome: ``lost`` when its process died before it could tell.
        kind: why it failed, ``cancelled`` when it was lost, None when it did not fail.
        in_flight: requests of the run in flight when it began, itself included; 0 when its beginning is not known.
        request: the fields of ``gen_request``; empty when that line is missing.
        result: the fields of the event that ended it; empty when it was lost.
    """

    number: int
    outcome: Literal["ok", "failed", "lost", "abandoned"]
    kind: str | None = None
    category: str | None = None
    phase: str | None = None
    start_s: float | None = None
    latency_ms: float | None = None
    timeout_ms: float | None = None
    in_flight: int = 0
    request: Mapping[str, Any] = _NOTHING
    result: Mapping[str, Any] = _NOTHING

    @property
    def failed(self) -> bool:
        """Whether it failed, or was lost."""
        return self.outcome in {"failed", "lost"}

    @property
    def message(self) -> str:
        """What was said of its end, empty when nothing was."""
        return str(self.result.get("message") or "")

    @property
    def limit(self) -> str | None:
        """Which limit of ours cut it: ``attempt``, ``first_token`` or ``inter_token``; None when none did."""
        named = self.result.get("limit")
        if isinstance(named, str):
            return named
        return "attempt" if self.result.get("cut_at_limit") is True else None

    @property
    def end_s(self) -> float | None:
        """When it ended, Unix seconds; None when that is not known."""
        if self.start_s is None or self.latency_ms is None:
            return None
        return self.start_s + self.latency_ms / 1000


class CallError(NamedTuple):
    """A failure of a call without an attempt, such as ``unreachable``."""

    kind: str
    category: str
    message: str = ""


class CallFacts(NamedTuple):
    """One call.

    Attributes:
        errors: failures that no attempt carries.
        prompt_chars: None when it is not known.
    """

    call_id: str
    outcome: CallOutcome
    model: str
    nodeid: str = ""
    prompt_chars: int | None = None
    attempts: tuple[AttemptFacts, ...] = ()
    errors: tuple[CallError, ...] = ()

    @property
    def sent(self) -> bool:
        """Whether it needed the server, and counts in the rates."""
        return self.outcome in {"ok", "failed"}

    @property
    def kind(self) -> str | None:
        """Why it failed; None when it did not."""
        if self.outcome != "failed":
            return None
        if self.errors:
            return self.errors[-1].kind
        return self.attempts[-1].kind if self.attempts else None


class LogFacts(NamedTuple):
    """What the server's own log told of the run's time: counts and times, nothing of what was asked or answered.

    Attributes:
        source: whose log it is: ``lmstudio``, or ``embedded`` for the run's own llama.cpp server.
        complete: whether all of the run's time was read; a long log is read from its end.
        exited: whether the run's own server was found dead at the end.
        counts: how many lines told of what, see `server.log_lines`.
        exit_codes: those of crashes, as the log writes them.
        hung_up_s: when the log says that a client left a request that was running, Unix seconds.
    """

    source: str
    complete: bool = True
    exited: bool = False
    counts: Mapping[str, int] = _NOTHING
    exit_codes: tuple[str, ...] = ()
    hung_up_s: tuple[float, ...] = ()


class CasesFacts(NamedTuple):
    """Tests whose only call is that of their declared case.

    Attributes:
        tests: how many of them ran.
        workers: how many xdist workers made the calls of the run.
    """

    tests: int = 0
    workers: int = 0


class Evidence:
    """What verdicts are drawn from; each asks for the same attempts, so they are picked out once.

    Attributes:
        run: the run.
        calls: all of them, in the order in which they were first heard of.
        report: the report as far as it is built: all numbers, no verdicts.
        log: what the server's own log told, None when it was not read.
        cases: its declared cases.
    """

    def __init__(
        self,
        run: RunFacts,
        calls: tuple[CallFacts, ...],
        report: Mapping[str, Any],
        log: LogFacts | None = None,
        cases: CasesFacts | None = None,
    ) -> None:
        self.run = run
        self.calls = calls
        self.report = report
        self.log = log
        self.cases = cases or CasesFacts()

    def reported(self, report: Mapping[str, Any]) -> Evidence:
        """Return it with a report."""
        return Evidence(self.run, self.calls, report, self.log, self.cases)

    @cached_property
    def sent(self) -> tuple[CallFacts, ...]:
        """The calls that needed the server."""
        return tuple(call for call in self.calls if call.sent)

    @cached_property
    def attempts(self) -> tuple[AttemptFacts, ...]:
        """Every attempt that counts in the rates."""
        return tuple(attempt for call in self.calls if call.outcome != "abandoned" for attempt in call.attempts)

    def failures(self, *kinds: str) -> tuple[AttemptFacts, ...]:
        """Return the failed attempts of these kinds, of any kind when none is named."""
        return tuple(a for a in self._failed if a.kind in kinds) if kinds else self._failed

    @cached_property
    def _failed(self) -> tuple[AttemptFacts, ...]:
        return tuple(a for a in self.attempts if a.failed)

    def errors(self, *kinds: str) -> tuple[AttemptFacts | CallError, ...]:
        """Return the errors of these kinds, with and without an attempt, of any kind when none is named."""
        return (*self.failures(*kinds), *(error for error in self._unsent if not kinds or error.kind in kinds))

    @cached_property
    def _unsent(self) -> tuple[CallError, ...]:
        return tuple(error for call in self.calls if call.outcome != "abandoned" for error in call.errors)

    def number_of(self, *kinds: str) -> int:
        """Return how many errors of these kinds there were, with and without an attempt."""
        return sum(self.report["errors_by_kind"].get(kind, 0) for kind in kinds)
