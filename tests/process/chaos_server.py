"""``python -m tests.process.chaos_server SEED``: a server that fails a third of its requests, each in a way of its own.

Every request carries a tag, ``<17>``, and what it gets follows from the seed, its tag and how often that tag came, so
that a seed is a story that can be told again. When standard input ends, so does the server, and it tells what it did:
one JSON object on standard output.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Unpack

from tests.standin import (
    Model,
    StandIn,
    close_before_headers,
    crash,
    cut_after_delta,
    cut_after_headers,
    cut_before_done,
    cut_mid_event,
    drip,
    echo,
    embedding,
    empty,
    empty_stream,
    endless_stream,
    engine_error,
    error_string,
    garbage,
    hang,
    html_500,
    invalid_utf8,
    loading_503,
    rate_limit,
    reply,
    reset_before_headers,
    split_packets,
    stale_keep_alive,
    stall_after_headers,
    status,
    stream_error,
)
from tests.standin.bodies import Answer
from tests.standin.exchange import CrashedError
from tests.standin.host import _bind
from tests.standin.steps import NO_TIME, Step, perform, send_deltas

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standin.exchange import Exchange
    from tests.standin.journal import Received
    from tests.standin.steps import Times

SHARE = 1 / 3
TAG = re.compile(r"<(\d+)>")
#: After so many requests nobody can connect for a moment.
GAP_EVERY, GAPS_S = 70, (0.05, 0.25)
_CUT_JSON = b'{"id": "chatcmpl-1", "choices": [{"index": 0, "mess'


def reset_after_finish() -> Step:
    """Send a stream up to its finish_reason and reset the connection: the answer is whole."""

    async def act(exchange: Exchange) -> None:
        if not exchange.stream:
            return await healthy(exchange.received).act(exchange)
        events = exchange.events(Answer(f"echo: {exchange.received.text}"))
        await send_deltas(exchange, [*events.deltas, *events.finish])
        return await exchange.cut(reset=True)

    return Step("reset_after_finish", act)


def healthy(received: Received, **times: Unpack[Times]) -> Step:
    """Return the answer that a test expects."""
    if tag_of(received) % 14 == 12:  # a test that leaves before the end
        return endless_stream()
    if tag_of(received) % 14 == 13:  # a prompt that several tests share, at the same time if they can
        times = {"delay_s": 0.1, **times}
    if received.path.endswith("/embeddings"):
        return embedding(**times)
    if isinstance(received.body, dict) and "response_format" in received.body:
        return reply(json.dumps({"tag": tag_of(received)}), **times)
    return echo(**times)


#: What can happen to a request, by the name that the record tells. Those of the first part break it.
FAULTS: dict[str, Callable[[Received], Step]] = {
    "reset_before_headers": lambda _: reset_before_headers(),
    "close_before_headers": lambda _: close_before_headers(delay_s=0.02),
    "cut_after_headers": lambda _: cut_after_headers(),
    "reset_after_headers": lambda _: cut_after_headers(reset=True),
    "cut_mid_event": lambda _: cut_mid_event(),
    "reset_mid_event": lambda _: cut_mid_event(reset=True),
    "cut_after_delta": lambda _: cut_after_delta(2),
    "ends_early": lambda _: cut_after_delta(2, clean=True),
    "stall_after_headers": lambda _: stall_after_headers(),
    "hang": lambda _: hang(),
    "drip": lambda _: drip(),
    "rate_limit": lambda _: rate_limit(0.1),
    "rate_limit_date": lambda _: rate_limit(formatdate(usegmt=True)),
    "busy_503": lambda _: rate_limit(0, code=503),
    "html_500": lambda _: html_500(),
    "status_502": lambda _: status(502, "<h1>Bad Gateway</h1>"),
    "status_503": lambda _: status(503),
    "status_408": lambda _: status(408),
    "status_504": lambda _: status(504, "<h1>Gateway Time-out</h1>"),
    "loading_503": lambda _: loading_503(),
    "crash": lambda _: crash(away_s=0.1, delay_s=0.02),
    "unloaded": lambda _: crash("Model unloaded.", away_s=0.1),
    "reloaded": lambda _: error_string(400, "Model reloaded."),
    "compute_error": lambda _: stream_error("Compute error.", after_tokens=1),
    "engine_500": lambda _: engine_error(500, "failed to decode", type="server_error"),
    "empty": lambda _: empty(),
    "empty_stream": lambda _: empty_stream(),
    "html_200": lambda _: garbage(),
    "json_cut": lambda _: garbage(_CUT_JSON),
    "invalid_utf8": lambda _: invalid_utf8(),
    # These the client can bear.
    "cut_before_done": lambda seen: cut_before_done(f"echo: {seen.text}") if _chats(seen) else healthy(seen),
    "reset_after_finish": lambda seen: reset_after_finish() if _chats(seen) else healthy(seen),
    "stale_keep_alive": lambda seen: stale_keep_alive(healthy(seen)),
    "split_packets": lambda seen: split_packets(healthy(seen)),
    "slow": lambda seen: healthy(seen, delay_s=0.1),
}


def tag_of(received: Received) -> int:
    """Return the number that a test put into its prompt."""
    body = received.body if isinstance(received.body, dict) else {}
    found = TAG.search(received.text or str(body.get("input")))
    return int(found[1]) if found else -1


def _chats(received: Received) -> bool:
    """Tell whether a request streams and expects its own prompt."""
    return received.stream and "response_format" not in received.body and tag_of(received) % 14 != 12


class Chaos(StandIn):
    """Draws what each request gets, and keeps a record of it."""

    def __init__(self, seed: str) -> None:
        super().__init__(
            models=[Model("test-model", parallel=64), Model("test-embedder", type="embedding", parallel=64)],
            capacity=64,
        )
        self.gaps: list[tuple[float, float]] = []
        self._seed = seed
        self._came: Counter[int] = Counter()
        self._crashed: set[int] = set()

    def next_step(self, received: Received) -> Step:
        """Return what a request gets."""
        tag = tag_of(received)
        self._came[tag] += 1
        draw = random.Random(f"{self._seed}/{tag}/{self._came[tag]}")
        name = draw.choice(list(FAULTS)) if draw.random() < SHARE else ""
        inner = FAULTS[name](received) if name else healthy(received)
        total = self._came.total()
        if total % GAP_EVERY == 0:
            gap_s = random.Random(f"{self._seed}/gap/{total}").uniform(*GAPS_S)
            asyncio.get_running_loop().create_task(self._refuse(gap_s)).add_done_callback(self._told)
        return self._watched(inner, name)

    def _watched(self, inner: Step, name: str) -> Step:
        """Return a step that notes it when another request's crash hits this one."""

        async def act(exchange: Exchange) -> None:
            try:
                await perform(exchange, inner)
            except CrashedError:
                self._crashed.add(id(exchange.received))
                raise

        return replace(inner, name=name or "healthy", act=act, timing=NO_TIME)

    async def _refuse(self, seconds: float) -> None:
        """Close the listening socket for a moment; connections that are open go on."""
        host = self._host
        loop = asyncio.get_running_loop()
        if host._listener is None:
            return
        started_s = loop.time()
        host.listening = False
        host._listener.close()
        await asyncio.sleep(seconds)
        host._socket = _bind(host.port)
        await host._listen()
        self.gaps.append((started_s, loop.time()))

    def _told(self, task: asyncio.Task[None]) -> None:
        if (error := task.exception()) is not None:
            self.journal.complain(self.journal.errors, repr(error))

    def record(self) -> dict[str, Any]:
        """Return all that was seen and done; times are seconds of the monotonic clock."""
        return {
            "rows": [self._row(received) for received in self.requests],
            "others": [f"{r.method} {r.path}" for r in self.all_requests if r.method != "POST"],
            "posts": sum(r.method == "POST" for r in self.all_requests),
            "peak_in_flight": self.peak_in_flight,
            "gaps": self.gaps,
            "errors": self.journal.errors + self.journal.unexpected,
        }

    def _row(self, received: Received) -> dict[str, Any]:
        return {
            "tag": tag_of(received),
            "step": received.step,
            "stream": received.stream,
            "chat": received.path.endswith("/chat/completions"),
            "reused": received.reused,
            "outcome": received.outcome,
            "crashed": id(received) in self._crashed,
            "at": received.at,
        }


def main() -> None:
    """Serve until standard input ends, then tell."""
    with Chaos(sys.argv[1]) as server:
        print(f"READY {server.url}", flush=True)
        sys.stdin.buffer.read()
        print(json.dumps(server.record()), flush=True)
        server.journal.errors.clear()
        server.strict = False


if __name__ == "__main__":
    main()
