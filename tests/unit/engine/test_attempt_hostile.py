"""Answers made to do harm cost neither memory nor the next answer, whether they come through h11 or through httpx."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.proxied import Proxied
from pytest_lmstudio.engine.response import Response
from pytest_lmstudio.engine.transport import Transport
from tests.standin import StandIn, Step, cut_body, echo, stream_error
from tests.standin.hostile import bomb, one_line
from tests.unit.engine.attempts import attempt, attempts, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standin.exchange import Exchange

pytestmark = pytest.mark.timeout(120)

BODY = json.dumps({"model": "test-model", "choices": [{"message": {"content": "first"}, "finish_reason": "stop"}]})
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"
MEASURED = """
import asyncio, resource, sys
from tests.unit.engine.attempts import attempts, told
attempts(sys.argv[1], stream=sys.argv[2] == "stream", timeout_s=60)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
[outcome] = attempts(sys.argv[1], stream=sys.argv[2] == "stream", timeout_s=60)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(outcome.failure.message, grown // (2**20 if sys.platform == "darwin" else 2**10), sep="|")
"""


def longer_than_it_says() -> Step:
    """Answer, with a second whole answer behind the body; keep the connection."""

    async def act(exchange: Exchange) -> None:
        second = HEAD.format(len(BODY), BODY.replace("first", "smuggled"))
        await exchange.last((HEAD.format(len(BODY), BODY) + second).encode())

    return Step("longer_than_it_says", act, generates=False)


def through_httpx(url: str, *, stream: bool) -> str:
    """Return what comes of an attempt that takes the way of TLS and proxies."""

    async def work() -> str:
        transport = Transport(url, None)
        transport._proxied = Proxied(url, None, [], 2.0)
        try:
            return told(await attempt(transport, stream=stream, timeout_s=60))
        finally:
            await transport.close()

    return asyncio.run(work())


def test_what_follows_an_answer_is_no_answer_to_the_next_request() -> None:
    with StandIn() as server:
        server.script(longer_than_it_says())
        outcomes = attempts(server.url, 2, stream=False)
        assert [request.connection for request in server.requests] == [1, 2]
    assert [told(outcome) for outcome in outcomes] == ["first", "echo: hello"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_prompt_that_the_error_quotes_is_not_the_error(*, stream: bool) -> None:
    text = "Why does it say Model unloaded. when I ask?"
    with StandIn() as server:
        server.script(stream_error(f"Cannot make sense of {text!r}"), stream_error("Model unloaded."))
        quoted, real = attempts(server.url, 2, stream=stream, text=text)
    assert told(quoted) == ("server_error receiving" if stream else "bad_request receiving")
    assert told(real) == "model_lost receiving"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_answer_is_read_to_its_end_on_the_way_of_proxies(*, stream: bool) -> None:
    with StandIn() as server:
        server.default = echo()
        assert through_httpx(server.url, stream=stream) == "echo: hello"


def test_a_body_that_breaks_off_is_a_disconnect_on_the_way_of_proxies() -> None:
    with StandIn() as server:
        server.script(cut_body())
        assert through_httpx(server.url, stream=False) == "disconnect receiving"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_bomb_is_refused_on_either_way(*, stream: bool) -> None:
    with StandIn() as server:
        server.default = bomb(2**26)
        assert through_httpx(server.url, stream=stream) == "invalid_response receiving"
        [outcome] = attempts(server.url, stream=stream)
    assert told(outcome) == "invalid_response receiving"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak through resource")
@pytest.mark.parametrize("stream", ["stream", "whole"])
@pytest.mark.parametrize("name", ["bomb", "one_line"])
def test_an_answer_that_is_too_large_takes_a_small_multiple_of_the_limit(name: str, stream: str) -> None:
    with StandIn() as server:
        server.script(Step("small", lambda exchange: exchange.respond(500, b"no"), generates=False))
        server.default = bomb(2**28) if name == "bomb" else one_line(50 * 2**20)
        command = [sys.executable, "-c", MEASURED, server.url, stream]
        message, grown_mib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("|")
    assert message == "the answer is larger than 32 MiB"
    assert int(grown_mib) <= 4 * 32


def unpacked(data: bytes, encoding: str, chunk_bytes: int) -> list[bytes]:
    """Return the pieces of a body that came in chunks."""

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), chunk_bytes):
            yield data[start : start + chunk_bytes]

    async def close() -> None:
        return None

    async def work() -> list[bytes]:
        response = Response(200, {"content-encoding": encoding}, body(), close)
        return [piece async for piece in response.chunks()]

    return asyncio.run(work())


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 1_000_003])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 65_536])
@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("X-GZIP", 31), ("deflate", 15)])
def test_a_packed_body_is_unpacked_whole_and_a_little_at_a_time(
    size: int, chunk_bytes: int, encoding: str, wbits: int
) -> None:
    packer = zlib.compressobj(9, wbits=wbits)
    pieces = unpacked(packer.compress(b"x" * size) + packer.flush(), encoding, chunk_bytes)
    assert b"".join(pieces) == b"x" * size
    assert max(map(len, pieces), default=0) <= 65_536


def test_what_follows_a_packed_body_is_left_out() -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"whole") + packer.flush()
    assert unpacked(packed + b"more" * 100_000, "gzip", 1000) == [b"whole"]
