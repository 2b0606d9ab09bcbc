"""Whether the trouble is one that a run's own settings cannot mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.symptoms.words import times

if TYPE_CHECKING:
    from pytest_lmstudio.record.facts import CallFacts, Evidence

LONG_TIMEOUT_S = 90.0
TOLERATED_SHARE = 0.05
TINY_PROMPT_CHARS = 200
RECURS = 3

# A mistake in the request or its address tells nothing of the server's health.
_NOT_THE_SERVER = frozenset({"auth", "wrong_url", "no_model", "wrong_model", "bad_request", "cache_miss", "cancelled"})


class Escalation(NamedTuple):
    """The verdict, and one line for each reason."""

    escalate: bool
    reasons: tuple[str, ...]


def judge_escalation(evidence: Evidence) -> Escalation:
    """Judge whether someone who looks after the server should look at the run."""
    found = (_still_failing(evidence), _tiny_prompts_failing(evidence), _resources_short(evidence))
    reasons = tuple(reason for reason in found if reason)
    return Escalation(bool(reasons), reasons)


def _still_failing(evidence: Evidence) -> str | None:
    patient = [call for call in evidence.sent if _timeout_s(call, evidence) >= LONG_TIMEOUT_S]
    failed = sum(call.kind is not None and call.kind not in _NOT_THE_SERVER for call in patient)
    if not patient or failed / len(patient) <= TOLERATED_SHARE:
        return None
    return (
        f"{failed} of {len(patient)} calls ({failed / len(patient):.1%}) failed although their timeout was "
        f"{LONG_TIMEOUT_S:g} s or more; at most {TOLERATED_SHARE:.0%} should"
    )


def _tiny_prompts_failing(evidence: Evidence) -> str | None:
    known = [c for c in evidence.sent if c.attempts and c.prompt_chars is not None]
    tiny = [c for c in known if (c.prompt_chars or 0) < TINY_PROMPT_CHARS]
    failed = sum(c.attempts[0].failed and c.attempts[0].kind not in _NOT_THE_SERVER for c in tiny)
    if failed < RECURS or failed * 2 <= len(tiny):
        return None
    return (
        f"the first attempt failed in {failed} of {len(tiny)} calls with prompts under {TINY_PROMPT_CHARS} characters"
    )


def _resources_short(evidence: Evidence) -> str | None:
    context, memory = evidence.number_of("context_overflow"), evidence.number_of("out_of_memory")
    if context + memory < RECURS:
        return None
    return f"the server ran out of context {times(context, 'time')} and out of memory {times(memory, 'time')}"


def _timeout_s(call: CallFacts, evidence: Evidence) -> float:
    """Return the limit of a call's attempts; a call without any, the run's own."""
    known = [attempt.timeout_ms for attempt in call.attempts if attempt.timeout_ms is not None]
    if known:
        return max(known) / 1000
    timeout = evidence.run.settings.timeout
    return 0.0 if timeout == "auto" else timeout
