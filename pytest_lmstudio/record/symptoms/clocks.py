"""Attempts cut at a limit of ours: that of a whole attempt, of its first token, or between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.server_log import strangers_hangups
from pytest_lmstudio.record.stats import median, percentile
from pytest_lmstudio.record.symptoms.look import number_in, said_in_the_log, successes, whole_ms
from pytest_lmstudio.record.symptoms.row import Row, Seen
from pytest_lmstudio.record.symptoms.words import fewer, limits, longer_s, more_time, span, times, was

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

#: An answer is given no more than this share of its timeout, so that it ends before.
_ROOM = 0.8
_SILENT = "the server takes requests and sends nothing: it loads the model, works through long prompts, or hangs"


def cut_while_the_rest_is_slow(evidence: Evidence) -> Seen | None:
    """Detect attempts cut at our own limit where whole answers come close to it, or none came."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or (typical_ms is not None and typical_ms < limit_ms / 2):
        return None
    answers = "no answer was whole in time" if typical_ms is None else f"whole answers took {span(typical_ms)} (p95)"
    fix = f"{more_time(evidence, cut, whole_ms(evidence, 99))}, lower max_tokens, or lower EVAL_CONCURRENCY"
    silent = typical_ms is None and not any(a.phase == "receiving" for a in cut)
    return Seen(f"{_cut_text(cut, evidence)}; {answers}{_log_of_ours(evidence)}", cut, fix, _SILENT if silent else None)


def cut_while_the_rest_is_quick(evidence: Evidence) -> Seen | None:
    """Detect attempts cut at our own limit although other answers need less than half of it."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or typical_ms is None or typical_ms >= limit_ms / 2 or _mostly_begun(cut):
        return None
    evident = f"{_cut_text(cut, evidence)}; whole answers took only {span(typical_ms)} (p95)"
    return Seen(evident + _log_of_ours(evidence), cut)


def cut_while_answering(evidence: Evidence) -> Seen | None:
    """Detect attempts cut at our own limit while their long answers came, although shorter ones are quick."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or typical_ms is None or typical_ms >= limit_ms / 2 or not _mostly_begun(cut):
        return None
    speeds = [speed for a in successes(evidence) if (speed := number_in(a, "tokens_per_second")) is not None]
    fitting = int((percentile(speeds, 50) or 0.0) * limit_ms / 1000 * _ROOM)
    shorter = f"set max_tokens={fitting} for these calls, which fits" if fitting else "lower max_tokens for these calls"
    evident = f"{_cut_text(cut, evidence)}; whole answers took {span(typical_ms)} (p95){_log_of_ours(evidence)}"
    return Seen(evident, cut, f"{shorter}, or {more_time(evidence, cut, None)}")


def long_to_the_first_token(evidence: Evidence) -> Seen | None:
    """Detect streams given up before their first token that were slow to begin rather than dead."""
    cut, usual_ms = _without_first_token(evidence)
    if not cut or not _is_slow_to_begin(evidence, cut, usual_ms):
        return None
    usual = f"others began after {span(usual_ms)} (p95)" if usual_ms is not None else "none began in time"
    seconds = longer_s(_limit_ms(cut), usual_ms)
    return Seen(
        f"{_given_up(cut, evidence)} without a token{_lengths(evidence, cut)}; {usual}",
        cut,
        f"set LLM_FIRST_TOKEN_TIMEOUT_MS={seconds * 1000} (--lmstudio-first-token-timeout={seconds}), shorten the "
        "prompts, or lower EVAL_CONCURRENCY",
    )


def dead_from_the_start(evidence: Evidence) -> Seen | None:
    """Detect streams given up before their first token although others begin quickly, and their prompts are alike."""
    cut, usual_ms = _without_first_token(evidence)
    if not cut or usual_ms is None or _is_slow_to_begin(evidence, cut, usual_ms):
        return None
    evident = f"{_given_up(cut, evidence)} without a token; others began after only {span(usual_ms)} (p95)"
    return Seen(evident + said_in_the_log(evidence, "crashed", "queued"), cut)


def fell_silent(evidence: Evidence) -> Seen | None:
    """Detect streams that began and then brought no further token."""
    cut = [a for a in evidence.failures("timeout") if a.limit == "inter_token"]
    if not cut:
        return None
    beside = median(a.in_flight for a in cut)
    seconds = longer_s(_inter_token_ms(evidence), None)
    wait = f"set LLM_INTER_TOKEN_TIMEOUT_MS={seconds * 1000} (--lmstudio-inter-token-timeout={seconds})"
    crowded = f"{fewer(max(1, int(beside) // 2))}, since a long prompt stalls the streams beside it; or {wait}"
    return Seen(
        f"{len(cut)} of {times(len(evidence.attempts), 'attempt')} brought no further token for "
        f"{span(_inter_token_ms(evidence))}, with {beside:g} in flight (median){said_in_the_log(evidence, 'crashed')}",
        cut,
        crowded if beside > 1 else f"load the model anew before the run; where it only pauses, {wait}",
    )


def _own_limit(evidence: Evidence) -> tuple[list[AttemptFacts], float | None, float]:
    """Return the attempts cut at the limit of a whole one, the p95 of whole answers, and that limit, both ms."""
    cut = [a for a in evidence.failures("timeout") if a.limit == "attempt"]
    return cut, whole_ms(evidence, 95), min((a.timeout_ms for a in cut if a.timeout_ms), default=0.0)


def _mostly_begun(cut: Sequence[AttemptFacts]) -> bool:
    return 2 * sum(a.phase == "receiving" for a in cut) > len(cut)


def _cut_text(cut: Sequence[AttemptFacts], evidence: Evidence) -> str:
    begun = sum(a.phase == "receiving" for a in cut)
    return (
        f"{len(cut)} of {times(len(evidence.attempts), 'attempt')} {was(len(cut))} cut at the limit of {limits(cut)}, "
        f"{len(cut) - begun} before the first token and {begun} while the answer came"
    )


def _log_of_ours(evidence: Evidence) -> str:
    """Return what the server's log has of requests that this run gave up."""
    if evidence.log is None or not evidence.log.hung_up_s:
        return ""
    seen, strangers = len(evidence.log.hung_up_s), strangers_hangups(evidence)
    return f"; the server's log has {times(seen, 'Client disconnected line')} here, {seen - strangers} of them ours"


def _without_first_token(evidence: Evidence) -> tuple[list[AttemptFacts], float | None]:
    """Return the attempts given up before their first token, and the p95 of the others' time to it, ms."""
    cut = [a for a in evidence.failures("timeout") if a.limit == "first_token"]
    begun = [ttft for a in successes(evidence) if (ttft := number_in(a, "ttft_ms")) is not None]
    return cut, percentile(begun, 95)


def _is_slow_to_begin(evidence: Evidence, cut: Sequence[AttemptFacts], usual_ms: float | None) -> bool:
    """Tell whether others are slow as well, or the prompts given up are longer than those that were answered."""
    if usual_ms is None or usual_ms >= _limit_ms(cut) / 2:
        return True
    given_up, answered = _median_chars(cut), _median_chars(successes(evidence))
    return given_up is not None and answered is not None and given_up >= 2 * answered


def _median_chars(attempts: Sequence[AttemptFacts]) -> float | None:
    known = [chars for a in attempts if isinstance(chars := a.request.get("prompt_chars"), int)]
    return median(known) if known else None


def _lengths(evidence: Evidence, cut: Sequence[AttemptFacts]) -> str:
    given_up, answered = _median_chars(cut), _median_chars(successes(evidence))
    if given_up is None:
        return ""
    beside = f", {answered:,.0f} where answered" if answered is not None else ""
    return f" (prompts of {given_up:,.0f} characters{beside}, medians)"


def _limit_ms(cut: Sequence[AttemptFacts]) -> float:
    """Return the limit to the first token: what the quickest of them was given."""
    return min((a.latency_ms for a in cut if a.latency_ms is not None), default=0.0)


def _given_up(cut: Sequence[AttemptFacts], evidence: Evidence) -> str:
    all_of_them = times(len(evidence.attempts), "attempt")
    return f"{len(cut)} of {all_of_them} {was(len(cut))} given up after {span(_limit_ms(cut))}"


def _inter_token_ms(evidence: Evidence) -> float:
    return (evidence.run.settings.inter_token_timeout or 0.0) * 1000


ROWS = (
    Row(
        "streams fall silent in the middle of an answer",
        "the server works on somebody else's long prompt meanwhile, or its engine hangs",
        "the server's log at that time; the same tests with --lmstudio-concurrency=1",
        "lower EVAL_CONCURRENCY, or raise LLM_INTER_TOKEN_TIMEOUT_MS (--lmstudio-inter-token-timeout)",
        fell_silent,
    ),
    Row(
        "prompts take longer to the first token than they may",
        "the server works through a long prompt, or other prompts before it, before it answers",
        "time to first token against prompt length; whether the model runs on the GPU",
        "raise LLM_FIRST_TOKEN_TIMEOUT_MS (--lmstudio-first-token-timeout), or shorten the prompts",
        long_to_the_first_token,
    ),
    Row(
        "streams stay silent from the start, although others begin quickly",
        "single requests hang: a model being loaded, a queue in the server, a dead stream",
        "the server's log at that time",
        "load the model before the run, and lower EVAL_CONCURRENCY; a higher limit only waits longer",
        dead_from_the_start,
    ),
    Row(
        "attempts are cut at the run's own timeout, and whole answers come close to it",
        "the model is slower than the timeout allows",
        "time to first token against tokens per second: a long wait is prompt and queue, a slow answer is length",
        "raise LLM_REQUEST_TIMEOUT_MS (--lmstudio-timeout), lower max_tokens, or lower EVAL_CONCURRENCY",
        cut_while_the_rest_is_slow,
    ),
    Row(
        "attempts are cut at the run's own timeout, although other answers are quick",
        "single requests hang: a model being loaded, a long prompt before them in the server's queue, a dead stream",
        "the server's log at that time, and the prompts of the tests concerned",
        "load the model before the run, lower EVAL_CONCURRENCY, set max_tokens; a higher timeout only waits longer",
        cut_while_the_rest_is_quick,
        view=True,
    ),
    Row(
        "long answers are cut at the run's own timeout while they come",
        "the model generates, but the answer is longer than the timeout allows",
        "tokens per second times the timeout is the longest answer that can be whole",
        "lower max_tokens for these calls, or give their tests more time with @pytest.mark.llm(timeout=...)",
        cut_while_answering,
    ),
)
