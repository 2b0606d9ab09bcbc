"""More is asked than the server can bear: at once, in one prompt, or for so long that it tires."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.stats import chance_of_more, median
from pytest_lmstudio.record.symptoms.look import number_in, of_models, reasons, said_in_the_log, successes, told_of
from pytest_lmstudio.record.symptoms.row import Elsewhere, Row, Seen
from pytest_lmstudio.record.symptoms.words import fewer, is_lmstudio, load_command, more_time, times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

#: Failures that have nothing to do with how much is asked at once.
_NOT_BY_LOAD = frozenset({"cancelled", "auth", "bad_request", "wrong_url", "no_model", "wrong_model"})
_LEAST_ATTEMPTS = 5
_LEAST_FAILURES = 3
#: How unlikely it must be that chance alone put the failures where many were in flight.
_BY_CHANCE = 0.01
_LEAST_FOR_A_TREND = 40
_LONG_PROMPT_CHARS = 1000


class _Split(NamedTuple):
    """Attempts begun with at most so many in flight, and those begun with more."""

    at_most: int
    few: list[AttemptFacts]
    many: list[AttemptFacts]

    @property
    def chance(self) -> float:
        """How likely as many failures among the many are, if load did not matter."""
        failed = sum(a.failed for a in self.many)
        return chance_of_more(failed, len(self.many), failed + sum(a.failed for a in self.few), self.total)

    @property
    def failing(self) -> float:
        """The share of the few that failed, 0 to 1."""
        return sum(a.failed for a in self.few) / len(self.few)

    @property
    def total(self) -> int:
        return len(self.few) + len(self.many)


def more_than_the_server_serves(evidence: Evidence) -> Seen | None:
    """Detect timeouts while more requests were in flight than the server answers at once."""
    used = evidence.report["by_model"]
    slots = [parallel for model, parallel in of_models(evidence, "parallel") if model in used]
    peak, timeouts = evidence.report["concurrency"]["peak_in_flight"], evidence.failures("timeout")
    if not slots or not timeouts or peak <= min(slots):
        return None
    more = f"load the model with more parallel slots (`lms load --parallel {peak}`)"
    return Seen(
        f"up to {peak} requests were in flight, the server answers {min(slots)} at once; "
        f"{times(len(timeouts), 'attempt')} timed out{said_in_the_log(evidence, 'queued')}",
        timeouts,
        f"{fewer(min(slots))}, or {more if is_lmstudio(evidence) else 'start the server with more parallel slots'}",
    )


def grows_with_load(evidence: Evidence) -> Seen | None:
    """Detect that attempts begun beside many others fail more often, by more than chance makes likely."""
    known = [a for a in evidence.attempts if a.in_flight and a.kind not in _NOT_BY_LOAD]
    splits = [split for at_most in sorted({a.in_flight for a in known}) if (split := _split(known, at_most))]
    clear = [split for split in splits if split.chance * len(splits) <= _BY_CHANCE]
    if not clear or more_than_the_server_serves(evidence):
        return None
    # A limit at which more fails than the gate lets through mends nothing, however clear the difference is.
    mends = [split for split in clear if split.failing <= evidence.run.settings.max_error_rate]
    best = min(mends or clear, key=lambda split: split.chance)
    failed = [a for a in best.many if a.failed]
    return Seen(
        f"{len(failed)} of {len(best.many)} attempts failed with more than {best.at_most} requests in flight, "
        f"{sum(a.failed for a in best.few)} of {len(best.few)} with {best.at_most} or fewer",
        failed,
        f"{fewer(best.at_most)}, or let --lmstudio-latency-threshold lower it under load",
    )


def rate_limited(evidence: Evidence) -> Seen | None:
    """Detect that the server asks to slow down."""
    found = evidence.errors("rate_limited")
    peak = evidence.report["concurrency"]["peak_in_flight"]
    if not found:
        return None
    return Seen(told_of(found, ("rate_limited",)), found, fewer(peak // 2) if peak > 1 else _ALONE)


_ALONE = "see who else uses the server; --lmstudio-backoff=5 waits longer between attempts"


def only_long_prompts(evidence: Evidence) -> Seen | None:
    """Detect that calls fail from some length of prompt on, and not below; a context too small has a row of its own."""
    blamed = {"network", "out_of_memory"}
    lost = [c for c in evidence.sent if c.prompt_chars is not None and blamed & reasons(c)]
    shortest = min((c.prompt_chars or 0 for c in lost), default=0)
    ok = [c.prompt_chars for c in evidence.sent if c.prompt_chars is not None and c.outcome == "ok"]
    shorter = sum(chars < shortest for chars in ok)
    enough = len(lost) >= 3 and shorter >= 5 and shortest >= _LONG_PROMPT_CHARS  # noqa: PLR2004
    if not enough or shortest < 2 * median(ok) or len(ok) - shorter > len(lost):
        return None
    failed = [a for c in lost for a in c.attempts if a.failed]
    cut = [a for a in failed if a.limit == "attempt"]
    fix = f"{more_time(evidence, cut, None)}, shorten the prompts, or lower EVAL_CONCURRENCY" if cut else None
    return Seen(
        f"all {len(lost)} calls that failed had prompts of {shortest:,} characters or more; "
        f"{shorter} calls with shorter ones went well",
        failed,
        fix,
    )


def tires(evidence: Evidence) -> Seen | None:
    """Detect that answers come at less than half of the speed that they had at the beginning."""
    ended = [a for a in successes(evidence) if a.start_s is not None and number_in(a, "tokens_per_second")]
    ended.sort(key=lambda a: a.start_s or 0.0)
    quarter = len(ended) // 4
    if len(ended) < _LEAST_FOR_A_TREND or len({a.request.get("model") for a in ended}) > 1:
        return None
    before, after = _speed(ended[:quarter]), _speed(ended[-quarter:])
    if after * 2 > before or _in_flight(ended[-quarter:]) > _in_flight(ended[:quarter]):
        return None
    return Seen(
        f"the first {quarter} answers came at {before:.1f} tokens/s, the last {quarter} at {after:.1f} (medians)",
        fix=f"load the model anew between suites (`lms unload --all`, then {load_command(evidence, ended[:1])}), and "
        "split long runs"
        if is_lmstudio(evidence)
        else None,
    )


def _split(known: Sequence[AttemptFacts], at_most: int) -> _Split | None:
    """Return a split that has enough on both sides to tell something, and fails more often where more is asked."""
    few = [a for a in known if a.in_flight <= at_most]
    many = [a for a in known if a.in_flight > at_most]
    failed = sum(a.failed for a in many)
    if min(len(few), len(many)) < _LEAST_ATTEMPTS or failed < _LEAST_FAILURES:
        return None
    return _Split(at_most, few, many)


def _speed(ended: Sequence[AttemptFacts]) -> float:
    return median(number_in(a, "tokens_per_second") or 0.0 for a in ended)


def _in_flight(ended: Sequence[AttemptFacts]) -> float:
    return median(a.in_flight for a in ended)


ROWS = (
    Row(
        "more requests are in flight than the server answers at once",
        "the rest waits inside the server, and its waiting eats the timeout",
        "the number of parallel predictions in the model's load settings",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency) to that number, or load the model with more parallel slots",
        more_than_the_server_serves,
        elsewhere=Elsewhere("how many requests at once the server was started for"),
    ),
    Row(
        "failures grow with the requests in flight",
        "the server is asked for more at once than it can bear",
        "the same tests with --lmstudio-concurrency=1",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency), or let --lmstudio-latency-threshold lower it under load",
        grows_with_load,
    ),
    Row(
        "only long prompts fail",
        "working through the prompt takes longer than the timeout, or more memory than there is",
        "time to first token of the long prompts, and the context length that `lms ps` shows",
        "shorten the prompts, load the model with a larger context, or lower EVAL_CONCURRENCY",
        only_long_prompts,
        elsewhere=Elsewhere(
            "time to first token of the long prompts, and the context that the server was started with",
            "shorten the prompts, start the server with a larger context, or lower EVAL_CONCURRENCY",
        ),
    ),
    Row(
        "the server asks to slow down",
        "more requests come than it takes",
        "other programs that use the same server",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency)",
        rate_limited,
    ),
)

HINTS = (
    Row(
        "answers get slower as the run goes on",
        "the server or the machine tires: memory that fills up, heat, other programs",
        "tokens per second over time, and the machine's temperature and memory",
        "load the model anew between suites, and split long runs",
        tires,
        hint=True,
        elsewhere=Elsewhere(fix="start the server anew between suites, and split long runs"),
    ),
)
