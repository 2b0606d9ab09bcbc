"""Every way in which a server can fail gives the right kind and phase, whether the answer streams or not."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import response as room
from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, get_json
from pytest_lmstudio.engine.transport import Transport
from tests.standin import (
    StandIn,
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
    huge,
    invalid_utf8,
    length_thinking,
    loading_503,
    rate_limit,
    raw,
    redirect,
    reply,
    reset_before_headers,
    split_packets,
    stall_after_headers,
    status,
    stream_error,
    tool_call,
    unexpected_endpoint,
    wrong_model,
)
from tests.standin.faults import TALK
from tests.unit.engine.attempts import attempts, told

if TYPE_CHECKING:
    from tests.standin import Step

pytestmark = pytest.mark.timeout(30)

HEAD = b"HTTP/1.1 200 OK\r\n"
EVENTS = HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
EMPTY = HEAD + b"Content-Length: 0\r\n\r\n"

#: What the server does; what comes of it when the answer streams; and else, where that differs.
FAULTS: list[tuple[Step, str, str | None]] = [
    (reset_before_headers(), "disconnect waiting", None),
    (close_before_headers(), "disconnect waiting", None),
    (cut_after_headers(), "disconnect waiting", None),
    (cut_after_headers(reset=True), "disconnect waiting", None),
    (cut_body(), "disconnect receiving", None),
    (cut_body(reset=True), "disconnect receiving", None),
    (cut_after_delta(2), "disconnect receiving", None),
    (cut_after_delta(2, reset=True), "disconnect receiving", None),
    (cut_after_delta(2, clean=True), "invalid_response receiving", "disconnect receiving"),
    (cut_mid_event(), "disconnect receiving", None),
    (raw(b"\0\1 no HTTP\r\n\r\n"), "disconnect waiting", None),
    (raw(HEAD + b"Content-Ty"), "disconnect waiting", None),
    (raw(EVENTS + b"zz\r\n"), "disconnect waiting", None),
    (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "server_error receiving", None),
    (garbage(), "invalid_response receiving", None),
    (invalid_utf8(), "invalid_response receiving", None),
    (empty(), "invalid_response receiving", None),
    (empty_stream(), "invalid_response receiving", None),
    (wrong_model("other"), "wrong_model receiving", None),
    (auth_401(), "auth receiving", None),
    (status(403), "auth receiving", None),
    (status(404), "wrong_url receiving", None),
    (status(408), "timeout receiving", None),
    (status(501), "bad_request receiving", None),
    (status(502), "server_error receiving", None),
    (status(503), "server_error receiving", None),
    (status(504), "timeout receiving", None),
    (html_500(), "server_error receiving", None),
    (status(200, {"error": "what?"}), "server_error receiving", None),
    (rate_limit(), "rate_limited receiving", None),
    (rate_limit(1, code=503), "rate_limited receiving", None),
    (loading_503(), "server_error receiving", None),
    (error_string(400, "what?"), "bad_request receiving", None),
    (error_object(422, "what?"), "bad_request receiving", None),
    (unexpected_endpoint(), "wrong_url receiving", None),
    (stream_error(), "context_overflow receiving", None),
    (stream_error(after_tokens=2), "context_overflow receiving", None),
    (stream_error(after_tokens=2, done=True), "context_overflow receiving", None),
    (engine_error(after_tokens=1), "bad_request receiving", None),
    (crash(), "model_lost receiving", None),
    (crash("Model unloaded."), "model_lost receiving", None),
    (redirect("/v1/elsewhere"), "wrong_url receiving", None),
    (cut_before_done(), TALK, None),
    (length_thinking(), "no text", None),
    (reply("", tool_calls=[tool_call("f")]), "no text", None),
    (reply("fine"), "fine", None),
    (wrong_model("test-model:2", "a copy"), "a copy", None),
    (wrong_model("TEST-MODEL@q4_k_m", "a variant"), "a variant", None),
    (gzip(), "compressed answer", None),
    (split_packets(), "smørrebrød 寿司 🍣 done", None),
    (gzip(cut_after_delta(2, clean=True)), "invalid_response receiving", "disconnect receiving"),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("step", "streamed", "whole"), FAULTS, ids=[f"{n}-{s.name}" for n, (s, *_) in enumerate(FAULTS)]
)
def test_every_fault_has_its_kind_and_phase(step: Step, streamed: str, whole: str | None, *, stream: bool) -> None:
    with StandIn() as server:
        server.script(step)
        [outcome] = attempts(server.url, stream=stream)
        assert len(server.requests) == 1
    assert told(outcome) == (streamed if stream or whole is None else whole)
    assert outcome.stale_reconnects == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("data", [EMPTY, GZIP], ids=["nothing", "no gzip"])
def test_a_body_that_is_none_is_no_answer(data: bytes, *, stream: bool) -> None:
    with StandIn() as server:
        server.script(raw(data))
        [outcome] = attempts(server.url, stream=stream)
    assert isinstance(outcome, AttemptFailed)
    assert (outcome.failure.kind, outcome.failure.status) == ("invalid_response", 200)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("step", "phase"),
    [
        (hang(), "waiting"),
        (reply("slow", prefill_s=30.0), "waiting"),
        (stall_after_headers(), "waiting"),
        (drip(0.01), "receiving"),
        (endless_stream(), "receiving"),
    ],
    ids=["hang", "prefill", "stall_after_headers", "drip", "endless_stream"],
)
def test_the_hard_limit_holds_however_bytes_come(step: Step, phase: str, *, stream: bool) -> None:
    with StandIn() as server:
        server.strict = False
        server.script(step)
        [outcome] = attempts(server.url, stream=stream, timeout_s=0.2)
        server.wait_for(lambda: server.in_flight == 0)
        assert [request.outcome for request in server.requests] == ["aborted"]
    assert isinstance(outcome, AttemptFailed)
    failure = outcome.failure
    assert (failure.kind, failure.phase, failure.limit) == ("timeout", phase, "attempt")
    assert failure.message == "0.2 s passed before the answer was whole"
    assert 200 <= outcome.latency_ms < 5000


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_answer_of_33_mib_is_refused(*, stream: bool) -> None:
    with StandIn() as server:
        server.script(huge(33 * 2**20))
        [outcome] = attempts(server.url, stream=stream, timeout_s=25)
    assert isinstance(outcome, AttemptFailed)
    assert (outcome.failure.kind, outcome.failure.message) == (
        "invalid_response",
        "the answer is larger than 32 MiB",
    )


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_the_limit_of_size_is_that_of_the_unpacked_answer(monkeypatch: pytest.MonkeyPatch, *, stream: bool) -> None:
    monkeypatch.setattr(room, "MOST_ANSWER_BYTES", 2**20)
    with StandIn() as server:
        server.script(gzip(huge(2**21)), gzip(huge(2**19)))
        refused, taken = attempts(server.url, 2, stream=stream)
    assert told(refused) == "invalid_response receiving"
    assert told(taken) == "x" * 2**19


def test_times_and_pieces_are_those_of_a_stream_and_none_of_a_whole_answer() -> None:
    pieces: list[str] = []
    with StandIn() as server:
        server.default = reply("one two three", delay_s=0.05)
        [streamed] = attempts(server.url, on_piece=pieces.append)
        assert pieces == ["one", " two", " three"]
        [whole] = attempts(server.url, stream=False, on_piece=pieces.append)
    assert pieces[3:] == ["one two three"]
    assert isinstance(streamed, Answer)
    assert isinstance(whole, Answer)
    assert streamed.pieces == (3, 4, 6)
    assert streamed.ttft_ms is not None
    assert 50 <= streamed.ttft_ms <= streamed.latency_ms
    assert (whole.pieces, whole.ttft_ms) == ((), None)


@pytest.mark.parametrize("name", ["refused", "unknown name"])
def test_without_a_connection_nothing_was_sent(name: str) -> None:
    with StandIn() as server:
        server.stop()
        [outcome] = attempts(server.url if name == "refused" else "http://nowhere.invalid:1")
    assert told(outcome) == "connect connecting"


def test_tls_with_a_server_that_has_none_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak_plainly, args=(listener,))
        thread.start()
        [outcome] = attempts(f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert told(outcome) == "connect connecting"


def speak_plainly(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_list_is_asked_for_over_one_connection_again_and_again() -> None:
    async def ask(url: str) -> list[int]:
        transport = Transport(url, None)
        codes = [(await get_json(transport, "/v1/models", 5.0))[0] for _ in range(4)]
        await transport.close()
        return codes

    with StandIn() as server:
        assert asyncio.run(ask(server.url)) == [200] * 4
        assert {seen.connection for seen in server.all_requests} == {1}
