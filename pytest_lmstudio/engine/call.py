"""The life of one call, in order: coalesce, breaker, slot, attempt, classify, retry, record."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer, entry_of, is_cut_thinking, reply_of
from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, run_attempt
from pytest_lmstudio.engine.cache import Stored
from pytest_lmstudio.engine.classify import Failure, Refused
from pytest_lmstudio.engine.retry import Retry, RetryStrategy, decide
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.records import Attempt, Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Executor

    from pytest_lmstudio.engine.booking import Books
    from pytest_lmstudio.engine.breaker import Breaker
    from pytest_lmstudio.engine.cache import AnswerCache
    from pytest_lmstudio.engine.coalesce import Coalescer, Leave
    from pytest_lmstudio.engine.pressure import Pressure
    from pytest_lmstudio.engine.slots import Slots
    from pytest_lmstudio.engine.timeouts import Timeouts
    from pytest_lmstudio.engine.transport import Transport
    from pytest_lmstudio.records import Request
    from pytest_lmstudio.reply import Reply

PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
_INTERRUPTED = Failure(ErrorKind.CANCELLED, "the run was interrupted", "waiting")
_NOT_STORED = Stored(stored=False, evicted=0)


@dataclass(slots=True)
class Engine:
    """What all calls of a process meet on their way.

    Attributes:
        transport: connections to the server.
        slots: the limit.
        pressure: backpressure on the limit.
        breaker: the circuit breaker.
        coalescer: single flight.
        cache: the disk cache, or None when it is off.
        writer: the thread that stores answers while another process writes.
        books: the log of calls.
        strategy: the back-off.
        timeouts: the hard limit of an attempt.
        ready: makes sure that server and model are there; raises `Refused` when they cannot be.
        model_back: waits until the models list shows a model again.
        interrupted: tells whether the run is being interrupted, here or in another process: nothing more is sent, and
            calls that end by it are failures.
        waiting: the calls that wait for breaker, slot or back-off.
    """

    transport: Transport
    slots: Slots
    pressure: Pressure
    breaker: Breaker
    coalescer: Coalescer
    cache: AnswerCache | None
    writer: Executor
    books: Books
    strategy: RetryStrategy
    timeouts: Timeouts
    ready: Callable[[Request], Awaitable[None]]
    model_back: Callable[[str], Awaitable[None]]
    interrupted: Callable[[], bool]
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)

    async def call(self, request: Request, on_piece: Callable[[str], None] | None = None) -> Call:
        """Make a call to its end; its error is in the `Call`, not raised.

        Args:
            request: what to ask.
            on_piece: called with each piece of text as it comes; after the first piece nothing is tried again.
        """
        life = _Life(self, request, on_piece)
        try:
            if request.options.cache == "readwrite" and on_piece is None:
                return await life.coalesced()
            return await life.sent()
        except asyncio.CancelledError:
            life.left()
            raise
        except Refused as refused:
            return self.refuse(request, refused.failure, tuple(life.attempts))
        finally:
            life.free_slot()

    async def end_waiting(self) -> None:
        """End the calls that wait for their turn; those in flight go on."""
        for task in self.waiting:
            task.cancel()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Let the present call be ended by `end_waiting`.

        Raises:
            Refused: the run was interrupted.
        """
        task = asyncio.current_task()
        if task is not None:
            self.waiting.add(task)
        try:
            yield
        finally:
            self.waiting.discard(task)
        if self.interrupted():
            raise Refused(_INTERRUPTED)

    def refuse(self, request: Request, failure: Failure, attempts: tuple[Attempt, ...] = ()) -> Call:
        """End a call for which nothing is sent, or sent any more."""
        self.books.failed(request, failure, attempt=0)
        return Call(request, attempts, error=self.books.error(request, failure, len(attempts)))


@dataclass(slots=True)
class _Life:
    """One call on its way."""

    engine: Engine
    request: Request
    on_piece: Callable[[str], None] | None
    attempts: list[Attempt] = field(default_factory=list)
    slot: int | None = None
    in_attempt: bool = False
    yielded: bool = False
    waiting_since_s: float = field(default_factory=time.monotonic)
    started_s: float = 0.0

    @property
    def number(self) -> int:
        """Return the number of the attempt under way, or of the next one."""
        return len(self.attempts) + 1

    async def coalesced(self) -> Call:
        """Lead, or take the answer of the one that led."""
        engine, request = self.engine, self.request
        async with engine.coalescer.turn(request.key) as (left, leave):
            entry = left
            if entry is None and engine.cache is not None:  # the one that led may have ended since the test looked
                entry = engine.cache.get(request.key)
            reply = reply_of(request, entry, cached=True) if entry is not None else None
            if reply is None:
                return await self.sent(leave)
            engine.books.cached(request, "coalesced")
            return Call(request, (), reply)

    async def sent(self, leave: Leave | None = None) -> Call:
        """Send until there is an answer, or no use in going on."""
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
                error = self.engine.books.error(self.request, failure, len(self.attempts))
                return Call(self.request, tuple(self.attempts), error=error)
            if not (failure.kind is ErrorKind.TIMEOUT and failure.phase == "waiting"):
                # After that one the server may still be computing the prompt, so nobody else gets the place meanwhile.
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
        """Give the slot back, if there is one."""
        if self.slot is not None:
            self.engine.slots.release(self.slot)
            self.slot = None

    def timeout_s(self) -> float:
        """Return the hard limit of an attempt."""
        return self.engine.timeouts.of(self.request.model, self.request.options.timeout_s)

    async def attempt(self, *, probe: bool) -> Answer | AttemptFailed:
        """Make one attempt, and tell the breaker."""
        request, timeout_s = self.request, self.timeout_s()
        stream = request.options.stream if request.endpoint == "chat" else None
        self.started_s, self.in_attempt = time.monotonic(), True
        waited_ms = self.waited_ms()
        self.engine.books.sent(request, self.number, timeout_s=timeout_s, waited_ms=waited_ms, stream=bool(stream))
        outcome: Answer | AttemptFailed
        try:
            outcome = await run_attempt(
                self.engine.transport,
                PATHS[request.endpoint],
                wire.encode(request.body, stream=stream),
                timeout_s=timeout_s,
                check=partial(check_answer, request),
                on_piece=self.piece if self.on_piece else None,
            )
        except AttemptFailed as failed:
            outcome = failed
        except asyncio.CancelledError:
            if probe:
                self.engine.breaker.unprobed()
            raise
        self.tell(outcome, probe=probe)
        return outcome

    def piece(self, piece: str) -> None:
        """Hand a piece of text on."""
        self.yielded = True
        if self.on_piece:
            self.on_piece(piece)

    def tell(self, outcome: Answer | AttemptFailed, *, probe: bool) -> None:
        """Let breaker and backpressure know; an error that is none of the network's shows that the server is alive."""
        engine = self.engine
        if isinstance(outcome, Answer):
            engine.breaker.succeeded()
            engine.pressure.answered(outcome.latency_ms / 1000)
            return
        if outcome.failure.category == "network":
            engine.pressure.lost()
        if outcome.failure.category == "network" and outcome.failure.kind is not ErrorKind.RATE_LIMITED:
            engine.breaker.failed(self.started_s, probe=probe)
        elif probe:
            engine.breaker.succeeded()

    async def answered(self, answer: Answer, leave: Leave | None) -> Call:
        """Store, record and return an answer."""
        self.engine.timeouts.saw(self.request.model, answer.latency_ms / 1000)
        number, entry = self.number, entry_of(self.request, answer)
        reply = reply_of(self.request, entry, attempts=number)
        if reply is None:  # check_answer has read the same body
            msg = "an answer that was checked cannot be read"
            raise RuntimeError(msg)
        stored = await self.store(entry, reply)
        if leave is not None and not is_cut_thinking(reply):
            leave({**entry, "stored": stored.stored})
        self.in_attempt = False
        self.attempts.append(Attempt(number, answer.latency_ms, self.waited_ms()))
        self.engine.books.answered(self.request, number, answer, reply, stored)
        return Call(self.request, tuple(self.attempts), reply)

    async def store(self, entry: dict[str, Any], reply: Reply) -> Stored:
        """Store an answer, if this call may and the answer is one to keep."""
        cache, mode = self.engine.cache, self.request.options.cache
        if cache is None or mode not in {"readwrite", "refresh"} or is_cut_thinking(reply):
            return _NOT_STORED
        stored = cache.put(self.request.key, entry, patient=False)
        if stored is None:  # another process is writing: wait for it beside the loop, which has deadlines to keep
            loop = asyncio.get_running_loop()
            stored = await loop.run_in_executor(self.engine.writer, cache.put, self.request.key, entry)
        return stored or _NOT_STORED

    def forgiven(self, failure: Failure) -> Failure:
        """Forgive, once, a full context that other requests may have filled."""
        before = any(attempt.kind is failure.kind for attempt in self.attempts)
        if failure.shared_context and not before and self.engine.slots.others_in_flight():
            return replace(failure, forgiven=True)
        return failure

    def judged(self, failed: AttemptFailed, failure: Failure, previous_s: float | None) -> float | None:
        """Record a failed attempt; return the seconds to wait before the next one, or None when there is none."""
        number, options, books = self.number, self.request.options, self.engine.books
        retry = Retry(number, failure.kind, failure.phase, options.backoff_s, previous_s or 0.0)
        decision = decide(failure, retry, retries=options.retries, strategy=self.engine.strategy)
        again = decision.again and not self.yielded
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
        await asyncio.sleep(wait_s)
        if failure.awaits_model:
            await self.engine.model_back(self.request.model)

    def waited_ms(self) -> float:
        """Return how long the attempt waited for breaker, slot and back-off before it was sent."""
        return round((self.started_s - self.waiting_since_s) * 1000, 1)

    def left(self) -> None:
        """Record that nobody waits for the call any more: the run was interrupted, or the test went on without it."""
        number = self.number if self.in_attempt else 0
        latency_ms = round((time.monotonic() - self.started_s) * 1000, 1) if self.in_attempt else None
        if self.engine.interrupted():
            self.engine.books.failed(self.request, _INTERRUPTED, attempt=number, latency_ms=latency_ms)
        else:
            self.engine.books.abandoned(self.request, number, latency_ms)
