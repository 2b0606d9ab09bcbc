"""Answers that break off, stall, never end or are no answer: what a network, a proxy or a dying process does.

A request that does not stream gets the nearest form: `cut_after_delta`, `cut_mid_event` and `cut_body` all send half of
a body that announced its whole length. `reset` cuts with RST rather than FIN.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Unpack

from tests.standin import http1
from tests.standin.bodies import Answer
from tests.standin.dispatch import run
from tests.standin.steps import Step, Times, Timing, say, send_deltas

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.standin.exchange import Exchange

TALK = "one two three four five six seven eight"
UNREACHED_LENGTH = "1000000000"
NOT_JSON = b"<html><body>Sign in to the network</body></html>"


def _fault(name: str, act: Callable[[Exchange], Awaitable[None]], times: Times, *, generates: bool = True) -> Step:
    return Step(name, act, Timing(**times), generates)


def reset_before_headers(**times: Unpack[Times]) -> Step:
    """Reset the connection without a byte."""

    async def act(exchange: Exchange) -> None:
        await exchange.cut(reset=True)

    return _fault("reset_before_headers", act, times, generates=False)


def close_before_headers(**times: Unpack[Times]) -> Step:
    """Close the connection without a byte."""

    async def act(exchange: Exchange) -> None:
        await exchange.cut()

    return _fault("close_before_headers", act, times, generates=False)


async def _head_alone(exchange: Exchange) -> None:
    if exchange.stream:
        await exchange.begin()
    else:
        headers = {"Content-Type": http1.JSON, "Content-Length": UNREACHED_LENGTH}
        await exchange.write(exchange.head(200, headers))


def cut_after_headers(*, reset: bool = False, **times: Unpack[Times]) -> Step:
    """Send the head, then cut."""

    async def act(exchange: Exchange) -> None:
        await _head_alone(exchange)
        await exchange.cut(reset=reset)

    return _fault("cut_after_headers", act, times)


async def _half_body(exchange: Exchange, *, reset: bool) -> None:
    body = http1.dump(exchange.whole(Answer(TALK)), indent=2)
    head = exchange.head(200, http1.body_headers(body, http1.JSON))
    await exchange.write(head + body[: len(body) // 2])
    await exchange.cut(reset=reset)


def cut_body(*, reset: bool = False, **times: Unpack[Times]) -> Step:
    """Send half of a body that announced its whole length; a stream is cut after its first delta."""

    async def act(exchange: Exchange) -> None:
        await _cut_after(exchange, 1, reset=reset)

    return _fault("cut_body", act, times)


def cut_after_delta(n: int = 1, *, clean: bool = False, reset: bool = False, **times: Unpack[Times]) -> Step:
    """Send n deltas, then cut; `clean` ends the chunked body properly, as a careful proxy does."""
    timing = Timing(**times)

    async def act(exchange: Exchange) -> None:
        await _cut_after(exchange, n, reset=reset, clean=clean, per_token_s=timing.per_token_s)

    return Step("cut_after_delta", act, timing)


async def _cut_after(
    exchange: Exchange, n: int, *, reset: bool = False, clean: bool = False, per_token_s: float = 0.0
) -> None:
    if not exchange.stream:
        await exchange.sleep(per_token_s * n)
        return await _half_body(exchange, reset=reset)
    await send_deltas(exchange, exchange.deltas(n), per_token_s)
    return await (exchange.finish() if clean else exchange.cut(reset=reset))


def cut_mid_event(*, reset: bool = False, **times: Unpack[Times]) -> Step:
    """Send one delta and half of the next, inside one chunk."""

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await _half_body(exchange, reset=reset)
        first, second = exchange.deltas(2)
        await send_deltas(exchange, [first])
        event = http1.chunk(http1.event(second))
        await exchange.write(event[: len(event) // 2])
        return await exchange.cut(reset=reset)

    return _fault("cut_mid_event", act, times)


def cut_before_done(text: str = TALK, **times: Unpack[Times]) -> Step:
    """Send a stream up to its finish_reason and end it properly, without ``[DONE]``; a body comes whole."""
    timing = Timing(**times)

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await say(exchange, Answer(text), timing.per_token_s)
        events = exchange.events(Answer(text))
        await send_deltas(exchange, [*events.deltas, *events.finish], timing.per_token_s)
        return await exchange.finish()

    return Step("cut_before_done", act, timing)


def stale_keep_alive(then: Step | None = None, *, delay_s: float = 0.0) -> Step:
    """Read a request on a reused connection and close without a byte; serve it with `then` on a fresh one.

    `then` None is the server's default step.
    """

    async def act(exchange: Exchange) -> None:
        if exchange.received.reused:
            await exchange.cut()
        else:
            await run(exchange, then or exchange.server.default)

    return Step("stale_keep_alive", act, Timing(delay_s), generates=False)


def hang(**times: Unpack[Times]) -> Step:
    """Accept the request and never answer; no slot is taken."""

    async def act(exchange: Exchange) -> None:
        await exchange.forever()

    return _fault("hang", act, times, generates=False)


def stall_after_headers(**times: Unpack[Times]) -> Step:
    """Send the head, then nothing more."""

    async def act(exchange: Exchange) -> None:
        await _head_alone(exchange)
        await exchange.forever()

    return _fault("stall_after_headers", act, times)


def drip(interval_s: float = 0.05, **times: Unpack[Times]) -> Step:
    """Send one byte each interval without end: bytes of events in a stream, blanks in a body."""

    async def act(exchange: Exchange) -> None:
        await _head_alone(exchange)
        send = exchange.send if exchange.stream else exchange.write
        delta = http1.event(exchange.deltas(1)[0]) if exchange.stream else b" "
        for byte in itertools.cycle(delta):
            await send(bytes([byte]))
            await exchange.sleep(interval_s)

    return _fault("drip", act, times)


def endless_stream(interval_s: float = 0.01, **times: Unpack[Times]) -> Step:
    """Send words without end; a body that does not stream begins well and never ends."""

    async def act(exchange: Exchange) -> None:
        await _head_alone(exchange)
        if exchange.stream:
            deltas = exchange.deltas(2)
            pieces = itertools.chain([http1.event(deltas[0])], itertools.repeat(http1.event(deltas[1])))
        else:
            body = http1.dump(exchange.whole(Answer("word")), indent=2)
            pieces = itertools.chain([body.partition(b"word")[0]], itertools.repeat(b" word"))
        for piece in pieces:
            await (exchange.send if exchange.stream else exchange.write)(piece)
            await exchange.sleep(interval_s)

    return _fault("endless_stream", act, times)


def garbage(data: bytes = NOT_JSON, **times: Unpack[Times]) -> Step:
    """Answer 200 with bytes that are no JSON; in a stream, as one event before ``[DONE]``."""

    async def act(exchange: Exchange) -> None:
        await _answer_bytes(exchange, data, b"data: " + data + b"\n\n")

    return _fault("garbage", act, times, generates=False)


def invalid_utf8(**times: Unpack[Times]) -> Step:
    """Answer 200 with JSON whose text holds bytes that are no UTF-8."""

    async def act(exchange: Exchange) -> None:
        mark, broken = b"@@broken@@", b"caf\xe9 \xff\xfe"
        body = http1.dump(exchange.whole(Answer(mark.decode())), indent=2)
        event = http1.event(exchange.events(Answer(mark.decode())).deltas[0])
        await _answer_bytes(exchange, body.replace(mark, broken), event.replace(mark, broken))

    return _fault("invalid_utf8", act, times)


async def _answer_bytes(exchange: Exchange, body: bytes, event: bytes) -> None:
    if not exchange.stream:
        return await exchange.respond(200, body)
    await exchange.begin()
    await exchange.send(event)
    return await exchange.finish(http1.DONE)


def raw(data: bytes, *, reset: bool = False, **times: Unpack[Times]) -> Step:
    """Send these bytes as the whole response, head and all, and close."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(data)
        await exchange.cut(reset=reset)

    return _fault("raw", act, times, generates=False)
