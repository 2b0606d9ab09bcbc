"""The stand-in server answers, lists, loads, queues and logs as LM Studio does."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin import Model, Received, StandIn, embedding, hang, reply, status, tool_call, vector
from tests.standin.http1 import BadRequestError, parse_request

CHAT = "/v1/chat/completions"
LEFT = "Client disconnected. Stopping generation... (If the model is busy processing the prompt, it will finish first.)"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one that took no time to load certificates
get = partial(httpx.get, verify=NO_TLS, trust_env=False)
post = partial(httpx.post, verify=NO_TLS, trust_env=False)
stream_of = partial(httpx.stream, verify=NO_TLS, trust_env=False)


def ask(server: StandIn, text: str = "hi", path: str = CHAT, **more: Any) -> httpx.Response:
    body = {"model": "test-model", "messages": [{"role": "user", "content": text}], **more}
    return post(server.url + path, json=body)


def events(response: httpx.Response) -> list[Any]:
    """Return what a stream's ``data:`` lines hold, ``[DONE]`` as a str."""
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def choices(response: httpx.Response) -> list[tuple[Any, Any]]:
    found = [event["choices"] for event in events(response)[:-1]]
    return [(choice[0]["delta"], choice[0]["finish_reason"]) for choice in found if choice]


def leave(server: StandIn, body: dict[str, Any] | None = None) -> socket.socket:
    """Send a chat request on a socket of its own and return it, for the caller to close."""
    data = json.dumps(body or {"model": "test-model"}).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data))
    return client


# -- answers ---------------------------------------------------------------------------------------


def test_a_body_has_every_field_in_lm_studios_order_and_two_blanks_of_indent() -> None:
    with StandIn() as server:
        response = ask(server, "say hi", temperature=0)
    body = response.json()
    assert response.text == json.dumps(body, indent=2)
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    message = {"role": "assistant", "content": "echo: say hi", "reasoning_content": "", "tool_calls": []}
    counts = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert body == {
        "object": "chat.completion",
        "model": "test-model",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {**counts, "completion_tokens_details": {"reasoning_tokens": 0}},
        "stats": {},
        "system_fingerprint": "test-model",
    }


def test_heads_are_those_of_express() -> None:
    with StandIn() as server:
        body, stream = ask(server).headers, ask(server, stream=True).headers
    assert [*body] == ["x-powered-by", "content-type", "content-length", "etag", "date", "connection", "keep-alive"]
    assert body["content-type"] == "application/json; charset=utf-8"
    assert body["keep-alive"] == "timeout=5"
    assert stream["content-type"] == "text/event-stream"
    assert stream["transfer-encoding"] == "chunked"
    assert "content-length" not in stream


def test_a_stream_is_one_delta_a_word_an_empty_one_a_finish_and_done() -> None:
    with StandIn() as server:
        server.script(reply("Hello there", reasoning="so ok"))
        response = ask(server, stream=True)
    assert choices(response) == [
        ({"role": "assistant", "reasoning_content": "so"}, None),
        ({"reasoning_content": " ok"}, None),
        ({"content": "Hello"}, None),
        ({"content": " there"}, None),
        ({"content": ""}, None),
        ({}, "stop"),
    ]
    assert events(response)[-1] == "[DONE]"
    assert all("usage" not in event for event in events(response)[:-1])


def test_the_usage_event_comes_only_when_asked_for() -> None:
    with StandIn() as server:
        response = ask(server, "a b", stream=True, stream_options={"include_usage": True})
    last = events(response)[-2]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


def test_a_tool_call_streams_as_two_fragments() -> None:
    with StandIn() as server:
        server.script(reply("", tool_calls=[tool_call("get_weather", '{"city":"Paris"}', id="456579262")]))
        response = ask(server, stream=True)
    opening = {"index": 0, "id": "456579262", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "type": "function", "function": {"arguments": '{"city":"Paris"}'}}
    assert choices(response) == [
        ({"role": "assistant", "tool_calls": [opening]}, None),
        ({"tool_calls": [rest]}, None),
        ({}, "tool_calls"),
    ]


@pytest.mark.parametrize(("limit", "content", "reasoning"), [(3, "a", "x y"), (1, "", "x"), (9, "a b c", "x y")])
def test_max_tokens_is_spent_on_thinking_first(limit: int, content: str, reasoning: str) -> None:
    with StandIn() as server:
        server.default = reply("a b c", reasoning="x y")
        body = ask(server, max_tokens=limit).json()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (content, reasoning)
    assert choice["finish_reason"] == ("stop" if limit == 9 else "length")
    assert body["usage"]["completion_tokens"] == (5 if limit == 9 else limit - 1)


def test_embeddings_are_the_same_for_the_same_text() -> None:
    with StandIn(models=[Model("embed", type="embedding")]) as server:
        body = post(server.url + "/v1/embeddings", json={"model": "embed", "input": ["a", "b", "a"]}).json()
        server.script(embedding(dimensions=3))
        short = post(server.url + "/v1/embeddings", json={"input": "a"}).json()
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    assert [row["embedding"] for row in body["data"]] == [vector("a"), vector("b"), vector("a")]
    assert body["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert short["data"][0]["embedding"] == vector("a", 3)


def test_the_older_route_adds_statistics_and_a_text_completion_has_text() -> None:
    with StandIn() as server:
        old = ask(server, path="/api/v0/chat/completions").json()
        plain = post(server.url + "/v1/completions", json={"prompt": "once"}).json()
    assert old["model_info"] == {"arch": "llama", "quant": "Q4_K_M", "format": "gguf", "context_length": 8192}
    assert old["stats"]["stop_reason"] == "eosFound"
    assert (plain["object"], plain["choices"][0]["text"]) == ("text_completion", "echo: once")


# -- models and routes -----------------------------------------------------------------------------


def test_models_are_listed_in_three_ways() -> None:
    models = [Model("a"), Model("b", loaded=False), Model("e", type="embedding", quantization=None)]
    with StandIn(models=models) as server:
        openai, v0, v1 = (get(server.url + p).json() for p in ("/v1/models", "/api/v0/models", "/api/v1/models"))
    assert openai["data"][0] == {"id": "a", "object": "model", "owned_by": "organization_owner"}
    assert [row["id"] for row in openai["data"]] == ["a", "b", "e"]
    assert [(row["type"], row["state"]) for row in v0["data"]] == [
        ("llm", "loaded"),
        ("llm", "not-loaded"),
        ("embeddings", "loaded"),
    ]
    assert ["loaded_context_length" in row for row in v0["data"]] == [True, False, True]
    config = {"context_length": 8192, "parallel": 4}
    assert [row["loaded_instances"] for row in v1["models"]] == [
        [{"id": "a", "config": config}],
        [],
        [{"id": "e", "config": config}],
    ]
    assert [row["quantization"] for row in v1["models"]][1:] == [{"name": "Q4_K_M", "bits_per_weight": 4}, None]


@pytest.mark.parametrize(("api", "seen"), [("v1", [200, 200, 200]), ("v0", [200, 200, 0]), ("openai", [200, 404, 404])])
def test_the_age_of_the_server_decides_on_its_routes(api: Any, seen: list[int]) -> None:
    with StandIn(api=api) as server:
        answers = [get(server.url + path) for path in ("/v1/models", "/api/v0/models", "/api/v1/models")]
    assert [0 if "Unexpected" in answer.text else answer.status_code for answer in answers] == seen


def test_an_unknown_route_is_answered_200_and_fails_the_test() -> None:
    server = StandIn()
    server.start()
    response = ask(server, path="/chat/completions")
    with pytest.raises(AssertionError, match=r"nobody expects: POST /chat/completions$"):
        server.__exit__(None, None, None)
    assert response.text == '{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
    assert (response.status_code, len(response.content)) == (200, 67)
    assert server.log.endswith("Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway")


def test_a_route_that_the_test_expects_is_no_surprise() -> None:
    with StandIn() as server:
        server.expected.add("GET /health")
        get(server.url + "/health")
    assert server.unexpected == []


@pytest.mark.parametrize(
    ("models", "wanted", "code", "told"),
    [
        ([Model("a")], "zzz", 200, '"model": "a"'),
        ([Model("a")], None, 200, '"model": "a"'),
        ([Model("a"), Model("b")], "b", 200, '"model": "b"'),
        (
            [Model("a"), Model("b")],
            "zzz",
            404,
            r"Model \"zzz\" not found. Please specify a valid model.\n\nYour models:",
        ),
        ([Model("a"), Model("b")], None, 400, "Multiple models are loaded. Please specify a model by providing a"),
        ([Model("a", loaded=False)], "zzz", 400, "No models loaded. Please load a model in the developer page or use"),
    ],
)
def test_an_unknown_model_is_served_by_the_only_one_loaded(
    models: list[Model], wanted: str | None, code: int, told: str
) -> None:
    with StandIn(models=models) as server:
        response = post(server.url + CHAT, json={"model": wanted} if wanted else {})
    assert response.status_code == code
    assert told in response.text


def test_parallel_first_requests_load_a_copy_each() -> None:
    with StandIn(models=[Model("m", loaded=False, load_s=0.3)]) as server:
        clients = [leave(server, {"model": "m"}) for _ in range(3)]
        server.wait_for(lambda: [request.outcome for request in server.requests] == ["answered"] * 3)
        instances = get(server.url + "/api/v1/models").json()["models"][0]["loaded_instances"]
        for client in clients:
            client.close()
    assert server.loads == {"m": 3}
    assert [(row["id"], row["remaining_ttl_seconds"]) for row in instances] == [
        ("m", 3600),
        ("m:2", 3600),
        ("m:3", 3600),
    ]


def test_load_and_unload_name_the_instance() -> None:
    with StandIn(models=[Model("m", loaded=False)]) as server:
        load, unload = server.url + "/api/v1/models/load", server.url + "/api/v1/models/unload"
        names = [post(load, json={"model": "m"}).json()["instance_id"] for _ in range(2)]
        gone = post(unload, json={"instance_id": "m:2"}).json()
        missing = post(load, json={"model": "none"}).status_code
    assert (names, gone, missing) == (["m", "m:2"], {"instance_id": "m:2"}, 404)


def test_a_token_is_wanted_on_every_route_but_the_greeting() -> None:
    with StandIn(token="sk-lm-right") as server:
        missing, wrong, right = (
            get(server.url + "/v1/models", headers=headers)
            for headers in ({}, {"Authorization": "Bearer lm-studio-is-it"}, {"Authorization": "Bearer sk-lm-right"})
        )
        greeting = get(server.url + "/lmstudio-greeting")
    assert [r.status_code for r in (missing, wrong, right, greeting)] == [401, 401, 200, 200]
    assert missing.json()["error"]["code"] == "invalid_api_key"
    assert wrong.json()["error"]["message"].startswith("Malformed LM Studio API token provided: lm-studio-********.")
    assert greeting.content == b'{"lmstudio":true}'


# -- what tests script and read --------------------------------------------------------------------


def test_rules_come_before_the_script_and_the_script_before_the_default() -> None:
    with StandIn() as server:
        server.script(reply("first"), reply("second"))
        server.when(lambda request: "rule" in request.text, status(418))
        codes = [ask(server, text).status_code for text in ("a", "a rule", "b", "c")]
    assert codes == [200, 418, 200, 200]
    assert [request.step for request in server.requests] == ["reply", "status", "reply", "echo"]


def test_requests_tell_what_was_sent_and_how_it_ended() -> None:
    with StandIn() as server, httpx.Client(verify=NO_TLS, trust_env=False) as client:
        for _ in range(2):
            client.post(server.url + CHAT, json={"model": "m", "stream": True}, headers={"X-Trace": "7"})
        client.get(server.url + "/v1/models")
    first, second = server.requests
    assert (first.method, first.path, first.body) == ("POST", CHAT, {"model": "m", "stream": True})
    assert (first.headers["x-trace"], first.stream, first.outcome) == ("7", True, "answered")
    assert (first.connection, first.reused, second.connection, second.reused) == (1, False, 1, True)
    assert first.ended_at is not None
    assert first.at <= first.ended_at <= second.at
    assert [request.path for request in server.all_requests] == [CHAT, CHAT, "/v1/models"]


def test_an_error_in_a_rule_is_told_at_the_end() -> None:
    def broken(request: Received) -> bool:
        raise LookupError(request.path)

    server = StandIn()
    server.start()
    server.when(broken, reply("never"))
    with pytest.raises(httpx.RemoteProtocolError):
        ask(server)
    with pytest.raises(AssertionError, match="LookupError: /v1/chat/completions"):
        server.__exit__(None, None, None)


def test_waiting_in_vain_says_what_was_seen() -> None:
    with StandIn() as server:
        ask(server)
        expected = r"within 0.01 s \(0 in flight; last: POST /v1/chat/completions -> echo: answered\)"
        with pytest.raises(AssertionError, match=expected):
            server.wait_for(lambda: False, timeout_s=0.01)


# -- slots and clients that leave ------------------------------------------------------------------


def test_no_more_slots_are_used_than_there_are() -> None:
    with StandIn(capacity=2) as server, ThreadPoolExecutor(6) as pool:
        server.default = reply("slow", delay_s=0.05)
        assert [done.status_code for done in pool.map(lambda _: ask(server), range(6))] == [200] * 6
        assert (server.peak_busy, server.busy, server.in_flight) == (2, 0, 0)


def test_requests_without_a_slot_wait_in_order() -> None:
    with StandIn(capacity=1) as server:
        server.script(reply("never ends", per_token_s=3600))
        first = leave(server, {"stream": True})
        server.wait_for(lambda: server.in_flight == 1)
        second = leave(server)
        server.wait_for(lambda: server.in_flight == 2)
        third = leave(server)
        server.wait_for(lambda: server.in_flight == 3)
        assert (server.peak_in_flight, server.busy) == (3, 1)
        first.close()
        server.wait_for(lambda: server.in_flight == 0)
        assert [request.connection for request in sorted(server.requests, key=lambda r: r.ended_at or 0)] == [1, 2, 3]
        second.close()
        third.close()


def test_a_client_that_leaves_the_queue_or_a_generation_frees_its_place() -> None:
    with StandIn(capacity=1) as server:
        server.script(reply("never ends", per_token_s=3600))
        generating = leave(server, {"stream": True})
        server.wait_for(lambda: server.busy == 1)
        queued = leave(server)
        server.wait_for(lambda: server.in_flight == 2)
        queued.close()
        server.wait_for(lambda: server.in_flight == 1)
        generating.close()
        assert ask(server).status_code == 200
    assert [request.outcome for request in server.requests] == ["aborted", "aborted", "answered"]
    assert server.log.count(LEFT) == 2


def test_a_prompt_keeps_its_slot_though_the_client_left() -> None:
    with StandIn(capacity=1) as server:
        server.script(reply("late", prefill_s=3600))
        client = leave(server)
        server.wait_for(lambda: server.busy == 1)
        client.close()
        server.wait_for(lambda: server.requests[0].outcome == "aborted")
        assert (server.in_flight, server.busy) == (0, 1)


def test_a_slot_is_free_once_the_prompt_of_a_client_gone_is_processed() -> None:
    with StandIn(capacity=1) as server:
        server.script(reply("late", prefill_s=0.2))
        leave(server).close()
        server.wait_for(lambda: server.busy == 1)
        assert ask(server).status_code == 200
        assert [request.outcome for request in server.requests] == ["aborted", "answered"]


def test_a_head_may_go_out_before_the_prompt_is_processed() -> None:
    with StandIn(early_headers=True) as server:
        server.script(reply("never", prefill_s=3600))
        with stream_of("POST", server.url + CHAT, json={"stream": True}) as response:
            assert response.status_code == 200
            assert server.in_flight == 1


# -- connections, threads, log ---------------------------------------------------------------------


def test_an_idle_connection_is_closed_after_its_time() -> None:
    with StandIn(keep_alive_s=0.02) as server, leave(server) as client:
        received = b""
        while data := client.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_server_that_stops_resets_and_refuses_and_comes_back_on_its_port() -> None:
    with StandIn() as server:
        server.script(hang())
        client = leave(server)
        server.wait_for(lambda: server.in_flight == 1)
        url = server.url
        server.stop()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(httpx.ConnectError):
            get(url)
        server.start()
        assert (server.url, ask(server).status_code) == (url, 200)
    assert [request.outcome for request in server.requests] == ["fault", "answered"]


def test_thirty_two_connections_are_served_and_nothing_stays_open() -> None:
    def many(number: int) -> list[str]:
        with httpx.Client(verify=NO_TLS, trust_env=False) as client:
            bodies = [
                {"messages": [{"role": "user", "content": f"{number}.{n}"}], "stream": n % 2 == 0} for n in range(6)
            ]
            return [client.post(server.url + CHAT, json=body).text for body in bodies]

    with StandIn(capacity=8) as server, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(many, range(32)))
    assert all(f"{number}.{n}" in answers[number][n] for number in range(32) for n in range(6))
    assert {request.outcome for request in server.requests} == {"answered"}
    assert len(server.requests) == 192
    assert server.connections == set()
    assert [thread.name for thread in threading.enumerate() if thread.name == "standin"] == []


def test_the_log_is_written_where_lm_studio_writes_it(tmp_path: Path) -> None:
    with StandIn(log_prompts=True) as server:
        ask(server, "a secret", stream=True)
        path = server.write_log(tmp_path)
    assert path.parent.parent == tmp_path / "server-logs"
    assert path.name == f"{path.parent.name}{path.name[7:10]}.1.log"
    messages = [line.split("] ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]
    assert messages[0] == f"Success! HTTP server listening on port {server.port}"
    assert messages[2].startswith("Received request: POST to /v1/chat/completions with body {")
    assert messages[3:] == [
        "Running chat completion on conversation with 1 messages.",
        "Streaming response...",
        "First token generated. Continuing to stream response..",
        "Finished streaming response",
    ]


def test_the_program_serves_until_its_input_ends() -> None:
    command = [sys.executable, "-m", "tests.standin", "--delay-ms", "1"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        ready, url = program.stdout.readline().split()
        answer = post(url + CHAT, json={"messages": [{"role": "user", "content": "hi"}]})
        program.communicate(timeout=30)
    assert (ready, program.returncode) == ("READY", 0)
    assert answer.json()["choices"][0]["message"]["content"] == "echo: hi"


# -- requests --------------------------------------------------------------------------------------

SIZED = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nX-A: 1\r\nx-a: 2\r\n\r\nbody"
CHUNKED = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n"


@pytest.mark.parametrize("wire", [SIZED, CHUNKED])
def test_a_request_is_read_only_when_it_is_whole(wire: bytes) -> None:
    assert [parse_request(wire[:size]) for size in range(len(wire))] == [None] * len(wire)
    request = parse_request(wire + b"more")
    assert request is not None
    assert (request.path, request.body, request.size) == ("/a", b"body", len(wire))
    assert request.headers.get("x-a") == ("1, 2" if wire == SIZED else None)


@pytest.mark.parametrize(
    "wire", [b"HELLO\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_request_gets_a_bare_400(wire: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse_request(wire)
    with StandIn() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(wire)
        assert client.recv(1000) == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
