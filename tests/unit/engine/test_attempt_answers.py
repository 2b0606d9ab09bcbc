"""Answers that are allowed and rare: hints before them, bytes after them, and what a request carries along."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import transport as room
from pytest_lmstudio.engine.attempt import AttemptFailed, get_json
from pytest_lmstudio.engine.transport import Transport
from tests.standin import StandIn, Step, raw, status
from tests.standin.bodies import Answer, chat_events
from tests.standin.http1 import chunk, event
from tests.unit.engine.attempts import attempt, attempts, told

if TYPE_CHECKING:
    from tests.standin.exchange import Exchange

pytestmark = pytest.mark.timeout(30)


def with_hints() -> Step:
    """Answer after two informational heads."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        await exchange.respond_json(200, exchange.whole(Answer("after the hints")))

    return Step("with_hints", act, generates=False)


def finished_then(*, done: bool) -> Step:
    """Stream an answer; break off after its finish reason, or go on after its ``[DONE]``."""

    async def act(exchange: Exchange) -> None:
        events = chat_events(exchange.body, Answer("whole"), exchange.model)
        await exchange.begin()
        for one in (*events.deltas, *events.finish):
            await exchange.send(event(one))
        if done:
            await exchange.write(chunk(b"data: [DONE]\n\n") + chunk(b": one more\n\n") + chunk(b": and another\n\n"))
            await exchange.finish()
        else:
            await exchange.cut()

    return Step("finished_then", act, generates=False)


def test_informational_heads_before_an_answer_are_passed_over() -> None:
    with StandIn() as server:
        server.script(with_hints())
        outcomes = attempts(server.url, 2, stream=False)
        assert [seen.connection for seen in server.requests] == [1, 1]
    assert [told(outcome) for outcome in outcomes] == ["after the hints", "echo: hello"]


def test_a_host_with_letters_of_all_scripts_is_asked_by_its_ascii_name() -> None:
    """These wide letters spell localhost, as nameprep (RFC 3491) says."""
    with StandIn() as server:
        url = server.url.replace("127.0.0.1", "\uff4c\uff4f\uff43\uff41\uff4chost")
        assert [told(outcome) for outcome in attempts(url, 1, stream=False)] == ["echo: hello"]
        assert [seen.headers["host"] for seen in server.requests] == [f"localhost:{server.url.rpartition(':')[2]}"]


@pytest.mark.parametrize(("done", "connections"), [(False, [1, 2]), (True, [1, 1])], ids=["broken off", "goes on"])
def test_after_the_finish_reason_a_stream_may_end_as_it_likes(*, done: bool, connections: list[int]) -> None:
    with StandIn() as server:
        server.script(finished_then(done=done))
        outcomes = attempts(server.url, 2)
        assert [seen.connection for seen in server.requests] == connections
    assert [(told(o), o.stale_reconnects) for o in outcomes] == [("whole", 0), ("echo: hello", 0)]


def test_an_error_that_is_no_utf_8_keeps_its_status() -> None:
    with StandIn() as server:
        server.script(status(500, b'{"error": "caf\xe9 is closed"}'))
        [outcome] = attempts(server.url)
    assert isinstance(outcome, AttemptFailed)
    assert (told(outcome), outcome.failure.status) == ("server_error receiving", 500)
    assert outcome.failure.message == "caf\N{REPLACEMENT CHARACTER} is closed"


def test_an_encoding_that_nobody_asked_for_is_named() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc"
    with StandIn() as server:
        server.script(raw(head))
        [outcome] = attempts(server.url)
    assert isinstance(outcome, AttemptFailed)
    assert told(outcome) == "invalid_response receiving"
    assert outcome.failure.message == "the answer cannot be decoded: nobody asked for the encoding br"


@pytest.mark.parametrize("token", ["s3cret", None])
def test_a_token_travels_as_bearer_and_none_not_at_all(token: str | None) -> None:
    async def work(url: str) -> None:
        transport = Transport(url, token)
        assert told(await attempt(transport)) == "echo: hello"
        await transport.close()

    with StandIn() as server:
        asyncio.run(work(server.url))
        [seen] = server.requests
        assert seen.headers.get("authorization") == (token and f"Bearer {token}")


def test_a_connection_that_was_kept_for_too_long_is_hung_up_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "KEEPALIVE_EXPIRY_S", -1.0)
    with StandIn() as server:
        outcomes = attempts(server.url, 2)
        assert [(seen.connection, seen.reused) for seen in server.requests] == [(1, False), (2, False)]
    assert [(told(o), o.stale_reconnects) for o in outcomes] == [("echo: hello", 0)] * 2


@pytest.mark.parametrize(
    ("there", "kind", "phase"), [(True, "timeout", "waiting"), (False, "connect", "connecting")], ids=["hangs", "gone"]
)
def test_a_list_that_does_not_come_fails_as_an_attempt_does(*, there: bool, kind: str, phase: str) -> None:
    async def ask(url: str) -> AttemptFailed:
        transport = Transport(url, None)
        with pytest.raises(AttemptFailed) as caught:
            await get_json(transport, "/v1/models", 0.3 if there else 10.0)
        await transport.close()
        return caught.value

    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects; nobody answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not there:
            silent.close()
        failed = asyncio.run(ask(url))
    assert (failed.failure.kind, failed.failure.phase, failed.stale_reconnects) == (kind, phase, 0)
    assert ("0.3 s passed before the answer was whole" in failed.failure.message) == there
