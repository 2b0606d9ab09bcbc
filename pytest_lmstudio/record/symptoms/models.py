"""The model and its memory: it does not fit, the prompt does not fit, it is lost, it takes turns with another."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_lmstudio.record.stats import median
from pytest_lmstudio.record.symptoms.look import errors_of, of_models, said_in_the_log, successes, told_of
from pytest_lmstudio.record.symptoms.row import Elsewhere, Row, Seen
from pytest_lmstudio.record.symptoms.words import fewer, is_lmstudio, load_command, span, times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

#: How servers word the size of a prompt that was too long, in tokens.
_TOKENS = (
    r"request \((\d{1,9}) tokens\)|input has (\d{1,9}) tokens|n_keep:? \(?(\d{1,9})|n_prompt_tokens\W{1,4}(\d{1,9})"
)
_CHARS_PER_TOKEN = 3
_CONTEXT_STEP = 4096
_SHARED = "(?i)context size has been exceeded"
_LESS_CONTEXT = "start the server with less context, and update it"
_UNLOADED = "(?i)unloaded|reloaded|operation canceled"


def context_overflow(evidence: Evidence) -> Seen | None:
    """Detect prompts that did not fit alone, and name the context that they did not fit in."""
    shared = set(map(id, _sharing(evidence)))
    found = [a for a in evidence.failures("context_overflow") if id(a) not in shared]
    if not found:
        return None
    chars = [n for a in found if (n := _prompt_chars(a)) is not None]
    longest = f"; the longest such prompt has {max(chars):,} characters" if chars else ""
    size = _loaded_context(evidence)
    told = f", the model is loaded with {size:,} tokens of context" if size else ""
    evident = f"{times(len(found), 'error')} of kind context_overflow{longest}{told}"
    return Seen(evident + said_in_the_log(evidence, "context"), found, _larger_context(evidence, found, chars))


def shared_context(evidence: Evidence) -> Seen | None:
    """Detect that requests in flight together used up the context that they share."""
    found = _sharing(evidence)
    if not found:
        return None
    beside = max(a.in_flight for a in found)
    size = _loaded_context(evidence) or 0
    larger = f", or load the model with more: {load_command(evidence, found, f' --context-length {2 * size}')}"
    return Seen(
        f"{times(len(found), 'error')} of kind context_overflow with up to {beside} requests in flight"
        + said_in_the_log(evidence, "context"),
        found,
        fewer(beside // 2) + (larger if size and is_lmstudio(evidence) else ""),
    )


def cannot_load(evidence: Evidence) -> str | None:
    """Return commands that need less memory."""
    if not is_lmstudio(evidence):
        return None
    smaller = load_command(evidence, evidence.failures("out_of_memory"), " --context-length 4096")
    return f"make room with `lms unload --all`, then {smaller}; if that fails take a smaller model or quantization"


def engine_out_of_memory(evidence: Evidence) -> Seen | None:
    """Detect that the server's log tells of memory that ran out, while calls broke."""
    found = evidence.failures("model_lost", "disconnect", "server_error", "invalid_response", "connect")
    if not found or evidence.log is None or not evidence.log.counts.get("out_of_memory"):
        return None
    smaller = load_command(evidence, found, " --context-length 4096")
    return Seen(
        f"{times(len(found), 'attempt')} broke{said_in_the_log(evidence, 'out_of_memory', 'crashed')}",
        found,
        f"load the model with less context ({smaller}), or fewer layers on the GPU (--gpu), or take a smaller one"
        if is_lmstudio(evidence)
        else None,
    )


def crashed(evidence: Evidence) -> Seen | None:
    """Detect that the model was lost by a crash."""
    found = [a for a in evidence.failures("model_lost") if not re.search(_UNLOADED, a.message)]
    if not found:
        return None
    codes = evidence.log.exit_codes if evidence.log else ()
    told = said_in_the_log(evidence, "crashed") + (f" (exit code {', '.join(codes)})" if codes else "")
    beside = max(a.in_flight for a in found)
    smaller = f"load the model with less context ({load_command(evidence, found, ' --context-length 4096')})"
    newer = f"{smaller}, and update LM Studio and its runtime" if is_lmstudio(evidence) else _LESS_CONTEXT
    fix = f"{f'{fewer(beside // 2)}, ' if beside > 1 else ''}{newer}"
    return Seen(told_of(found, ("model_lost",)) + told, found, fix)


def unloaded(evidence: Evidence) -> Seen | None:
    """Detect that the model was taken out of memory, or displaced by another, while it answered."""
    found = [a for a in evidence.failures("model_lost") if re.search(_UNLOADED, a.message)]
    if not found:
        return None
    told = told_of(found, ("model_lost",)) + said_in_the_log(evidence, "unloads", "loads")
    return Seen(
        told,
        found,
        f"load it once before the run with {load_command(evidence, found)}, which sets no time to live; use one model "
        "at a time, and turn 'Only Keep Last JIT Loaded Model' off in the server's settings"
        if is_lmstudio(evidence)
        else None,
    )


def model_swaps(evidence: Evidence) -> Seen | None:
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
    return Seen(
        f"{models} models took {times(len(after_swap), 'turn')}; a request after one took {span(median(after_swap))}, "
        f"others {span(median(same_model))} (medians){said_in_the_log(evidence, 'loads')}"
    )


def slow_first_request(evidence: Evidence) -> Seen | None:
    """Detect a first answer that took far longer than the others, as loading the model on demand makes it."""
    ended = [a for a in successes(evidence) if a.start_s is not None and a.latency_ms is not None]
    ended.sort(key=lambda a: a.start_s or 0.0)
    latencies = [a.latency_ms or 0.0 for a in ended]
    if len(latencies) < 5 or latencies[0] < max(5 * median(latencies[1:]), 3000.0):  # noqa: PLR2004
        return None
    rest = latencies[1:]
    return Seen(
        f"the first answer took {span(latencies[0])}, the other {len(rest)} took {span(median(rest))} (median)",
        fix=f"load the model before the run with {load_command(evidence, ended[:1])}, and keep it loaded"
        if is_lmstudio(evidence)
        else None,
    )


def _sharing(evidence: Evidence) -> list[AttemptFacts]:
    """Return the attempts that failed for want of context beside others, which are counted as each begins."""
    found = [a for a in evidence.failures("context_overflow") if re.search(_SHARED, a.message)]
    return found if any(a.in_flight > 1 for a in found) else []


def _prompt_chars(attempt: AttemptFacts) -> int | None:
    chars = attempt.request.get("prompt_chars", attempt.result.get("prompt_chars"))
    return chars if isinstance(chars, int) else None


def _loaded_context(evidence: Evidence) -> int | None:
    return min((size for _, size in of_models(evidence, "context_length")), default=None)


def _larger_context(evidence: Evidence, found: Sequence[AttemptFacts], chars: Sequence[int]) -> str | None:
    """Return how to load the model with room for the longest prompt and a fourth more."""
    told = [int(size) for a in found for sizes in re.findall(_TOKENS, a.message) for size in sizes if size]
    tokens = max(told, default=max(chars, default=0) // _CHARS_PER_TOKEN)
    if not tokens:
        return None
    size = -(-tokens * 5 // (4 * _CONTEXT_STEP)) * _CONTEXT_STEP
    if evidence.log is not None and evidence.log.source == "embedded":
        return "shorten the prompts, or ask a server of your own, whose context you can choose (--lmstudio-url)"
    if evidence.report["server"]["kind"] == "llama.cpp":
        return (
            f"start llama-server with room for {size} tokens a request (-c, which its slots share), or shorten prompts"
        )
    if not is_lmstudio(evidence):
        return f"start the server with room for {size} tokens a request, or shorten the prompts"
    load = load_command(evidence, found, f" --context-length {size}")
    return f"load the model with room for them: {load}, or shorten them"


ROWS = (
    Row(
        "the server cannot load the model",
        "it does not fit into the memory that is free",
        "the server's log at that time, the memory in use, and `lms load --estimate-only`",
        "take a smaller model or quantization, load it with a smaller context length, or unload other models with "
        "`lms unload --all`",
        errors_of("out_of_memory", fix=cannot_load, log=("out_of_memory",)),
        elsewhere=Elsewhere(
            "the server's log at that time, and the memory in use",
            "take a smaller model or quantization, or start the server with less context",
        ),
    ),
    Row(
        "the server ran out of memory while it answered",
        "context, model and requests in flight together need more than there is",
        "the memory in use (graphics memory too) while the tests run",
        "load the model with less context, lower EVAL_CONCURRENCY, or take a smaller model or quantization",
        engine_out_of_memory,
    ),
    Row(
        "prompts do not fit into the model's context",
        "the model is loaded with a small context",
        "the context length that `lms ps` shows, against the longest prompt",
        "load the model with a larger context (`lms load --context-length`), or shorten the prompts",
        context_overflow,
        elsewhere=Elsewhere(
            "the context that the server was started with, against the longest prompt",
            "start the server with a larger context, or shorten the prompts",
        ),
    ),
    Row(
        "requests in flight use up the context that they share",
        "the server's parallel requests share one context, and one that overflows it fails all of them",
        "the same tests with --lmstudio-concurrency=1",
        "lower EVAL_CONCURRENCY, or load the model with a larger context (`lms load --context-length`)",
        shared_context,
        elsewhere=Elsewhere(fix="lower EVAL_CONCURRENCY, or start the server with a larger context"),
    ),
    Row(
        "models take turns",
        "the server holds one model at a time and loads it anew for every turn",
        "`lms ps` while the run goes on",
        "run the tests of one model after those of the other (-m, or one run for each model), or load both before "
        "the run",
        model_swaps,
        elsewhere=Elsewhere("the server's log while the run goes on"),
    ),
    Row(
        "the model crashed while it answered",
        "the engine failed: memory, too many requests at once, or a fault of the runtime",
        "the server's log at that time",
        "load the model with less context (`lms load --context-length`), and update LM Studio and its runtime",
        crashed,
        view=True,
        elsewhere=Elsewhere(fix=_LESS_CONTEXT),
    ),
    Row(
        "the model was unloaded while it answered",
        "its time to live ended, or another model took its place",
        "the server's log at that time; whether tests or other programs ask for other models",
        "load it once before the run (`lms load`), use one model at a time, and switch automatic unloading off",
        unloaded,
        elsewhere=Elsewhere(fix="use one model at a time, and let the server keep it loaded"),
    ),
)

HINTS = (
    Row(
        "the first request is slow, the others are quick",
        "the model was loaded on demand by the first request",
        "`lms ps` before the run",
        "load the model before the run with `lms load`, and keep it loaded",
        slow_first_request,
        hint=True,
        elsewhere=Elsewhere(
            "the same run again, with --lmstudio-cache=refresh: the first request is quick when the model is warm",
            "let the server load the model when it starts, and keep it loaded",
            "the server loads or warms up the model at the first request",
        ),
    ),
)
