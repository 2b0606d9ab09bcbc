"""Symptoms of a run, with what to change: one row a symptom, the likeliest root first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record import symptoms
from pytest_lmstudio.text import printable, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.record.facts import Evidence

_EVIDENCE_CHARS = 400


class Row(NamedTuple):
    """One symptom.

    Attributes:
        symptom: what is seen.
        cause: what it most likely comes from.
        check: how to make sure.
        fix: what to change, by the name of its option or environment variable.
        detect: returns the evidence in numbers of the run, None when the run does not show the symptom.
        hint: whether it is a remark about a run that may well be all right.
    """

    symptom: str
    cause: str
    check: str
    fix: str
    detect: Callable[[Evidence], str | None]
    hint: bool = False


def diagnose(evidence: Evidence) -> list[dict[str, str]]:
    """Return the rows that a run shows, each with symptom, cause, check, fix and evidence."""
    found = ((row, row.detect(evidence)) for row in ROWS)
    return [
        {
            "symptom": row.symptom,
            "cause": row.cause,
            "check": row.check,
            "fix": row.fix,
            "evidence": printable(without_userinfo(seen), _EVIDENCE_CHARS),
        }
        for row, seen in found
        if seen is not None
    ]


ROWS = (
    Row(
        "the server cannot be reached",
        "it is not started, or listens on another address or port",
        "open the address with /v1/models behind it in a browser",
        "start it with `lms server start`, or give its address with --lmstudio-url; --lmstudio-wait=60 waits for one "
        "that is still starting",
        symptoms.errors_of("unreachable", "connect"),
    ),
    Row(
        "the server refuses the API token",
        "authentication is on and no token, or a wrong one, was sent",
        "LM Studio, server settings: Require Authentication",
        "set LM_API_TOKEN to a token made there, or turn authentication off",
        symptoms.errors_of("auth"),
    ),
    Row(
        "the server does not know the route",
        "the address points to something else, or has a path too many",
        "the address with /v1/models behind it must answer a list of models",
        "give the base address alone as --lmstudio-url, such as http://127.0.0.1:1234",
        symptoms.errors_of("wrong_url"),
    ),
    Row(
        "the model asked for is not there",
        "no model is loaded, or its name is misspelt; with one model loaded LM Studio answers with that one instead",
        "run `lms ps` and `lms ls`",
        "load it before the run with `lms load`, and name it with --lmstudio-model",
        symptoms.errors_of("no_model", "wrong_model"),
    ),
    Row(
        "the server cannot load the model",
        "it does not fit into the memory that is free",
        "the server's log at that time, and the memory in use",
        "take a smaller model or quantization, load it with a smaller context length, or unload other models with "
        "`lms unload --all`",
        symptoms.errors_of("out_of_memory"),
    ),
    Row(
        "prompts do not fit into the model's context",
        "the model is loaded with a small context, or requests in flight share one",
        "the context length that `lms ps` shows, against the longest prompt",
        "load the model with a larger context (`lms load --context-length`), shorten the prompts, or lower "
        "EVAL_CONCURRENCY",
        symptoms.context_overflow,
    ),
    Row(
        "the model was lost while it answered",
        "it crashed, was unloaded, or another model took its place",
        "the server's log at that time; whether tests or other programs ask for other models",
        "load it once before the run (`lms load`), use one model at a time, and switch automatic unloading off; for "
        "crashes lower EVAL_CONCURRENCY and the context length",
        symptoms.errors_of("model_lost"),
    ),
    Row(
        "models take turns",
        "the server holds one model at a time and loads it anew for every turn",
        "`lms ps` while the run goes on",
        "run the tests of one model after those of the other (-m, or one run for each model), or load both before "
        "the run",
        symptoms.model_swaps,
    ),
    Row(
        "attempts are cut at one constant time that is not this run's timeout",
        "a proxy or another program between has a limit of its own, such as proxy_read_timeout or an idle timeout",
        "the same request sent straight to the server's own port",
        "raise that limit (nginx: proxy_read_timeout, proxy_buffering off), or point --lmstudio-url straight at the "
        "server",
        symptoms.cut_at_a_foreign_limit,
    ),
    Row(
        "attempts are cut at the run's own timeout, and whole answers come close to it",
        "the model is slower than the timeout allows",
        "time to first token against tokens per second: a long wait is prompt and queue, a slow answer is length",
        "raise LLM_REQUEST_TIMEOUT_MS (--lmstudio-timeout), lower max_tokens, or lower EVAL_CONCURRENCY",
        symptoms.cut_while_the_rest_is_slow,
    ),
    Row(
        "attempts are cut at the run's own timeout, although other answers are quick",
        "single requests hang: a model being loaded, a long prompt before them in the server's queue, a dead stream",
        "the server's log at that time, and the prompts of the tests concerned",
        "load the model before the run, lower EVAL_CONCURRENCY, set max_tokens; a higher timeout only waits longer",
        symptoms.cut_while_the_rest_is_quick,
    ),
    Row(
        "long answers are cut at the run's own timeout while they come",
        "the model generates, but the answer is longer than the timeout allows",
        "tokens per second times the timeout is the longest answer that can be whole",
        "lower max_tokens for these calls, or give their tests more time with @pytest.mark.llm(timeout=...)",
        symptoms.cut_while_answering,
    ),
    Row(
        "more requests are in flight than the server answers at once",
        "the rest waits inside the server, and its waiting eats the timeout",
        "the number of parallel predictions in the model's load settings",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency) to that number, or load the model with more parallel slots",
        symptoms.more_than_the_server_serves,
    ),
    Row(
        "failures grow with the requests in flight",
        "the server is asked for more at once than it can bear",
        "the same tests with --lmstudio-concurrency=1",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency), or let --lmstudio-latency-threshold lower it under load",
        symptoms.grows_with_load,
    ),
    Row(
        "answers are cut in the middle",
        "a proxy that does not pass streams, a server that stopped, or an engine that broke off",
        "the server's log at that time; the same tests with --no-lmstudio-stream",
        "let proxies pass streams unbuffered, set max_tokens so that answers end, and try --no-lmstudio-stream "
        "(LLM_STREAM=0)",
        symptoms.cut_in_the_middle,
    ),
    Row(
        "connections to this machine are cut before an answer begins",
        "security software, another program on the same port, or a server that restarts",
        "which program listens on the port, and the log of the security software",
        "except the port from inspection, or move the server (`lms server start --port`) and --lmstudio-url to "
        "another one",
        symptoms.reset_on_loopback,
    ),
    Row(
        "only long prompts fail",
        "working through the prompt takes longer than the timeout, or more memory than there is",
        "time to first token of the long prompts, and the context length that `lms ps` shows",
        "raise LLM_REQUEST_TIMEOUT_MS for these tests (@pytest.mark.llm(timeout=...)), shorten the prompts, or lower "
        "EVAL_CONCURRENCY",
        symptoms.only_long_prompts,
    ),
    Row(
        "the server fails inside",
        "an error of the server or its engine (HTTP 5xx)",
        "the server's log at that time",
        "update LM Studio and its runtime, load the model anew; with many requests in flight lower EVAL_CONCURRENCY",
        symptoms.errors_of("server_error"),
    ),
    Row(
        "the server asks to slow down",
        "more requests come than it takes",
        "other programs that use the same server",
        "lower EVAL_CONCURRENCY (--lmstudio-concurrency)",
        symptoms.errors_of("rate_limited"),
    ),
    Row(
        "the circuit breaker gave up",
        "the server failed again and again, so remaining calls were failed at once",
        "the other rows here, and the server's log",
        "mend the server first, then run the lost tests again with --lf; LLM_BREAKER (--lmstudio-breaker) sets the "
        "patience",
        symptoms.errors_of("circuit_open"),
    ),
    Row(
        "the answer was not in the offline cache",
        "prompt, parameters, model or pipeline version changed since it was recorded",
        "the error of the test: it says what differs from the nearest entry",
        "record again with --lmstudio-cache=readwrite (LLM_CACHE=readwrite)",
        symptoms.errors_of("cache_miss"),
    ),
    Row(
        "calls were cut by the interrupt",
        "the run was stopped (Ctrl-C, or a time limit of the CI job) before they had answers",
        "whether somebody stopped it, or the job's own time limit did",
        "run again with --lf; give the job more time",
        symptoms.cut_by_the_interrupt,
    ),
    Row(
        "calls ended with the process that made them",
        "a worker crashed or was killed, such as for memory",
        "pytest's own lines about crashed workers, and the system's log",
        "use fewer workers (-n), and find the test that crashes by running it alone with -n0",
        symptoms.cut_by_a_crash,
    ),
    Row(
        "the first request is slow, the others are quick",
        "the model was loaded on demand by the first request",
        "`lms ps` before the run",
        "load the model before the run with `lms load`, and keep it loaded",
        symptoms.slow_first_request,
        hint=True,
    ),
    Row(
        "thinking took all tokens of an answer",
        "the model spent max_tokens on reasoning and had none left for text",
        "reply.reasoning of the tests concerned",
        "raise max_tokens, or turn reasoning off or down for the model",
        symptoms.thinking_took_all,
        hint=True,
    ),
    Row(
        "answers are cut by their length",
        "max_tokens, or the room left in the context, is smaller than the answer",
        "finish_reason of the replies: length",
        "raise max_tokens, ask for shorter answers, or load the model with a larger context",
        symptoms.stopped_by_length,
        hint=True,
    ),
    Row(
        "the pipeline version is not set",
        "cached answers stay valid when the pipeline around the prompts changes, since no version tells them apart",
        "whether anything but prompt and parameters can change the answers",
        "set EVAL_PIPELINE_VERSION (--lmstudio-pipeline-version), such as to a commit id",
        symptoms.unset_version,
        hint=True,
    ),
    Row(
        "the cache is smaller than the suite",
        "it is full of answers that this run or the last one used, so new ones are not stored",
        "the number of different calls in the suite",
        "raise EVAL_CACHE_SIZE (--lmstudio-cache-size) above the number of calls",
        symptoms.cache_too_small,
        hint=True,
    ),
)

HINTS = frozenset(row.symptom for row in ROWS if row.hint)
