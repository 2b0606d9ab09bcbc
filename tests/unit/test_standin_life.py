"""The stand-in server keeps to its script, counts, queues, logs, and lets go of every socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.standin import Received, StandIn, hang, reply, status
from tests.standin.http1 import BadRequestError, parse_request
from tests.standin.journal import LEFT
from tests.standin.probe import CHAT, NO_TLS, ask, get, leave, post, stream_of

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
