"""How each symptom is told from a run's numbers: evidence as one line, or None when the run does not show it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_lmstudio.record.stats import percentile, wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts, Evidence

    Detect = Callable[[Evidence], str | None]

# Two durations within 3 % of their middle are the same clock's.
_SAME_CLOCK = 0.03
_SHORTEST_FOREIGN_LIMIT_MS = 1000.0
_LONG_PROMPT_CHARS = 1000
_WELL_KNOWN_LIMITS_S = (10, 15, 20, 30, 60, 90, 100, 120, 180, 240, 300, 600, 900)


def errors_of(*kinds: str) -> Detect:
    """Return a detector of any error of these kinds, which quotes how many there were and the first message."""

    def detect(evidence: Evidence) -> str | None:
        if not (count := evidence.count(*kinds)):
            return None
        said = _first_message(evidence, kinds)
        return f"{_times(count, 'error')} of kind {' or '.join(kinds)}" + (f', the first: "{said}"' if said else "")

    return detect


def cut_while_the_rest_is_slow(evidence: Evidence) -> str | None:
    """Detect attempts cut at our own limit where whole answers come close to it, or none came."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or (typical_ms is not None and typical_ms < limit_ms / 2):
        return None
    answers = "no answer was whole in time" if typical_ms is None else f"whole answers took {_s(typical_ms)} (p95)"
    return f"{_cut_text(cut, evidence)}; {answers}"


def cut_while_the_rest_is_quick(evidence: Evidence) -> str | None:
    """Detect attempts cut at our own limit although other answers need less than half of it."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or typical_ms is None or typical_ms >= limit_ms / 2 or _mostly_begun(cut):
        return None
    return f"{_cut_text(cut, evidence)}; whole answers took only {_s(typical_ms)} (p95)"


def cut_while_answering(evidence: Evidence) -> str | None:
    """Detect attempts cut at our own limit while their long answers came, although shorter ones are quick."""
    cut, typical_ms, limit_ms = _own_limit(evidence)
    if not cut or typical_ms is None or typical_ms >= limit_ms / 2 or not _mostly_begun(cut):
        return None
    return f"{_cut_text(cut, evidence)}; whole answers took {_s(typical_ms)} (p95)"


def cut_at_a_foreign_limit(evidence: Evidence) -> str | None:
    """Detect failures that share one duration which is not our limit, the mark of somebody else's clock."""
    ended = [
        a
        for a in evidence.failures("disconnect", "timeout", "server_error", "invalid_response")
        if a.result.get("cut_at_limit") is not True and (a.latency_ms or 0) >= _SHORTEST_FOREIGN_LIMIT_MS
    ]
    foreign = [a.latency_ms for a in ended if a.latency_ms and not _near(a.latency_ms, a.timeout_ms)]
    cluster = _largest_cluster(foreign)
    if len(cluster) < 3 or len(cluster) * 2 <= len(ended):  # noqa: PLR2004  # three of a kind, and most of all
        return None
    middle_s = median(cluster) / 1000
    known = next((limit for limit in _WELL_KNOWN_LIMITS_S if _near(middle_s, limit)), None)
    return (
        f"{len(cluster)} of {_times(len(ended), 'broken attempt')} ended after {known or round(middle_s, 1):g} s "
        f"({_s(cluster[0])} to {_s(cluster[-1])}), which is not the timeout of {_timeouts(ended)}"
    )


def cut_in_the_middle(evidence: Evidence) -> str | None:
    """Detect answers that broke off after their first byte."""
    cut = [a for a in evidence.failures("disconnect", "invalid_response") if a.phase == "receiving"]
    if not cut:
        return None
    latencies = [a.latency_ms for a in cut if a.latency_ms is not None]
    after = f", after {_s(median(latencies))} (median)" if latencies else ""
    streams = sum(a.request.get("stream") is True for a in cut)
    return f"{len(cut)} of {_times(len(evidence.attempts), 'attempt')} broke off{after}; {streams} of them were streams"


def grows_with_load(evidence: Evidence) -> str | None:
    """Detect that attempts begun beside many others fail more often, by more than chance makes likely."""
    known = [a for a in evidence.attempts if a.in_flight and a.kind not in {"cancelled", "auth", "bad_request"}]
    if not known:
        return None
    half = max(a.in_flight for a in known) / 2
    few, many = [a for a in known if a.in_flight <= half], [a for a in known if a.in_flight > half]
    failed_few, failed_many = sum(a.failed for a in few), sum(a.failed for a in many)
    least = wilson(failed_many, len(many))
    if min(len(few), len(many)) < 5 or failed_many < 3 or not least or least.lo <= failed_few / len(few):  # noqa: PLR2004
        return None
    return (
        f"{failed_many} of {len(many)} attempts failed with more than {half:g} requests in flight, "
        f"{failed_few} of {len(few)} with fewer"
    )


def more_than_the_server_serves(evidence: Evidence) -> str | None:
    """Detect timeouts while more requests were in flight than the server answers at once."""
    used = evidence.report["by_model"]
    slots = [m["parallel"] for m in evidence.report["server"]["models"] if m["parallel"] and m["id"] in used]
    peak, timeouts = evidence.report["concurrency"]["peak_in_flight"], evidence.count("timeout")
    if not slots or not timeouts or peak <= min(slots):
        return None
    return (
        f"up to {peak} requests were in flight, the server answers {min(slots)} at once; "
        f"{_times(timeouts, 'attempt')} timed out"
    )


def reset_on_loopback(evidence: Evidence) -> str | None:
    """Detect connections to this machine that were cut before the first byte of an answer."""
    url = str(evidence.report["server"]["url"])
    host = urlsplit(url).hostname or ""
    cut = [a for a in evidence.failures("disconnect") if a.phase in {"connecting", "waiting"}]
    if not cut or not (host in {"localhost", "::1"} or host.startswith("127.")):
        return None
    return f"{len(cut)} of {_times(len(evidence.attempts), 'attempt')} to {host} were cut before the answer began"


def only_long_prompts(evidence: Evidence) -> str | None:
    """Detect that calls fail from some length of prompt on, and not below."""
    blamed = {"network", "context_overflow", "out_of_memory"}
    failed = [c.prompt_chars for c in evidence.sent if c.prompt_chars is not None and blamed & _reasons(c)]
    shortest = min(failed, default=0)
    ok = [c.prompt_chars for c in evidence.sent if c.prompt_chars is not None and c.outcome == "ok"]
    shorter = sum(chars < shortest for chars in ok)
    enough = len(failed) >= 3 and shorter >= 5 and shortest >= _LONG_PROMPT_CHARS  # noqa: PLR2004
    if not enough or shortest < 2 * median(ok) or len(ok) - shorter > len(failed):
        return None
    return (
        f"all {len(failed)} calls that failed had prompts of {shortest:,} characters or more; "
        f"{shorter} calls with shorter ones went well"
    )


def context_overflow(evidence: Evidence) -> str | None:
    """Detect prompts that did not fit, and name the context that they did not fit in."""
    if not (count := evidence.count("context_overflow")):
        return None
    chars = [c.prompt_chars for c in evidence.calls if c.prompt_chars is not None and _has(c, "context_overflow")]
    sizes = [m["context_length"] for m in evidence.report["server"]["models"] if m["context_length"]]
    longest = f"; the longest such prompt has {max(chars):,} characters" if chars else ""
    size = f", the model is loaded with {min(sizes):,} tokens of context" if sizes else ""
    return f"{_times(count, 'error')} of kind context_overflow{longest}{size}"


def model_swaps(evidence: Evidence) -> str | None:
    """Detect that models take turns, and that the first answer after each turn is slow."""
    done = sorted(
        ((a.start_s, c.model, a.latency_ms) for c in evidence.sent for a in c.attempts if a.start_s and a.latency_ms),
        key=lambda row: row[0],
    )
    pairs = list(pairwise(done))
    after_swap = [now[2] for before, now in pairs if now[1] != before[1]]
    same_model = [now[2] for before, now in pairs if now[1] == before[1]]
    models = len({model for _, model, _ in done})
    if len(after_swap) < 2 * models or models < 2 or not same_model or median(after_swap) < 2 * median(same_model):  # noqa: PLR2004
        return None
    return (
        f"{models} models took {_times(len(after_swap), 'turn')}; a request after one took {_s(median(after_swap))}, "
        f"others {_s(median(same_model))} (medians)"
    )


def slow_first_request(evidence: Evidence) -> str | None:
    """Detect a first answer that took far longer than the others, as loading the model on demand makes it."""
    ended = [a for a in evidence.attempts if a.outcome == "ok" and a.start_s is not None and a.latency_ms is not None]
    latencies = [a.latency_ms or 0.0 for a in sorted(ended, key=lambda a: a.start_s or 0.0)]
    if len(latencies) < 5 or latencies[0] < max(5 * median(latencies[1:]), 3000.0):  # noqa: PLR2004
        return None
    rest = latencies[1:]
    return f"the first answer took {_s(latencies[0])}, the other {len(rest)} took {_s(median(rest))} (median)"


def stopped_by_length(evidence: Evidence) -> str | None:
    """Detect answers cut by max_tokens or the context, where they are one in ten or more."""
    ok = _successes(evidence)
    cut = sum(a.result.get("finish_reason") == "length" and not a.result.get("truncated_thinking") for a in ok)
    if not cut or cut * 10 < len(ok):
        return None
    return f"{cut} of {_times(len(ok), 'answer')} ended with finish_reason length"


def thinking_took_all(evidence: Evidence) -> str | None:
    """Detect answers without text, since the thinking took every token."""
    ok = _successes(evidence)
    empty = sum(a.result.get("truncated_thinking") is True for a in ok)
    return f"{empty} of {_times(len(ok), 'answer')} had no text and finish_reason length" if empty else None


def cut_by_the_interrupt(evidence: Evidence) -> str | None:
    """Detect calls that were still running when the run was interrupted."""
    count = evidence.count("cancelled")
    if not count or not evidence.run.interrupted:
        return None
    return f"{_times(count, 'call')} had no answer yet when the run was interrupted"


def cut_by_a_crash(evidence: Evidence) -> str | None:
    """Detect calls whose process died without an interrupt."""
    count, crashed = evidence.count("cancelled"), evidence.run.workers_crashed
    if not count or evidence.run.interrupted:
        return None
    return f"{_times(count, 'call')} ended with the process that made it; {_times(crashed, 'worker')} crashed"


def unset_version(evidence: Evidence) -> str | None:
    """Detect a cache in use without a pipeline version."""
    cache = evidence.report["cache"]
    if evidence.run.pipeline_version or not cache["hits"] + cache["stores"]:
        return None
    return f"{cache['hits']} answers came from the cache, {cache['stores']} were stored, with an empty pipeline version"


def cache_too_small(evidence: Evidence) -> str | None:
    """Detect answers that the cache had no room for."""
    cache = evidence.report["cache"]
    unstored = sum(
        a.request.get("cache") in {"miss", "refresh"}
        and a.result.get("stored") is False
        and not a.result.get("truncated_thinking")
        for a in _successes(evidence)
    )
    if not unstored or cache["entries"] is None or cache["entries"] < cache["size_limit"]:
        return None
    held = f"{cache['entries']} of {cache['size_limit']} entries"
    return f"{_times(unstored, 'answer')} could not be stored: the cache holds {held}"


def _own_limit(evidence: Evidence) -> tuple[list[AttemptFacts], float | None, float]:
    """Return the attempts cut at their limit, the p95 of whole answers, and the smallest of those limits, both ms."""
    cut = [a for a in evidence.failures("timeout") if a.result.get("cut_at_limit") is True]
    typical = percentile([a.latency_ms for a in _successes(evidence) if a.latency_ms is not None], 95)
    return cut, typical, min((a.timeout_ms for a in cut if a.timeout_ms), default=0.0)


def _mostly_begun(cut: Sequence[AttemptFacts]) -> bool:
    return 2 * sum(a.phase == "receiving" for a in cut) > len(cut)


def _cut_text(cut: Sequence[AttemptFacts], evidence: Evidence) -> str:
    begun = sum(a.phase == "receiving" for a in cut)
    return (
        f"{len(cut)} of {_times(len(evidence.attempts), 'attempt')} were cut at the limit of {_timeouts(cut)}, "
        f"{len(cut) - begun} before the first token and {begun} while the answer came"
    )


def _largest_cluster(values: Iterable[float]) -> list[float]:
    """Return the most values that lie within 3 % of their middle."""
    ranked = sorted(values)
    widest = (1 + _SAME_CLOCK) / (1 - _SAME_CLOCK)
    spans = ((start, bisect_right(ranked, lowest * widest)) for start, lowest in enumerate(ranked))
    start, end = max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
    return ranked[start:end]


def _near(value: float, reference: float | None) -> bool:
    return reference is not None and abs(value - reference) <= _SAME_CLOCK * reference


def _successes(evidence: Evidence) -> list[AttemptFacts]:
    return [a for a in evidence.attempts if a.outcome == "ok"]


def _reasons(call: CallFacts) -> set[str]:
    """Return kinds and categories of a failed call's last error; none when it went well or was cancelled."""
    if call.outcome != "failed" or call.kind in {None, "cancelled"}:
        return set()
    last = call.errors[-1] if call.errors else call.attempts[-1]
    return {str(last.kind), str(last.category)}


def _has(call: CallFacts, kind: str) -> bool:
    return any(a.kind == kind for a in call.attempts) or any(e.kind == kind for e in call.errors)


def _first_message(evidence: Evidence, kinds: Sequence[str]) -> str:
    said = [str(a.result.get("message") or "") for a in evidence.failures(*kinds)]
    said += [e.message for c in evidence.calls for e in c.errors if e.kind in kinds]
    return next((message for message in said if message), "")


def _timeouts(attempts: Iterable[AttemptFacts]) -> str:
    """Return the timeouts of attempts, the commonest first, at most two of them."""
    counts = Counter(a.timeout_ms for a in attempts if a.timeout_ms)
    return " or ".join(_s(timeout_ms) for timeout_ms, _ in counts.most_common(2)) or "this run"


def _s(ms: float) -> str:
    """Return milliseconds as they are read best: ``812 ms``, ``45 s``, ``3.2 s``."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{round(ms / 1000, 1):g} s"  # noqa: PLR2004  # a second


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
