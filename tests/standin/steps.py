"""What a request gets, and the healthy answers.

Every function that makes a `Step` takes the keywords of `Times`: `delay_s` before the first byte, `prefill_s` of prompt
processing, which runs to its end even when the client leaves, and `per_token_s` before each word.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from tests.standin import bodies, http1
from tests.standin.bodies import Answer
from tests.standin.exchange import Captured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.standin.exchange import Exchange

PACKET_GAP_S = 0.001  # keeps the system from joining packets again


class Times(TypedDict, total=False):
    """Keywords of every step, seconds."""

    delay_s: float
    prefill_s: float
    per_token_s: float


class Timing(NamedTuple):
    """How long a step takes, seconds."""

    delay_s: float = 0.0
    prefill_s: float = 0.0
    per_token_s: float = 0.0


NO_TIME = Timing()


@dataclass(frozen=True, slots=True)
class Step:
    """What one request gets.

    Attributes:
        name: what `Received.step` says.
        act: answers the request, or breaks it.
        timing: how long it takes.
        generates: whether it needs a model and one of its slots; other steps neither load nor queue.
    """

    name: str
    act: Callable[[Exchange], Awaitable[None]]
    timing: Timing = NO_TIME
    generates: bool = True


async def perform(exchange: Exchange, step: Step) -> None:
    """Let a step take its time, then act."""
    await exchange.sleep(step.timing.delay_s)
    if step.timing.prefill_s:
        if exchange.stream and exchange.server.early_headers:
            await exchange.begin()
        await exchange.outlast(step.timing.prefill_s)
        exchange.check()
        exchange.log("Prompt processing progress: 100.0%")
    await step.act(exchange)


async def say(exchange: Exchange, answer: Answer, per_token_s: float = 0.0) -> None:
    """Answer as a healthy model does: events, one body, or vectors, as the request's route and `stream` ask."""
    if exchange.embeds:
        await exchange.respond_json(200, exchange.whole(answer), indent=2)
    elif exchange.stream:
        await _say_events(exchange, answer, per_token_s)
    else:
        exchange.log("Accumulating tokens ... (stream = false)")
        await exchange.sleep(per_token_s * bodies.count_tokens(exchange.body, answer))
        exchange.log("Generated prediction")
        await exchange.respond_json(200, exchange.whole(answer), indent=2)


async def _say_events(exchange: Exchange, answer: Answer, per_token_s: float) -> None:
    events = exchange.events(answer)
    await send_deltas(exchange, events.deltas, per_token_s)
    for event in [*events.finish, *([events.usage] if events.usage else [])]:
        await exchange.send(http1.event(event))
    exchange.log("Finished streaming response")
    await exchange.finish(http1.DONE)


async def send_deltas(exchange: Exchange, deltas: Sequence[Any], per_token_s: float = 0.0) -> None:
    """Send the head, which goes out with the first delta, and the deltas."""
    exchange.log("Streaming response...")
    for index, delta in enumerate(deltas):
        await exchange.sleep(per_token_s)
        await exchange.begin()
        await exchange.send(http1.event(delta))
        if index == 0:
            exchange.log("First token generated. Continuing to stream response..")
    await exchange.begin()


def saying(name: str, answer: Answer, times: Times) -> Step:
    """Return a step that gives this answer."""
    timing = Timing(**times)

    async def act(exchange: Exchange) -> None:
        await say(exchange, answer, timing.per_token_s)

    return Step(name, act, timing)


def reply(
    text: str,
    reasoning: str = "",
    tool_calls: Sequence[dict[str, Any]] = (),
    *,
    finish_reason: str | None = None,
    model: str | None = None,
    usage: dict[str, Any] | None = None,
    **times: Unpack[Times],
) -> Step:
    """Answer with this text; `tool_calls` are made with `tool_call`."""
    reason = finish_reason or ("tool_calls" if tool_calls else "stop")
    return saying("reply", Answer(text, reasoning, tuple(tool_calls), reason, model, usage), times)


def echo(**times: Unpack[Times]) -> Step:
    """Answer ``echo: `` and the last user message."""
    timing = Timing(**times)

    async def act(exchange: Exchange) -> None:
        await say(exchange, Answer(f"echo: {exchange.received.text}"), timing.per_token_s)

    return Step("echo", act, timing)


def embedding(dimensions: int = bodies.DIMENSIONS, **times: Unpack[Times]) -> Step:
    """Answer with a vector for each input, the same for the same text; at most 32 dimensions."""

    async def act(exchange: Exchange) -> None:
        body = bodies.embeddings_body(exchange.body, exchange.model, dimensions)
        await exchange.respond_json(200, body, indent=2)

    return Step("embedding", act, Timing(**times))


def wrong_model(id: str, text: str = "from another model", **times: Unpack[Times]) -> Step:  # noqa: A002  # the wire's
    """Answer well, but from another model."""
    return saying("wrong_model", Answer(text, model=id), times)


def empty(**times: Unpack[Times]) -> Step:
    """Answer 200 with no text and no tokens; a stream is one empty delta and a finish."""
    return saying("empty", Answer(), times)


def empty_stream(**times: Unpack[Times]) -> Step:
    """Answer with a stream of ``[DONE]`` alone; what a request that does not stream gets is `empty`."""

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await say(exchange, Answer())
        await exchange.begin()
        return await exchange.finish(http1.DONE)

    return Step("empty_stream", act, Timing(**times))


def length_thinking(reasoning: str = "let me think about this", **times: Unpack[Times]) -> Step:
    """Answer with thinking alone, which took all tokens."""
    return saying("length_thinking", Answer("", reasoning, finish_reason="length"), times)


def huge(n_bytes: int, **times: Unpack[Times]) -> Step:
    """Answer with a text of that many bytes, in deltas of 64 KiB."""
    return saying("huge", Answer("x" * n_bytes, piece_chars=65536), times)


def split_packets(inner: Step | None = None, gap_s: float = PACKET_GAP_S, *, delay_s: float = 0.0) -> Step:
    """Send another step's answer in small packets that end inside characters, events and JSON words."""
    inner = inner or reply("smørrebrød 寿司 🍣 done")

    async def act(exchange: Exchange) -> None:
        captured = await _capture(exchange, inner)
        if not captured.stream:
            await exchange.write(exchange.head(captured.status, captured.headers))
        else:
            await exchange.begin(captured.headers)
        pieces = split_bytes(bytes(captured.body))
        for piece in pieces[:-1]:
            await (exchange.send if captured.stream else exchange.write)(piece)
            await exchange.sleep(gap_s)
        await (exchange.finish if captured.stream else exchange.last)(pieces[-1])

    return Step("split_packets", act, Timing(delay_s), generates=inner.generates)


def split_bytes(data: bytes) -> list[bytes]:
    """Return `data` in pieces of 1 to 47 bytes; one of them ends after the first byte of each UTF-8 sequence."""
    sizes, ends, position = (1, 47, 2, 23, 3, 11, 7), {len(data)}, 0
    while position < len(data):
        ends.add(position := min(len(data), position + sizes[len(ends) % len(sizes)]))
    ends |= {index + 1 for index, byte in enumerate(data) if byte >= 0xC0}
    starts = [0, *sorted(ends)]
    return [data[a:b] for a, b in itertools.pairwise(starts)]


def gzip(inner: Step | None = None, *, delay_s: float = 0.0) -> Step:
    """Send another step's answer compressed, as a proxy may."""
    inner = inner or reply("compressed answer")

    async def act(exchange: Exchange) -> None:
        captured = await _capture(exchange, inner)
        packer = zlib.compressobj(wbits=31)
        body = packer.compress(bytes(captured.body)) + packer.flush()
        if captured.stream:
            await exchange.begin(captured.headers | {"Content-Encoding": "gzip"})
            await exchange.finish(body)
        else:
            headers = captured.headers | {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
            await exchange.respond(captured.status, body, headers=headers)

    return Step("gzip", act, Timing(delay_s), generates=inner.generates)


async def _capture(exchange: Exchange, inner: Step) -> Captured:
    captured = exchange.captured = Captured()
    await perform(exchange, inner)
    exchange.captured, exchange.begun = None, False
    return captured
