"""Kept connections: one that died while it was idle costs nothing, and is counted."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.plain import Connection
from pytest_lmstudio.engine.response import Broken
from pytest_lmstudio.engine.transport import Transport
from tests.standin import (
    StandIn,
    close_before_headers,
    cut_after_headers,
    hang,
    raw,
    reply,
    reset_before_headers,
    stale_keep_alive,
)
from tests.unit.engine.attempts import attempt, attempts, told

if TYPE_CHECKING:
    from pytest_lmstudio.engine.progress import Progress
    from pytest_lmstudio.engine.response import Response
    from tests.standin import Step

DEAD = "it was reset"
pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_answers_share_a_connection(*, stream: bool) -> None:
    with StandIn() as server:
        outcomes = attempts(server.url, 4, stream=stream)
        assert [request.connection for request in server.requests] == [1, 1, 1, 1]
    assert [(told(o), o.stale_reconnects) for o in outcomes] == [("echo: hello", 0)] * 4


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "step", [stale_keep_alive(), reset_before_headers(), close_before_headers()], ids=lambda s: s.name
)
def test_a_dead_kept_connection_is_replaced_at_once_and_counted(step: Step, *, stream: bool) -> None:
    with StandIn() as server:
        server.script(reply("first"), step)
        outcomes = attempts(server.url, 2, stream=stream)
        assert [(seen.connection, seen.reused) for seen in server.requests] == [(1, False), (1, True), (2, False)]
    assert [(told(o), o.stale_reconnects) for o in outcomes] == [("first", 0), ("echo: hello", 1)]


def test_a_kept_connection_that_dies_late_is_a_server_that_was_at_work_and_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_lmstudio.engine.attempt._STALE_MS", 100)
    with StandIn() as server:
        server.script(reply("first"), close_before_headers(delay_s=0.3))
        outcomes = attempts(server.url, 2)
        assert [(seen.connection, seen.reused) for seen in server.requests] == [(1, False), (1, True)]
    assert (told(outcomes[1]), outcomes[1].stale_reconnects) == ("disconnect waiting", 0)


def test_a_connection_hangs_up_before_the_loop_turns() -> None:
    async def work(port: int) -> bytes:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        server_side, _ = listener.accept()
        with server_side:
            server_side.settimeout(5)
            connection.close()
            return server_side.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert asyncio.run(work(listener.getsockname()[1])) == b""


def test_it_is_replaced_once_only() -> None:
    with StandIn() as server:
        server.script(reply("first"), stale_keep_alive(), reset_before_headers())
        outcomes = attempts(server.url, 2)
        assert len(server.requests) == 3
    assert (told(outcomes[1]), outcomes[1].stale_reconnects) == ("disconnect waiting", 1)


@pytest.mark.parametrize("step", [cut_after_headers(), raw(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n")], ids=lambda s: s.name)
def test_a_connection_that_dies_after_the_head_is_not_replaced(step: Step) -> None:
    with StandIn() as server:
        server.script(reply("first"), step)
        outcomes = attempts(server.url, 2)
        assert len(server.requests) == 2
    assert told(outcomes[0]) == "first"
    assert outcomes[1].stale_reconnects == 0
    assert told(outcomes[1]).split()[0] in {"disconnect", "invalid_response"}


def test_several_kept_connections_that_died_together_are_all_replaced() -> None:
    async def work(url: str) -> list[tuple[str, int]]:
        transport = Transport(url, None)
        outcomes = []
        for _ in range(2):
            outcomes = await asyncio.gather(*(attempt(transport) for _ in range(3)))
        await transport.close()
        return [(told(o), o.stale_reconnects) for o in outcomes]

    with StandIn() as server:
        server.when(lambda seen: not seen.reused, reply("fresh", delay_s=0.05))
        server.when(lambda seen: seen.reused, stale_keep_alive())
        assert asyncio.run(work(server.url)) == [("fresh", 1)] * 3


def test_the_deadline_covers_both_connections() -> None:
    with StandIn() as server:
        server.script(reply("first"), stale_keep_alive(delay_s=0.15), hang())
        outcomes = attempts(server.url, 2, timeout_s=0.3)
    assert (told(outcomes[1]), outcomes[1].stale_reconnects) == ("timeout waiting", 1)
    assert outcomes[1].latency_ms >= 300


class DeadWhileSending(Transport):
    """Kept connections are dead, and say so in the midst of a long body: nothing of it counts as sent."""

    async def send(
        self, method: str, path: str, content: bytes = b"", *, progress: Progress, fresh: bool = False
    ) -> Response:
        if not fresh:
            raise Broken(ConnectionResetError(DEAD), unmade=False)
        return await super().send(method, path, content, progress=progress, fresh=True)


def test_a_kept_connection_that_dies_while_a_long_prompt_is_sent_is_replaced() -> None:
    async def work(url: str) -> tuple[str, int]:
        transport = DeadWhileSending(url, None)
        outcome = await attempt(transport)
        await transport.close()
        return told(outcome), outcome.stale_reconnects

    with StandIn() as server:
        assert asyncio.run(work(server.url)) == ("echo: hello", 1)


@pytest.mark.parametrize(("spared", "goes_through_it"), [("", True), ("models.test", False)])
def test_a_proxy_of_the_environment_is_used_unless_the_host_is_spared(
    spared: str, goes_through_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", spared)
    assert (Transport("http://models.test:1234", None)._proxied is not None) is goes_through_it
    assert Transport("http://127.0.0.1:1234", None)._proxied is None
