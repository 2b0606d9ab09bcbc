"""Every kind of error through the whole plugin, streamed and not: kind, category, outcome, requests sent."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_lmstudio.errors import KINDS, ErrorKind
from tests.standin import (
    auth_401,
    close_before_headers,
    crash,
    cut_after_delta,
    cut_after_headers,
    cut_before_done,
    cut_body,
    cut_mid_event,
    drip,
    empty,
    empty_stream,
    endless_stream,
    engine_error,
    error_object,
    error_string,
    garbage,
    gzip,
    hang,
    html_500,
    invalid_utf8,
    length_thinking,
    loading_503,
    rate_limit,
    redirect,
    reply,
    reset_before_headers,
    split_packets,
    stall_after_headers,
    status,
    stream_error,
    unexpected_endpoint,
    wrong_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.suite import Ran, Suite
    from tests.standin import Received, Step

QUOTED = "Why does it say Model unloaded. when I ask?"
NOT_FOUND = 'Model "nobody" not found. Please specify a valid model.'
NO_MEMORY = "Model loading was stopped due to insufficient system resources."


class Fault(NamedTuple):
    """What a server does to a request, and the kind of error that is; `whole` where a body that comes whole differs."""

    step: Step
    kind: str
    whole: str = ""
    once: bool = False  # not tried again although its kind would be


FAULTS = {
    "401": Fault(auth_401(), "auth"),
    "403": Fault(status(403), "auth"),
    "hang": Fault(hang(), "timeout"),
    "stall": Fault(stall_after_headers(), "timeout"),
    "drip": Fault(drip(), "timeout"),
    "endless": Fault(endless_stream(), "timeout"),
    "408": Fault(status(408), "timeout"),
    "504": Fault(status(504, "<h1>504 Gateway Time-out</h1>"), "timeout"),
    "reset": Fault(reset_before_headers(), "disconnect"),
    "close": Fault(close_before_headers(), "disconnect"),
    "cut after head": Fault(cut_after_headers(), "disconnect"),
    "reset after head": Fault(cut_after_headers(reset=True), "disconnect"),
    "cut after delta": Fault(cut_after_delta(2), "disconnect"),
    "reset after delta": Fault(cut_after_delta(2, reset=True), "disconnect"),
    "cut in event": Fault(cut_mid_event(), "disconnect"),
    "cut in body": Fault(cut_body(), "disconnect"),
    "429": Fault(rate_limit(), "rate_limited"),
    "429 with a time": Fault(rate_limit(0), "rate_limited"),
    "429 with too long a time": Fault(rate_limit(121), "rate_limited", once=True),
    "503 with a time": Fault(rate_limit(0, code=503), "rate_limited"),
    "500": Fault(html_500(), "server_error"),
    "502": Fault(status(502, "<h1>502 Bad Gateway</h1>"), "server_error"),
    "503": Fault(status(503), "server_error"),
    "503 loading": Fault(loading_503(), "server_error"),
    "crash": Fault(crash(), "model_lost"),
    "unloaded": Fault(error_string(400, "Model unloaded."), "model_lost"),
    "reloaded": Fault(stream_error("Model reloaded."), "model_lost"),
    "garbage": Fault(garbage(), "invalid_response"),
    "no utf-8": Fault(invalid_utf8(), "invalid_response"),
    "empty": Fault(empty(), "invalid_response"),
    "empty stream": Fault(empty_stream(), "invalid_response"),
    "ends early": Fault(cut_after_delta(2, clean=True), "invalid_response", whole="disconnect"),
    "overflow": Fault(stream_error(), "context_overflow"),
    "overflow alone": Fault(engine_error(500, "Context size has been exceeded."), "context_overflow"),
    "no memory": Fault(error_string(400, NO_MEMORY), "out_of_memory"),
    "not found": Fault(error_object(404, NOT_FOUND, code_="model_not_found"), "no_model"),
    "other model": Fault(wrong_model("another-model"), "wrong_model"),
    "400": Fault(error_object(400, "'temperature' must be a number"), "bad_request"),
    "422": Fault(status(422), "bad_request"),
    QUOTED: Fault(error_string(400, f"Cannot make sense of {QUOTED!r}"), "bad_request"),
    "501": Fault(status(501), "bad_request"),
    "template": Fault(engine_error(), "bad_request"),
    "unknown route": Fault(unexpected_endpoint(), "wrong_url"),
    "404": Fault(status(404, "<pre>Cannot POST /v1/chat/completions</pre>"), "wrong_url"),
    "redirect": Fault(redirect("http://127.0.0.1:9/elsewhere"), "wrong_url"),
}
ANSWERS = {
    "no done": cut_before_done("whole"),
    "compressed": gzip(),
    "split": split_packets(),
    "thinking alone": reply("", "hm"),
    "thinking to the end": length_thinking(),
    "second instance": wrong_model("test-model:2"),
    "quantization": wrong_model("test-model@q4_k_m"),
}
SUITE = """
    import pytest
    SLOW = {{"hang", "stall", "drip", "endless"}}
    @pytest.mark.parametrize("fault", {names!r}, ids=str)
    def test_it(lm, fault):
        lm(fault, **({{"timeout": 0.25}} if fault in SLOW else {{}}))
"""
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def run(suite: Suite, names: list[str], *, stream: bool) -> Ran:
    suite.write(SUITE.format(names=names))
    how = "--lmstudio-stream" if stream else "--no-lmstudio-stream"
    return suite.run("-n0", how, "--lmstudio-retries=1", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%")


def by_fault(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the events of each fault."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(str(event["nodeid"]).partition("[")[2].removesuffix("]"), []).append(event)
    return found


def every_time(name: str) -> Callable[[Received], bool]:
    """Return a predicate that fits each request with this prompt."""
    return lambda received: received.text == name


def first_time(name: str) -> Callable[[Received], bool]:
    """Return a predicate that fits the first request with this prompt."""
    seen: list[Received] = []

    def fits(received: Received) -> bool:
        if received.text != name:
            return False
        seen.append(received)
        return len(seen) == 1

    return fits


@BOTH
def test_each_fault_that_stays_is_of_its_kind(suite: Suite, stream: bool) -> None:
    for name, fault in FAULTS.items():
        suite.server.when(every_time(name), fault.step)
    ran = run(suite, list(FAULTS), stream=stream)
    errors = by_fault(ran.named("gen_error"))
    sent = Counter(request.text for request in suite.server.requests)
    for name, fault in FAULTS.items():
        kind = ErrorKind(fault.kind if stream else fault.whole or fault.kind)
        attempts = 2 if KINDS[kind].retried and not fault.once else 1
        seen = [(error["error_kind"], error["error_category"], error["attempt"]) for error in errors[name]]
        assert (name, seen) == (name, [(kind, KINDS[kind].category, n + 1) for n in range(attempts)])
        stale = sum(error["stale_reconnects"] for error in errors[name])
        assert (name, sent[name]) == (name, attempts + stale)
    lost = sum(KINDS[ErrorKind(f.kind)].category == "network" for f in FAULTS.values())
    assert ran.outcomes == {"lm_error": lost, "failed": len(FAULTS) - lost}
    assert ran.report["attempts"]["stale_reconnects"] + ran.report["attempts"]["total"] == len(suite.server.requests)


@BOTH
def test_a_fault_that_passes_is_retried_where_that_helps(suite: Suite, stream: bool) -> None:
    for name, fault in FAULTS.items():
        suite.server.when(first_time(name), fault.step)
    ran = run(suite, list(FAULTS), stream=stream)
    kinds = {name: KINDS[ErrorKind(fault.kind)] for name, fault in FAULTS.items()}
    outcome = Counter(
        "passed" if kinds[name].retried and not fault.once else "lm_error" if fault.once else "failed"
        for name, fault in FAULTS.items()
    )
    assert ran.outcomes == outcome


@BOTH
def test_odd_answers_are_answers(suite: Suite, stream: bool) -> None:
    for name, step in ANSWERS.items():
        suite.server.when(every_time(name), step)
    ran = run(suite, list(ANSWERS), stream=stream)
    assert ran.outcomes == {"passed": len(ANSWERS)}
    assert ran.report["attempts"] == {
        "total": len(ANSWERS), "ok": len(ANSWERS), "failed": 0, "retries": 0, "disconnects": 0, "stale_reconnects": 0,
    }  # fmt: skip
