"""Each fault of the stand-in server does on the wire what it says."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

import tests.standin as lm
from tests.standin import StandIn, Step
from tests.standin.probe import CHAT, post, stream_of
from tests.standin.steps import split_bytes

HEAD = b"HTTP/1.1 200 OK\r\n"


class Wire(NamedTuple):
    """What one request on a socket of its own brought: head, the rest of the bytes, and how the connection ended."""

    head: bytes
    rest: bytes
    end: str


def send(client: socket.socket, *, stream: bool) -> None:
    body = json.dumps({"stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def talk(step: Step, *, stream: bool) -> Wire:
    """Return all that a client sees of a step until the connection ends."""
    with StandIn(keep_alive_s=0.05) as server:
        server.script(step)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            send(client, stream=stream)
            received, end = b"", "fin"
            try:
                while data := client.recv(65536):
                    received += data
            except ConnectionResetError:
                end = "reset"
    head, _, rest = received.partition(b"\r\n\r\n")
    return Wire(head + b"\r\n" if head else b"", rest, end)


def ask(step: Step, *, stream: bool = False, read_s: float = 10.0, **body: Any) -> httpx.Response:
    with StandIn() as server:
        server.script(step)
        messages = [{"role": "user", "content": "hi"}]
        return post(server.url + CHAT, json={"stream": stream, "messages": messages, **body}, timeout=read_s)


# -- connections that end --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("step", "end"), [(lm.reset_before_headers(), "reset"), (lm.close_before_headers(), "fin")])
def test_a_cut_before_headers_brings_no_byte(step: Step, end: str, stream: bool) -> None:
    assert talk(step, stream=stream) == (b"", b"", end)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_a_cut_after_headers_brings_the_head_alone(reset: bool, stream: bool) -> None:
    wire = talk(lm.cut_after_headers(reset=reset), stream=stream)
    assert wire.head.startswith(HEAD)
    assert (wire.rest, wire.end) == (b"", "reset" if reset else "fin")


@pytest.mark.parametrize("n", [1, 3])
def test_a_cut_after_deltas_leaves_the_body_unterminated(n: int) -> None:
    wire = talk(lm.cut_after_delta(n), stream=True)
    assert wire.rest.count(b"data: ") == n
    assert wire.rest.endswith(b"\n\n\r\n")
    assert wire.end == "fin"


def test_a_clean_cut_after_deltas_ends_the_body_without_a_finish() -> None:
    wire = talk(lm.cut_after_delta(2, clean=True), stream=True)
    assert wire.rest.endswith(b"\n\n\r\n0\r\n\r\n")
    assert b'"finish_reason":"' not in wire.rest


def test_a_cut_in_an_event_leaves_half_a_line() -> None:
    wire = talk(lm.cut_mid_event(), stream=True)
    assert wire.rest.count(b"data: ") == 2
    with pytest.raises(json.JSONDecodeError):
        json.loads(wire.rest.rpartition(b"data: ")[2])


@pytest.mark.parametrize("step", [lm.cut_body(), lm.cut_mid_event(), lm.cut_after_delta(2)])
def test_a_cut_body_is_half_as_long_as_announced(step: Step) -> None:
    wire = talk(step, stream=False)
    announced = int(wire.head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    assert (len(wire.rest), wire.end) == (announced // 2, "fin")


def test_a_cut_before_done_has_a_finish_and_a_proper_end() -> None:
    response = ask(lm.cut_before_done("a b"), stream=True)
    assert response.text.count('"finish_reason":"stop"') == 1
    assert "[DONE]" not in response.text
    assert ask(lm.cut_before_done("a b")).json()["choices"][0]["message"]["content"] == "a b"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stale_connection_is_closed_only_when_it_is_reused(stream: bool) -> None:
    with StandIn() as server:
        server.script(lm.stale_keep_alive(lm.reply("fresh")), lm.stale_keep_alive())
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            send(client, stream=stream)
            first = client.recv(65536)
            while not first.endswith((b"0\r\n\r\n", b"\n}")):
                first += client.recv(65536)
            send(client, stream=stream)
            assert client.recv(65536) == b""
    assert b"fresh" in first
    assert [(r.reused, r.step, r.outcome) for r in server.requests] == [
        (False, "reply", "answered"),
        (True, "stale_keep_alive", "fault"),
    ]


@pytest.mark.parametrize(
    ("step", "stream", "error", "text"),
    [
        (lm.reset_before_headers(), True, httpx.ReadError, None),
        (lm.close_before_headers(), False, httpx.RemoteProtocolError, "without sending a response"),
        (lm.cut_after_headers(), True, httpx.RemoteProtocolError, "incomplete chunked read"),
        (lm.cut_after_delta(1, reset=True), True, httpx.ReadError, None),
        (lm.cut_mid_event(), True, httpx.RemoteProtocolError, "incomplete chunked read"),
        (lm.cut_body(), False, httpx.RemoteProtocolError, "peer closed connection"),
        (lm.raw(b"NOT HTTP\r\n\r\n"), False, httpx.RemoteProtocolError, "illegal status line"),
    ],
)
def test_httpx_sees_a_broken_connection(step: Step, stream: bool, error: type[Exception], text: str | None) -> None:
    with pytest.raises(error, match=text):
        ask(step, stream=stream)


# -- answers that never come to an end -------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("step", [lm.hang(), lm.stall_after_headers()])
def test_silence_lasts_until_the_client_leaves(step: Step, stream: bool) -> None:
    with StandIn() as server:
        server.script(step)
        with pytest.raises(httpx.ReadTimeout):
            post(server.url + CHAT, json={"stream": stream}, timeout=0.1)
        server.wait_for(lambda: server.in_flight == 0)
        assert (server.requests[0].outcome, server.busy) == ("aborted", 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("step", [lm.drip(0.001), lm.endless_stream(0.001)])
def test_an_endless_answer_keeps_coming_until_the_client_leaves(step: Step, stream: bool) -> None:
    with StandIn() as server:
        server.script(step)
        with stream_of("POST", server.url + CHAT, json={"stream": stream}, timeout=10) as response:
            pieces = response.iter_raw(chunk_size=1 if step.name == "drip" else 20)
            start = b"".join(next(pieces) for _ in range(30))
        server.wait_for(lambda: server.in_flight == 0)
        assert server.requests[0].outcome == "aborted"
    assert start.startswith(b'data: {"id":"' if stream else b" " * 30 if step.name == "drip" else b'{\n  "id"')


def test_an_upgrade_to_http_2_hangs() -> None:
    with StandIn() as server, pytest.raises(httpx.ReadTimeout):
        post(server.url + CHAT, json={}, headers={"Upgrade": "h2c"}, timeout=0.1)


# -- errors in words -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("step", "code", "body"),
    [
        (lm.status(504, "gateway"), 504, "gateway"),
        (lm.error_string(400, "Model unloaded."), 400, '{"error":"Model unloaded."}'),
        (
            lm.error_object(400, "Bad.", param="model", code_="invalid_value"),
            400,
            '{"error":{"message":"Bad.","type":"invalid_request_error","param":"model","code":"invalid_value"}}',
        ),
        (lm.unexpected_endpoint(), 200, '{"error":"Unexpected endpoint or method. (POST /v1/chat/completions)"}'),
        (
            lm.loading_503(),
            503,
            '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        ),
        (lm.status(200, b"<p>"), 200, "<p>"),
    ],
)
def test_an_error_in_words_is_the_same_with_and_without_a_stream(
    step: Step, code: int, body: str, stream: bool
) -> None:
    response = ask(step, stream=stream)
    assert (response.status_code, response.text) == (code, body)


def test_errors_carry_their_headers() -> None:
    assert ask(lm.rate_limit(retry_after=7)).headers["retry-after"] == "7"
    assert "retry-after" not in ask(lm.rate_limit()).headers
    assert ask(lm.redirect("http://127.0.0.1:1/v1")).headers["location"] == "http://127.0.0.1:1/v1"
    page = ask(lm.html_500())
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert "<pre>Internal Server Error</pre>" in page.text
    assert ask(lm.auth_401()).json()["error"]["code"] == "invalid_api_key"


def test_a_stream_error_is_an_event_after_good_deltas_and_no_done() -> None:
    text = ask(lm.stream_error("Compute error.", after_tokens=2), stream=True, max_tokens=1).text
    assert text.count('"content":"') == 2
    assert text.endswith('event: error\ndata: {"error":{"message":"Compute error."},"message":"Compute error."}\n\n')
    whole = ask(lm.stream_error("Compute error."))
    assert (whole.status_code, whole.text) == (400, '{"error":"Compute error."}')


def test_an_engine_error_is_json_inside_a_string() -> None:
    step = lm.engine_error(500, "Context size has been exceeded.", type="server_error")
    inner = '{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}'
    assert ask(step).json() == {"error": f"Engine protocol predict request returned 500: {inner}"}
    event = json.loads(ask(step, stream=True).text.partition("data: ")[2])
    assert event["message"] == f"Engine protocol predict stream returned an error: {inner}"


def test_a_crash_ends_every_request_in_flight() -> None:
    with StandIn() as server, ThreadPoolExecutor(3) as pool:
        server.script(lm.hang(), lm.reply("a b", per_token_s=3600), lm.crash("Model unloaded.", away_s=None))
        hanging = pool.submit(post, server.url + CHAT, json={"stream": False})
        server.wait_for(lambda: server.in_flight == 1)
        streaming = pool.submit(post, server.url + CHAT, json={"stream": True})
        server.wait_for(lambda: server.in_flight == 2)
        crashing = post(server.url + CHAT, json={})
        event = 'event: error\ndata: {"error":{"message":"Model unloaded."},"message":"Model unloaded."}\n\n'
        assert (hanging.result().status_code, hanging.result().text) == (400, '{"error":"Model unloaded."}')
        assert (streaming.result().status_code, streaming.result().text) == (200, event)
        assert (crashing.status_code, crashing.text) == (400, '{"error":"Model unloaded."}')
        assert server.models[0].loaded is False


def test_a_lost_model_may_come_back_by_itself() -> None:
    with StandIn() as server:
        server.script(lm.crash(away_s=0.05))
        assert post(server.url + CHAT, json={}).status_code == 400
        server.wait_for(lambda: server.models[0].loaded)


# -- odd successes ---------------------------------------------------------------------------------


def test_odd_successes_look_as_they_do_in_lm_studio() -> None:
    nothing = ask(lm.empty()).json()
    assert nothing["choices"][0]["message"]["content"] == ""
    assert nothing["usage"]["completion_tokens"] == 0
    assert ask(lm.empty_stream(), stream=True).text == "data: [DONE]\n\n"
    assert ask(lm.wrong_model("other-model")).json()["model"] == "other-model"
    thinking = ask(lm.length_thinking("hm hm")).json()["choices"][0]
    assert (thinking["message"]["content"], thinking["message"]["reasoning_content"]) == ("", "hm hm")
    assert thinking["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_garbage_and_broken_utf_8_come_with_status_200(stream: bool) -> None:
    garbage, broken = ask(lm.garbage(b"{oops"), stream=stream), ask(lm.invalid_utf8(), stream=stream)
    assert (garbage.status_code, broken.status_code) == (200, 200)
    assert garbage.content == (b"data: {oops\n\ndata: [DONE]\n\n" if stream else b"{oops")
    assert b'"caf\xe9 \xff\xfe"' in broken.content
    with pytest.raises(UnicodeDecodeError):
        broken.content.decode()


@pytest.mark.parametrize("stream", [True, False])
def test_a_huge_answer_arrives_whole(stream: bool) -> None:
    parts = re.findall("x{40,}", ask(lm.huge(1_000_000), stream=stream).text)
    assert [len(part) for part in parts] == ([65536] * 15 + [16960] if stream else [1_000_000])


@pytest.mark.parametrize("stream", [True, False])
def test_split_packets_and_gzip_carry_the_same_answer(stream: bool) -> None:
    inner = lm.reply("smørrebrød 寿司 🍣")
    plain, split, packed = (ask(step, stream=stream) for step in (inner, lm.split_packets(inner), lm.gzip(inner)))
    same = [_without_id(response) for response in (plain, split, packed)]
    assert same[0] == same[1] == same[2]
    assert packed.headers["content-encoding"] == "gzip"
    assert "🍣" in split.text


def _without_id(response: httpx.Response) -> str:
    text = response.text
    start = text.index("chatcmpl-")
    created = text.index('"created":')
    return text.replace(text[start : start + 30], "ID").replace(text[created : created + 21], "CREATED")


def test_pieces_end_inside_characters() -> None:
    data = ("aé🍣 " * 40).encode()
    pieces = split_bytes(data)
    assert b"".join(pieces) == data
    assert sum(piece[-1] >= 0xC0 for piece in pieces) == 80
