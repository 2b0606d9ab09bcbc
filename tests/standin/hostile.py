"""Answers made to do harm: too large, too deep, too many, lying about their length, packed to burst."""

from __future__ import annotations

import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any, Unpack

from tests.standin import http1
from tests.standin.bodies import Answer
from tests.standin.steps import Step, Times, Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.standin.exchange import Exchange

BATCH_BYTES = 2**16


def _step(name: str, act: Any, times: Times) -> Step:
    return Step(name, act, Timing(**times), generates=False)


def patched(changes: Mapping[str, Any], text: str = "fine", **times: Unpack[Times]) -> Step:
    """Answer well, but for some fields: of the body, or of the last event of a stream, the one with the usage.

    A dict is merged into a dict that stands there; ``choice`` is merged into the first choice.
    """

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await exchange.respond(200, dumped(_merged(exchange.whole(Answer(text)), changes)))
        events = exchange.events(Answer(text))
        await exchange.begin()
        *first, last = [*events.deltas, *events.finish]
        for event in first:
            await exchange.send(http1.event(event))
        await exchange.send(b"data: " + dumped(_merged(last, changes)) + b"\n\n")
        return await exchange.finish(http1.DONE)

    return _step("patched", act, times)


def _merged(body: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(body)
    for name, value in changes.items():
        if name == "choice":
            merged["choices"] = [_merged(merged["choices"][0], value)]
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merged[name] | value
        else:
            merged[name] = value
    return merged


def dumped(value: Any) -> bytes:
    """Return JSON as servers in other languages may write it: NaN, infinity and lone surrogates included."""
    return json.dumps(value).encode("ascii")


def verbatim(body: bytes, events: Iterable[bytes] | None = None, **times: Unpack[Times]) -> Step:
    """Answer 200 with these bytes as JSON; a stream sends `events`, each as the data of one, and ``[DONE]``."""
    datas = [body] if events is None else list(events)

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await exchange.respond(200, body)
        await exchange.begin()
        for data in datas:
            await exchange.send(b"data: " + data + b"\n\n")
        return await exchange.finish(http1.DONE)

    return _step("verbatim", act, times)


def flood(n: int, **times: Unpack[Times]) -> Step:
    """Send n events of one letter, thousands in a packet; a whole body holds the text."""

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await exchange.respond_json(200, exchange.whole(Answer("x" * n)))
        events = exchange.events(Answer("x"))
        event = http1.event(events.deltas[0])
        await exchange.begin()
        batch = max(1, BATCH_BYTES // len(event))
        for sent in itertools.count(0, batch):
            if sent >= n:
                break
            await exchange.send(event * min(batch, n - sent))
        for last in events.finish:
            await exchange.send(http1.event(last))
        return await exchange.finish(http1.DONE)

    return _step("flood", act, times)


def one_line(n_bytes: int, **times: Unpack[Times]) -> Step:
    """Send one event whose text has so many bytes, in packets of 64 KiB; a whole body holds the text."""

    async def act(exchange: Exchange) -> None:
        answer = Answer("x" * n_bytes, piece_chars=n_bytes)
        if not exchange.stream:
            return await exchange.respond_json(200, exchange.whole(answer))
        events = exchange.events(answer)
        data = b"".join(http1.event(event) for event in [*events.deltas, *events.finish])
        await exchange.begin()
        for start in range(0, len(data), BATCH_BYTES):
            await exchange.send(data[start : start + BATCH_BYTES])
        return await exchange.finish(http1.DONE)

    return _step("one_line", act, times)


def bomb(n_bytes: int, **times: Unpack[Times]) -> Step:
    """Send a gzip body of a thousandth of so many bytes, which unpacks to them."""
    packer = zlib.compressobj(9, wbits=31)
    blanks = b" " * 2**20
    body = b"".join(packer.compress(blanks) for _ in range(n_bytes // len(blanks))) + packer.flush()

    async def act(exchange: Exchange) -> None:
        content_type = "text/event-stream" if exchange.stream else http1.JSON
        await exchange.respond(200, body, content_type, {"Content-Encoding": "gzip"})

    return _step("bomb", act, times)
