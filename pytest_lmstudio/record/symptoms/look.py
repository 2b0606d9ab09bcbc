"""What several symptoms look for: failures of a kind, what was said of them, what the server's log has of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.stats import percentile
from pytest_lmstudio.record.symptoms.row import Seen
from pytest_lmstudio.record.symptoms.words import times
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, CallError, CallFacts, Evidence
    from pytest_lmstudio.record.symptoms.row import Detect

_QUOTED_CHARS = 240
#: Two durations within 3 % of each other are the same clock's.
SAME_CLOCK = 0.03


def errors_of(*kinds: str, fix: Callable[[Evidence], str | None] | None = None, log: tuple[str, ...] = ()) -> Detect:
    """Return a detector of any error of these kinds, which quotes how many there were and the first message.

    Args:
        kinds: the kinds.
        fix: returns what to change, None where the run's numbers do not say.
        log: what the server's log may have of it, see `said_in_the_log`.
    """

    def detect(evidence: Evidence) -> Seen | None:
        found = evidence.errors(*kinds)
        if not found:
            return None
        return Seen(told_of(found, kinds) + said_in_the_log(evidence, *log), found, fix(evidence) if fix else None)

    return detect


def told_of(found: Sequence[AttemptFacts | CallError], kinds: Sequence[str]) -> str:
    """Return how many errors there were, and the first message."""
    said = next((error.message for error in found if error.message), "")
    quoted = f', the first: "{printable(said, _QUOTED_CHARS)}"' if said else ""
    return f"{times(len(found), 'error')} of kind {' or '.join(kinds)}{quoted}"


def said_in_the_log(evidence: Evidence, *names: str) -> str:
    """Return how often the server's own log tells of something, as the end of a sentence; empty when it does not."""
    log = evidence.log
    found = [f"{log.counts[name]} {_IN_THE_LOG[name]}" for name in names if log and log.counts.get(name)]
    return f"; the server's log has in this run's time: {', '.join(found)}" if found else ""


_IN_THE_LOG = {
    "crashed": "x 'model has crashed'",
    "out_of_memory": "x out of memory",
    "context": "x context exceeded",
    "loads": "x a model being loaded",
    "unloads": "x a model being unloaded",
    "queued": "x a request being queued",
}


def successes(evidence: Evidence) -> list[AttemptFacts]:
    """Return the attempts that were answered."""
    return [a for a in evidence.attempts if a.outcome == "ok"]


def latencies_ms(attempts: Iterable[AttemptFacts]) -> list[float]:
    """Return how long attempts took, where that is known."""
    return [a.latency_ms for a in attempts if a.latency_ms is not None]


def whole_ms(evidence: Evidence, percent: float) -> float | None:
    """Return a percentile of the time that whole answers took, None without any."""
    return percentile(latencies_ms(successes(evidence)), percent)


def of_models(evidence: Evidence, name: str) -> list[tuple[str, int]]:
    """Return id and a number of each model that the server lists with one, such as its ``context_length``."""
    listed = [(str(model["id"]), model[name]) for model in evidence.report["server"]["models"]]
    return [(model, n) for model, n in listed if isinstance(n, int) and n > 0]


def number_in(attempt: AttemptFacts, name: str) -> float | None:
    """Return a number that the end of an attempt tells, None when it does not."""
    value = attempt.result.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def near(value: float, reference: float | None) -> bool:
    """Tell whether two durations are the same clock's."""
    return reference is not None and abs(value - reference) <= SAME_CLOCK * reference


def reasons(call: CallFacts) -> set[str]:
    """Return kinds and categories of a failed call's last error; none when it went well or was cancelled."""
    if call.outcome != "failed" or call.kind in {None, "cancelled"}:
        return set()
    last = call.errors[-1] if call.errors else call.attempts[-1]
    return {str(last.kind), str(last.category)}
