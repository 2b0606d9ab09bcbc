"""What is known of a run, its calls and their attempts, once the events are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lmstudio.settings import Settings

CallOutcome = Literal["ok", "failed", "cached", "coalesced", "abandoned"]


@dataclass(frozen=True, slots=True)
class RunFacts:
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
    outcomes: Mapping[str, int] = field(default_factory=dict)
    llm_tests: int = 0
    llm_tests_lost: int = 0
    workers_crashed: int = 0
    interrupted: bool = False
    cache_entries: int | None = None
    damaged_lines: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptFacts:
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
    request: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it failed, or was lost."""
        return self.outcome in {"failed", "lost"}


@dataclass(frozen=True, slots=True)
class CallError:
    """A failure of a call without an attempt, such as ``unreachable``."""

    kind: str
    category: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class CallFacts:
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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What verdicts are drawn from.

    Attributes:
        run: the run.
        calls: all of them, in the order in which they were first heard of.
        report: the report as far as it is built: all numbers, no verdicts.
    """

    run: RunFacts
    calls: tuple[CallFacts, ...]
    report: Mapping[str, Any]

    @property
    def sent(self) -> tuple[CallFacts, ...]:
        """The calls that needed the server."""
        return tuple(call for call in self.calls if call.sent)

    @property
    def attempts(self) -> tuple[AttemptFacts, ...]:
        """Every attempt that counts in the rates."""
        return tuple(attempt for call in self.calls if call.outcome != "abandoned" for attempt in call.attempts)

    def failures(self, *kinds: str) -> tuple[AttemptFacts, ...]:
        """Return the failed attempts of these kinds, of any kind when none is named."""
        return tuple(a for a in self.attempts if a.failed and (not kinds or a.kind in kinds))

    def count(self, *kinds: str) -> int:
        """Return how many errors of these kinds there were, with and without an attempt."""
        return sum(self.report["errors_by_kind"].get(kind, 0) for kind in kinds)
