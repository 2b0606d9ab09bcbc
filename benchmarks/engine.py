"""Where the time of an uncached call goes that is not the wire's: the parts of the engine, one by one."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measure import Row, Timing, alone, cpus, interleaved, timed, timed_async
from benchmarks.server import ANSWER, MODEL
from benchmarks.subject import Subject, opened
from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer, entry_of, reply_of
from pytest_lmstudio.engine.attempt import Answer, run_attempt
from pytest_lmstudio.engine.cache import Stored
from pytest_lmstudio.engine.deadline import Limits
from pytest_lmstudio.engine.key import cache_key, question
from pytest_lmstudio.engine.response import Response
from pytest_lmstudio.engine.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TOPIC = "Inside an uncached call"
HOW = (
    "The parts of a whole answer's way through the engine, each timed alone, with a transport that answers on the "
    "spot; CPU time. Nothing is promised here: it tells where to look."
)
_MESSAGE = {"role": "assistant", "content": ANSWER}
_BODY = {"model": MODEL, "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}], "usage": {}}
_URL = "http://127.0.0.1:9"


async def _body() -> AsyncIterator[bytes]:
    yield json.dumps(_BODY).encode()


async def _close() -> None:
    """Close nothing."""


class _NoWire(Transport):
    """Answers on the spot."""

    async def send(self, *_args: Any, **_keywords: Any) -> Response:
        """Return an answer to anything; a list of models is none, which is what other servers say."""
        return Response(200, {"content-type": "application/json"}, _body(), _close)


class _Part(NamedTuple):
    """A part of a call: on the loop where the engine does it there."""

    name: str
    work: Callable[[int], Any]
    on_loop: bool = False


def measure(folder: Path, rounds: int) -> list[Row]:
    """Time a whole call with the wire taken out, and each part of it alone; what no part explains is the last row."""
    with opened(_URL, folder) as subject:
        subject.runtime.transport = _NoWire(_URL, None)
        subject.lm("first", stream=False)
        fresh = count()
        whole = _Part("whole call", lambda _: subject.lm(f"call {next(fresh)}", stream=False))
        parts = [whole, *_parts(subject)]
        timings = interleaved({part.name: partial(_block, subject, part) for part in parts}, rounds)
    cpus_us = cpus(timings)
    rest = [one[0] - sum(one[1:]) for one in zip(*cpus_us.values(), strict=True)]
    cpus_us["tasks and glue between these"] = rest
    return [alone(TOPIC, f"{name}: CPU", "µs", taken) for name, taken in cpus_us.items()]


def _block(subject: Subject, part: _Part, _: int) -> Timing:
    subject.next_test()
    return subject.runtime.loop.run(timed_async(part.work)) if part.on_loop else timed(part.work)


def _parts(subject: Subject) -> list[_Part]:
    runtime, cache, books = subject.runtime, subject.runtime.cache, subject.runtime.books
    assert cache is not None
    request = subject.request("part")
    answer = Answer(_BODY, 1.0, None, (), 0)
    entry = entry_of(request, answer)
    reply = reply_of(request, entry)
    assert reply is not None
    stored, fresh = Stored(stored=True, evicted=0), count()
    asked = question("", "chat", request.body, 0)

    def events(_: int) -> None:
        books.sent(request, 1, timeout_s=45.0, waited_ms=0.0, stream=False)
        books.answered(request, 1, answer, reply, stored)

    async def nothing() -> None: ...

    async def slot_and_breaker(_: int) -> None:
        slots, breaker = runtime.engine.slots, runtime.engine.breaker
        await breaker.admitted(45.0)
        slot = await slots.acquire()
        breaker.ask(45.0)
        slots.release(slot)
        breaker.succeeded(probe=False)

    async def turn(number: int) -> None:
        async with runtime.engine.coalescer.turn(str(number)):
            pass

    async def attempt(_: int) -> None:
        sent = wire.encode(request.body, stream=False)
        check = partial(check_answer, request)
        await run_attempt(runtime.transport, "/v1/chat/completions", sent, limits=Limits(45.0), check=check)

    return [
        _Part("plan less key", lambda n: subject.request(f"plan {n}")),
        _Part("key", lambda _: cache_key(asked)),
        _Part("cache look-up (miss)", lambda n: cache.get(f"{n:064x}")),
        _Part("hop to the loop and back", lambda _: runtime.loop.run(nothing())),
        _Part("coalescing", turn, on_loop=True),
        _Part("slot and breaker", slot_and_breaker, on_loop=True),
        _Part("attempt without the wire", attempt, on_loop=True),
        _Part("entry and reply", lambda _: reply_of(request, entry_of(request, answer))),
        _Part("store", lambda _: cache.put(f"{next(fresh) + 10**9:064x}", entry)),
        _Part("two events", events),
    ]
