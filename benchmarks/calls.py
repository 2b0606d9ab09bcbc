"""What a call costs that the server answers at once, next to the clients that a test would use without the plugin."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from benchmarks.hosted import Competitor, peer, take_turns
from benchmarks.measure import BLOCK_CALLS, BLOCKS, Row, Timing, beside, cpus, timed, timed_async, walls
from benchmarks.server import ANSWER, MODEL, counted, running
from benchmarks.subject import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from benchmarks.measure import Block

TOPIC = "An uncached call, server at 0 ms"
HOW = (
    "One call after another, each with a new prompt, from a process for each client; the answer of 16 tokens comes at "
    "once. CPU is the time of the client's whole process, its threads included. Ours is the whole of `lm(...)`: it "
    "asks the cache, stores the answer unless it was told not to, and writes two lines of the log."
)
#: CPU time of `lm` in units of the bare asynchronous client's.
MOST_CPU_RATIO = 1.5
_ASYNC = "httpx.AsyncClient"
_PEERS = {_ASYNC: "httpx_async", "httpx.Client": "httpx_sync", "http.client": "http_client", "openai SDK": "openai_sdk"}


def measure(folder: Path, rounds: int) -> list[Row]:
    """Compare whole answers and streams."""
    rows = []
    with running() as url:
        for stream in (True, False):
            rows += _compared(url, folder / str(stream), stream=stream, rounds=rounds)
    return rows


def _compared(url: str, folder: Path, *, stream: bool, rounds: int) -> list[Row]:
    subjects: dict[str, dict[str, Any]] = {
        "lm": {"folder": str(folder / "lm")},
        "lm, cache=False": {"folder": str(folder / "uncached"), "cache": False},
        "alm": {"folder": str(folder / "alm"), "coroutines": True},
    }
    given: dict[str, Any] = {"url": url, "stream": stream}
    competitors = {name: Competitor("benchmarks.calls:ours", given | more) for name, more in subjects.items()}
    competitors |= {name: Competitor(f"benchmarks.calls:{function}", given) for name, function in _PEERS.items()}
    counted(url)
    timings = take_turns(competitors, rounds)
    asked = (rounds * BLOCKS + 1) * BLOCK_CALLS * len(timings)
    assert counted(url).chats == asked, "not every call reached the server"
    kind = "stream" if stream else "whole answer"
    cpus_us, walls_us = cpus(timings), walls(timings)

    def row(name: str, other: str, figures: dict[str, list[float]], measured: str) -> Row:
        target = MOST_CPU_RATIO if (name, other, measured) == ("lm", _ASYNC, "CPU") else None
        return beside(TOPIC, f"`{name}`, {kind}: {measured}", "µs", figures, (name, other), target=target)

    rows = [row("lm", other, cpus_us, "CPU") for other in _PEERS]
    rows += [row("lm", other, walls_us, "wall") for other in _PEERS]
    return rows + [row(name, _ASYNC, cpus_us, "CPU") for name in subjects if name != "lm"]


# The competitors.


@contextmanager
def ours(url: str, folder: str, *, coroutines: bool = False, **keywords: Any) -> Iterator[Block]:
    """Call through `lm`, or from a loop of the test's own through `alm`."""
    with opened(url, Path(folder)) as subject, asyncio.Runner() as runner:

        def block(number: int) -> Timing:
            subject.next_test()

            def call(n: int) -> None:
                assert subject.lm(f"{number}/{n}", **keywords).text == ANSWER

            async def acall(n: int) -> None:
                assert (await subject.alm(f"{number}/{n}", **keywords)).text == ANSWER

            return runner.run(timed_async(acall)) if coroutines else timed(call)

        yield block


@contextmanager
def http_client(url: str, *, stream: bool) -> Iterator[Block]:
    """Call through the standard library."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=45)
    headers = {"Content-Type": "application/json"}

    def call(prompt: str) -> str:
        connection.request("POST", "/v1/chat/completions", json.dumps(body_of(prompt, stream=stream)), headers)
        response = connection.getresponse()
        assert response.status == HTTPStatus.OK
        if stream:
            return _joined(line.decode().rstrip("\n") for line in response)
        return text_of(json.loads(response.read()))

    yield _block(call)
    connection.close()


@contextmanager
def httpx_sync(url: str, *, stream: bool) -> Iterator[Block]:
    """Call through `httpx.Client`."""
    with httpx.Client(base_url=url, timeout=45) as client:

        def call(prompt: str) -> str:
            body = body_of(prompt, stream=stream)
            if not stream:
                return text_of(client.post("/v1/chat/completions", json=body).raise_for_status().json())
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                return _joined(response.raise_for_status().iter_lines())

        yield _block(call)


@contextmanager
def httpx_async(url: str, *, stream: bool) -> Iterator[Block]:
    """Call through `httpx.AsyncClient`, one call after another."""
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(base_url=url, timeout=45)

        async def call(prompt: str) -> str:
            body = body_of(prompt, stream=stream)
            if not stream:
                return text_of((await client.post("/v1/chat/completions", json=body)).raise_for_status().json())
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                return await _joined_async(response.raise_for_status().aiter_lines())

        def block(number: int) -> Timing:
            async def numbered(n: int) -> None:
                assert await call(f"{number}/{n}") == ANSWER

            return runner.run(timed_async(numbered))

        yield block
        runner.run(client.aclose())


@contextmanager
def openai_sdk(url: str, *, stream: bool) -> Iterator[Block]:
    """Call through the SDK's synchronous client."""
    with peer("openai").OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        def call(prompt: str) -> str:
            answer = client.chat.completions.create(**body_of(prompt, stream=stream))
            if stream:
                return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            return str(answer.choices[0].message.content)

        yield _block(call)


def _block(call: Callable[[str], str]) -> Block:
    def block(number: int) -> Timing:
        def numbered(n: int) -> None:
            assert call(f"{number}/{n}") == ANSWER

        return timed(numbered)

    return block


def body_of(prompt: str, *, stream: bool) -> dict[str, Any]:
    """Return what a test without the plugin would send."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


def text_of(answer: dict[str, Any]) -> str:
    """Return the text of a whole answer."""
    return str(answer["choices"][0]["message"]["content"])


def _piece(line: str) -> str:
    """Return the text in one line of a stream: the least that a test without the plugin would do."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return ""
    choices = json.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content", "") if choices else ""


def _joined(lines: Iterable[str]) -> str:
    return "".join(map(_piece, lines))


async def _joined_async(lines: AsyncIterator[str]) -> str:
    return "".join([_piece(line) async for line in lines])
