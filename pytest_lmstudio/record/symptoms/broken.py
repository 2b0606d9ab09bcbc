"""Answers that break off, connections that are reset, bodies that are no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_lmstudio.record.server_log import strangers_hangups
from pytest_lmstudio.record.stats import median
from pytest_lmstudio.record.symptoms.foreign import foreign_cuts
from pytest_lmstudio.record.symptoms.look import errors_of, latencies_ms, said_in_the_log, told_of
from pytest_lmstudio.record.symptoms.row import Elsewhere, Row, Seen
from pytest_lmstudio.record.symptoms.words import is_lmstudio, load_command, span, times, was

if TYPE_CHECKING:
    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

_LAST_PORT = 65_535


def too_large(evidence: Evidence) -> Seen | None:
    """Detect answers that were given up for their size."""
    found = [a for a in evidence.failures("invalid_response") if _is_too_large(a)]
    return Seen(told_of(found, ("invalid_response",)), found) if found else None


def empty(evidence: Evidence) -> Seen | None:
    """Detect answers that hold nothing at all."""
    found = [a for a in evidence.failures("invalid_response") if _is_empty(a)]
    return Seen(told_of(found, ("invalid_response",)) + said_in_the_log(evidence, "context"), found) if found else None


def no_answer(evidence: Evidence) -> Seen | None:
    """Detect bodies that are no completion, such as a proxy's page."""
    found = [a for a in evidence.failures("invalid_response") if not (_is_too_large(a) or _is_empty(a) or _ended(a))]
    return Seen(told_of(found, ("invalid_response",)), found) if found else None


def cut_in_the_middle(evidence: Evidence) -> Seen | None:
    """Detect answers that broke off after their first byte, unless somebody's clock explains it."""
    known = {id(a) for a in foreign_cuts(evidence)}
    broken = [a for a in evidence.failures("disconnect") if a.phase == "receiving"]
    broken += [a for a in evidence.failures("invalid_response") if _ended(a)]
    cut = [a for a in broken if id(a) not in known]
    if not cut:
        return None
    lasted = latencies_ms(cut)
    after = f", after {span(median(lasted))} (median)" if lasted else ""
    streams, strangers = sum(a.request.get("stream") is True for a in cut), strangers_hangups(evidence)
    log = f"; the server's log has {times(strangers, 'client')} that hung up when this run did not" if strangers else ""
    return Seen(
        f"{len(cut)} of {times(len(evidence.attempts), 'attempt')} broke off{after}; {streams} of them "
        f"{was(streams)} streamed{log}{said_in_the_log(evidence, 'crashed', 'unloads')}",
        cut,
        cause="a program between closed the connections: the server's log shows clients leaving that are not this run"
        if strangers
        else None,
    )


def reset_on_loopback(evidence: Evidence) -> Seen | None:
    """Detect connections to this machine that were cut before the first byte of an answer."""
    url = urlsplit(str(evidence.report["server"]["url"]))
    host = url.hostname or ""
    cut = [a for a in evidence.failures("disconnect") if a.phase in {"connecting", "waiting"}]
    if not cut or not (host in {"localhost", "::1"} or host.startswith("127.")):
        return None
    all_of_them = times(len(evidence.attempts), "attempt")
    return Seen(
        f"{len(cut)} of {all_of_them} to {host} {was(len(cut))} cut before the answer began",
        cut,
        _other_port(evidence, host, url.port or 80),
    )


def reload(evidence: Evidence) -> str | None:
    """Return how to begin anew with the model."""
    if not is_lmstudio(evidence):
        return None
    load = load_command(evidence, evidence.failures("server_error"))
    return f"update LM Studio and its runtime, and load the model anew: `lms unload --all`, then {load}"


def _is_too_large(attempt: AttemptFacts) -> bool:
    return "larger than" in attempt.message


def _is_empty(attempt: AttemptFacts) -> bool:
    return "the answer is empty" in attempt.message


def _ended(attempt: AttemptFacts) -> bool:
    return "ended before" in attempt.message


def _other_port(evidence: Evidence, host: str, port: int) -> str:
    other = port + 1 if port < _LAST_PORT else port - 1
    except_it = f"except port {port} from inspection by security software"
    if not is_lmstudio(evidence):
        return f"{except_it}, or start the server on another one"
    start = f"`lms server start --port {other}`"
    return f"{except_it}; or move the server with {start} and use --lmstudio-url=http://{host}:{other}"


ROWS = (
    Row(
        "answers are larger than the plugin reads",
        "the model repeats itself without end, or something else than a model answers",
        "the end of such an answer, asked for by hand",
        "set max_tokens for these calls (@pytest.mark.llm(max_tokens=1000))",
        too_large,
    ),
    Row(
        "answers come back empty",
        "the prompt fills the context, or the server dropped a request that it had queued",
        "the prompt's length against the context length that `lms ps` shows; the same tests with "
        "--lmstudio-concurrency=1",
        "load the model with a larger context (`lms load --context-length`), or set EVAL_CONCURRENCY=1",
        empty,
        elsewhere=Elsewhere(
            "the prompt's length against the context that the server was started with; the same tests with "
            "--lmstudio-concurrency=1",
            "start the server with a larger context, or set EVAL_CONCURRENCY=1",
        ),
    ),
    Row(
        "what comes back is no answer of a model",
        "a proxy or a login page answers in the server's place, or the server's answer was damaged on its way",
        "the address with /v1/models behind it in a browser",
        "point --lmstudio-url straight at the server",
        no_answer,
    ),
    Row(
        "answers are cut in the middle",
        "a proxy that does not pass streams, a server that stopped, or an engine that broke off",
        "the server's log at that time; the same tests with --no-lmstudio-stream",
        "let proxies pass streams unbuffered, set max_tokens so that answers end, and try --no-lmstudio-stream "
        "(LLM_STREAM=0)",
        cut_in_the_middle,
        view=True,
    ),
    Row(
        "connections to this machine are cut before an answer begins",
        "security software, another program on the same port, or a server that restarts",
        "which program listens on the port, and the log of the security software",
        "except the port from inspection, or move the server (`lms server start --port`) and --lmstudio-url to "
        "another one",
        reset_on_loopback,
        view=True,
        elsewhere=Elsewhere(fix="except the port from inspection, or start the server on another one"),
    ),
    Row(
        "the server fails inside",
        "an error of the server or its engine (HTTP 5xx)",
        "the server's log at that time",
        "update LM Studio and its runtime, load the model anew; with many requests in flight lower EVAL_CONCURRENCY",
        errors_of("server_error", fix=reload, log=("crashed", "out_of_memory")),
        view=True,
        elsewhere=Elsewhere(
            fix="update the server, and start it anew; with many requests in flight lower EVAL_CONCURRENCY"
        ),
    ),
)
