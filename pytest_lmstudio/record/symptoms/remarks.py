"""Remarks on a run that may well be all right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.symptoms.look import latencies_ms, successes
from pytest_lmstudio.record.symptoms.row import Row, Seen
from pytest_lmstudio.record.symptoms.words import span, times, was

if TYPE_CHECKING:
    from pytest_lmstudio.record.facts import Evidence

_SIZE_STEP = 100


def thinking_took_all(evidence: Evidence) -> Seen | None:
    """Detect answers without text, since the thinking took every token."""
    ok = successes(evidence)
    cut = sum(a.result.get("truncated_thinking") is True for a in ok)
    return Seen(f"{cut} of {times(len(ok), 'answer')} had no text and finish_reason length") if cut else None


def stopped_by_length(evidence: Evidence) -> Seen | None:
    """Detect answers cut by max_tokens or the context, where they are one in ten or more."""
    ok = successes(evidence)
    cut = sum(a.result.get("finish_reason") == "length" and not a.result.get("truncated_thinking") for a in ok)
    if not cut or cut * 10 < len(ok):
        return None
    return Seen(f"{cut} of {times(len(ok), 'answer')} ended with finish_reason length")


def unset_version(evidence: Evidence) -> Seen | None:
    """Detect a cache in use without a pipeline version."""
    cache = evidence.report["cache"]
    if evidence.run.pipeline_version or not cache["hits"] + cache["stores"]:
        return None
    hits, stores = cache["hits"], cache["stores"]
    came = f"{times(hits, 'answer')} came from the cache, {stores} {was(stores)} stored"
    return Seen(f"{came}, with an empty pipeline version")


def cache_too_small(evidence: Evidence) -> Seen | None:
    """Detect answers that the cache had no room for."""
    cache = evidence.report["cache"]
    unstored = sum(
        a.request.get("cache") in {"miss", "refresh"}
        and a.result.get("stored") is False
        and not a.result.get("truncated_thinking")
        for a in successes(evidence)
    )
    if not unstored or cache["entries"] is None or cache["entries"] < cache["size_limit"]:
        return None
    size = -(-(cache["size_limit"] + unstored) // _SIZE_STEP) * _SIZE_STEP
    return Seen(
        f"{times(unstored, 'answer')} could not be stored: the cache holds {cache['entries']} of "
        f"{cache['size_limit']} entries",
        fix=f"set EVAL_CACHE_SIZE={size} (--lmstudio-cache-size={size})",
    )


def cases_in_workers(evidence: Evidence) -> Seen | None:
    """Detect a run of declared cases only that was spread over xdist workers."""
    cases, limit = evidence.cases, evidence.run.settings.concurrency
    ran = sum(count for word, count in evidence.report["tests"].items() if word != "skipped")
    if not cases.workers or not cases.tests or cases.tests != ran:
        return None
    took = f"{times(cases.tests, 'case')} in {times(cases.workers, 'worker')} took "
    answers_ms = sum(latencies_ms(successes(evidence))) / limit
    alone = f"; the answers alone, {limit} at a time, {span(answers_ms)}" if answers_ms else ""
    return Seen(f"{took}{span(evidence.run.duration_s * 1000)}{alone}")


HINTS = (
    Row(
        "declared cases need no xdist workers",
        "a worker costs about half a second of CPU to start, and is told of its next test only",
        "the same run with -n0",
        "run them with -n0: one process keeps EVAL_CONCURRENCY calls in flight, ahead of their tests",
        cases_in_workers,
        hint=True,
    ),
    Row(
        "all tokens of an answer were gone before its text began",
        "max_tokens is too small for this answer, or the model spent them on reasoning; such an answer is not cached",
        "reply.reasoning of the tests concerned",
        "raise max_tokens, or turn reasoning off or down for the model",
        thinking_took_all,
        hint=True,
    ),
    Row(
        "answers are cut by their length",
        "max_tokens, or the room left in the context, is smaller than the answer",
        "finish_reason of the replies: length",
        "raise max_tokens, ask for shorter answers, or load the model with a larger context",
        stopped_by_length,
        hint=True,
    ),
    Row(
        "the pipeline version is not set",
        "cached answers stay valid when the pipeline around the prompts changes, since no version tells them apart",
        "whether anything but prompt and parameters can change the answers",
        "set EVAL_PIPELINE_VERSION (--lmstudio-pipeline-version), such as to a commit id",
        unset_version,
        hint=True,
    ),
    Row(
        "the cache is smaller than the suite",
        "it is full of answers that this run or the last one used, so new ones are not stored",
        "the number of different calls in the suite",
        "raise EVAL_CACHE_SIZE (--lmstudio-cache-size) above the number of calls",
        cache_too_small,
        hint=True,
    ),
)
