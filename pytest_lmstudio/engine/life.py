"""One call on its way: when it may be sent, what became of each attempt, and whether another one follows."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer, entry_of, is_cut_thinking, read_reply, reply_of
from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, run_attempt
from pytest_lmstudio.engine.cache import Stored
from pytest_lmstudio.engine.deadline import Limits
from pytest_lmstudio.engine.failure import INTERRUPTED, Failure, Refused
from pytest_lmstudio.engine.progress import Progress
from pytest_lmstudio.engine.retry import Retry, decide, pause
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.records import Attempt, Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.call import Engine
    from pytest_lmstudio.engine.coalesce import Leave
    from pytest_lmstudio.records import Request
    from pytest_lmstudio.reply import Reply

PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
_NOT_STORED = Stored(stored=False, evicted=0)


class Life:
    """One call on its way.

    Args:
        engine: what it meets.
        request: what it asks.
        on_piece: called with each piece of text as it comes.
        on_freed: called once, when it first gives its slot back, or ends without one.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        on_piece: Callable[[str], None] | None,
        on_freed: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.request = request
        self.on_piece = on_piece
        self.on_freed = on_freed
        self.attempts: list[Attempt] = []
        self.slot: int | None = None
        self.in_attempt = self.yielded = False
        self.waiting_since_s = time.monotonic()
        self.started_s = 0.0
        self.problem = ""
        self.progress = Progress(0.0)

    @property
    def number(self) -> int:
        """Return the number of the attempt under way, or of the next one."""
        return len(self.attempts) + 1

    async def coalesced(self) -> Call:
        """Lead, or take the answer of the one that led."""
        engine, request = self.engine, self.request
        async with engine.coalescer.turn(request.key) as (left, leave):
            entry, cache = left, engine.cache
            # The one that led may have ended since the test looked.
            if entry is None and cache is not None and (engine.coalescer.over_processes or cache.is_used(request.key)):
                entry = cache.get(request.key)
            reply = reply_of(request, entry, cached=True) if entry is not None else None
            if reply is None:
                return await self.sent(leave)
            engine.books.cached(request, "coalesced")
            return Call(request, (), reply)

    async def sent(self, leave: Leave | None = None) -> Call:
        """Send until there is an answer, or no use in going on."""
        with self.engine.wait():
            await self.engine.ready(self.request)
        wait_s: float | None = 0.0
        while True:
            with self.engine.wait():
                probe = await self.place()
            outcome = await self.attempt(probe=probe)
            if isinstance(outcome, Answer):
                self.free_slot()
                return await self.answered(outcome, leave)
            failure = self.forgiven(outcome.failure)
            wait_s = self.judged(outcome, failure, wait_s)
            if wait_s is None:
                error = self.engine.books.error(self.request, failure, len(self.attempts), self.problem)
                return Call(self.request, tuple(self.attempts), error=error)
            if not failure.may_still_compute:  # else nobody else gets the place meanwhile
                self.free_slot()
            with self.engine.wait():
                await self.back_off(failure, wait_s)

    async def place(self) -> bool:
        """Wait for breaker and slot; return whether the attempt is the breaker's probe."""
        probe_s = self.timeout_s()
        while True:
            if not await self.engine.breaker.admitted(probe_s):
                raise Refused(Failure(ErrorKind.CIRCUIT_OPEN, "", "connecting"))
            if self.slot is None:
                self.slot = await self.engine.slots.acquire()
            admission = self.engine.breaker.ask(probe_s)
            if admission.verdict in {"go", "probe"}:
                return admission.verdict == "probe"
            self.free_slot()

    def free_slot(self) -> None:
        """Give the slot back, if there is one, and tell who waits for that."""
        if self.slot is not None:
            self.engine.slots.release(self.slot)
            self.slot = None
        on_freed, self.on_freed = self.on_freed, None
        if on_freed is not None:
            on_freed()

    def timeout_s(self) -> float:
        """Return the hard limit of an attempt."""
        return self.engine.timeouts.of(self.request.model, self.request.options.timeout_s)

    def limits(self, timeout_s: float, *, stream: bool) -> Limits:
        """Return the limits of an attempt; those on tokens need a stream."""
        options = self.request.options
        return Limits(timeout_s, options.first_token_s, options.inter_token_s) if stream else Limits(timeout_s)

    async def attempt(self, *, probe: bool) -> Answer | AttemptFailed:
        """Make one attempt, and tell the breaker."""
        request, timeout_s = self.request, self.timeout_s()
        stream = request.options.stream if request.endpoint == "chat" else None
        self.started_s, self.in_attempt = time.monotonic(), True
        waited_ms = self.waited_ms()
        self.engine.books.sent(
            request, self.number, timeout_s=timeout_s, waited_ms=waited_ms, stream=bool(stream), slot=self.slot
        )
        self.progress = Progress(time.monotonic())  # behind the line's time: by the log it ends before its slot is free
        outcome: Answer | AttemptFailed
        try:
            outcome = await run_attempt(
                self.engine.transport,
                PATHS[request.endpoint],
                wire.encode(request.body, stream=stream),
                limits=self.limits(timeout_s, stream=bool(stream)),
                check=partial(check_answer, request),
                on_piece=self.handing_on(),
                progress=self.progress,
            )
        except AttemptFailed as failed:
            outcome = failed
        except asyncio.CancelledError:
            if probe:
                self.engine.breaker.unprobed()
            raise
        self.tell(outcome, probe=probe)
        return outcome

    def handing_on(self) -> Callable[[str], None] | None:
        """Return what hands each piece of text on, None when nobody takes them."""
        on_piece = self.on_piece
        if on_piece is None:
            return None

        def hand_on(piece: str) -> None:
            self.yielded = True
            on_piece(piece)

        return hand_on

    def tell(self, outcome: Answer | AttemptFailed, *, probe: bool) -> None:
        """Let breaker and backpressure know; an error that is none of the network's shows that the server is alive."""
        engine = self.engine
        if isinstance(outcome, Answer):
            engine.breaker.succeeded(probe=probe)
            engine.pressure.answered(self.started_s, outcome.latency_ms / 1000)
            return
        if self.request.options.timeout_s is None and outcome.failure.limit == "attempt":
            engine.timeouts.cut(self.request.model, outcome.latency_ms / 1000)
        if outcome.failure.category == "network":
            engine.pressure.lost(self.started_s)
        if outcome.failure.category == "network" and outcome.failure.kind is not ErrorKind.RATE_LIMITED:
            engine.breaker.failed(self.started_s, outcome.failure.kind, probe=probe)
        elif probe:
            engine.breaker.succeeded(probe=True)

    async def answered(self, answer: Answer, leave: Leave | None) -> Call:
        """Store, record and return an answer."""
        self.engine.timeouts.saw(self.request.model, answer.latency_ms / 1000)
        number, entry = self.number, entry_of(self.request, answer)
        reply = read_reply(self.request, answer.body, entry, attempts=number)
        stored = await self.store(entry, reply)
        if leave is not None:
            leave({**entry, "stored": stored.stored})
        self.in_attempt = False
        self.attempts.append(Attempt(number, answer.latency_ms, self.waited_ms()))
        self.engine.books.answered(self.request, number, answer, reply, stored)
        return Call(self.request, tuple(self.attempts), reply)

    async def store(self, entry: dict[str, Any], reply: Reply) -> Stored:
        """Store an answer, if this call may and the answer is one to keep."""
        keeper, mode = self.engine.keeper, self.request.options.cache
        if keeper is None or mode not in {"readwrite", "refresh"} or is_cut_thinking(reply):
            return _NOT_STORED
        try:
            return await keeper.store(self.request.key, entry, alone=len(self.engine.calls) == 1)
        except RecursionError:  # nested as deeply as could just be read, so that it cannot be written
            return _NOT_STORED

    def forgiven(self, failure: Failure) -> Failure:
        """Forgive, once, a full context that other requests may have filled."""
        before = any(attempt.kind is failure.kind for attempt in self.attempts)
        if failure.shared_context and not before and self.engine.slots.others_in_flight():
            return failure._replace(forgiven=True)
        return failure

    def judged(self, failed: AttemptFailed, failure: Failure, previous_s: float | None) -> float | None:
        """Record a failed attempt; return the seconds to wait before the next one, or None when there is none."""
        number, options, books = self.number, self.request.options, self.engine.books
        retry = Retry(number, failure.kind, failure.phase, options.backoff_s, previous_s or 0.0)
        decision = decide(failure, retry, retries=options.retries, strategy=self.engine.strategy)
        again, self.problem = decision.again and not self.yielded, decision.problem
        message = books.clean(failure.message, self.request)
        self.in_attempt = False
        self.attempts.append(Attempt(number, failed.latency_ms, self.waited_ms(), failure.kind, failure.phase, message))
        books.failed(
            self.request,
            failure,
            attempt=number,
            latency_ms=round(failed.latency_ms, 1),
            stale_reconnects=failed.stale_reconnects,
            retry_in_ms=round(decision.wait_s * 1000) if again else None,
        )
        return decision.wait_s if again else None

    async def back_off(self, failure: Failure, wait_s: float) -> None:
        """Wait before the next attempt."""
        self.waiting_since_s = time.monotonic()
        await pause(wait_s, self.useful)
        if failure.awaits_model and self.useful():
            await self.engine.model_back(self.request.model)

    def useful(self) -> bool:
        """Tell whether another attempt may still be sent: another process may have noted an interrupt meanwhile."""
        return not (self.engine.interrupted() or self.engine.breaker.gave_up)

    def waited_ms(self) -> float:
        """Return how long the attempt waited for breaker, slot and back-off before it was sent."""
        return round((self.started_s - self.waiting_since_s) * 1000, 1)

    def left(self) -> None:
        """Record that nobody waits for the call any more: the run was interrupted, or the test went on without it."""
        number = self.number if self.in_attempt else 0
        facts: dict[str, Any] = {"attempt": number, "latency_ms": None, "stale_reconnects": 0}
        if self.in_attempt:
            facts["latency_ms"] = round(self.progress.elapsed_ms(), 1)
            facts["stale_reconnects"] = self.progress.stale_reconnects
        if self.engine.interrupted():
            self.engine.books.failed(self.request, INTERRUPTED._replace(phase=self.progress.phase), **facts)
        else:
            self.engine.books.abandoned(self.request, **facts)
