"""The life of one call, in order: coalesce, breaker, slot, attempt, classify, retry, record."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer, entry_of, is_cut_thinking, prompt_texts, reply_of
from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, run_attempt
from pytest_lmstudio.engine.classify import Failure, Refused
from pytest_lmstudio.engine.retry import Retry, RetryStrategy, decide
from pytest_lmstudio.errors import ErrorKind, LMError, describe, make_error
from pytest_lmstudio.records import Attempt, Call
from pytest_lmstudio.text import printable, redact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from pytest_lmstudio.engine.attempt import Transport
    from pytest_lmstudio.engine.breaker import Breaker
    from pytest_lmstudio.engine.cache import AnswerCache, Stored
    from pytest_lmstudio.engine.coalesce import Coalescer
    from pytest_lmstudio.engine.slots import Slots
    from pytest_lmstudio.engine.timeouts import Timeouts
    from pytest_lmstudio.record.events import EventWriter
    from pytest_lmstudio.records import Request

PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
_MESSAGE_CHARS = 500


@dataclass(slots=True)
class Engine:
    """What all calls of a process meet on their way.

    Attributes:
        transport: connections to the server.
        slots: the limit.
        breaker: the circuit breaker.
        coalescer: single flight.
        cache: the disk cache, or None when it is off.
        writer: the thread that stores answers, beside the loop.
        events: the log.
        strategy: the back-off.
        timeouts: the hard limit of an attempt.
        ready: makes sure that server and model are there; raises `Refused` when they cannot be.
        model_back: waits until the models list shows a model again.
        secrets: texts that no message may hold.
        interrupted: set when the run is being interrupted; calls that end by it are failures.
    """

    transport: Transport
    slots: Slots
    breaker: Breaker
    coalescer: Coalescer
    cache: AnswerCache | None
    writer: Executor
    events: EventWriter
    strategy: RetryStrategy
    timeouts: Timeouts
    ready: Callable[[Request], Awaitable[None]]
    model_back: Callable[[str], Awaitable[None]]
    secrets: tuple[str, ...] = ()
    interrupted: bool = False

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
            return life.unsent(refused.failure)
        finally:
            life.free_slot()

    def refuse(self, request: Request, failure: Failure) -> Call:
        """End a call that cannot be sent."""
        return _Life(self, request, None).unsent(failure)

    def clean(self, message: str, body: dict[str, Any]) -> str:
        """Return a message from outside without secrets, control characters and the prompt."""
        for text in prompt_texts(body):
            message = message.replace(text, "[prompt]")
        return printable(redact(message, self.secrets), limit=_MESSAGE_CHARS)


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
        async with self.engine.coalescer.turn(self.request.key) as (left, leave):
            entry = left
            if entry is None and self.engine.coalescer.over_processes and self.engine.cache is not None:
                entry = self.engine.cache.get(self.request.key)
            reply = reply_of(self.request, entry) if entry is not None else None
            if reply is None:
                return await self.sent(leave)
            self.log("gen_cached", source="coalesced", prompt_chars=self.request.prompt_chars)
            return Call(self.request, (), replace(reply, cached=True, attempts=0))

    async def sent(self, leave: Callable[[dict[str, Any]], None] | None = None) -> Call:
        """Send until there is an answer, or no use in going on."""
        await self.engine.ready(self.request)
        wait_s: float | None = 0.0
        while True:
            probe = await self.place()
            outcome = await self.attempt(probe=probe)
            if isinstance(outcome, Answer):
                self.free_slot()
                return await self.answered(outcome, leave)
            failure = self.forgiven(outcome.failure)
            wait_s = self.judged(replace_failure(outcome, failure), wait_s)
            if wait_s is None:
                return Call(self.request, tuple(self.attempts), error=self.error(failure))
            if not (failure.kind is ErrorKind.TIMEOUT and failure.phase == "waiting"):
                # After that one the server may still be computing the prompt, so nobody else gets the place meanwhile.
                self.free_slot()
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
        self.log_request(timeout_s, stream=bool(stream))
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
        self.tell_breaker(outcome, probe=probe)
        return outcome

    def piece(self, piece: str) -> None:
        """Hand a piece of text on."""
        self.yielded = True
        if self.on_piece:
            self.on_piece(piece)

    def tell_breaker(self, outcome: Answer | AttemptFailed, *, probe: bool) -> None:
        """Count a network error; an answer of any other kind shows that the server is alive."""
        breaker = self.engine.breaker
        if isinstance(outcome, Answer):
            breaker.succeeded()
        elif outcome.failure.category == "network" and outcome.failure.kind is not ErrorKind.RATE_LIMITED:
            breaker.failed(self.started_s, probe=probe)
        elif probe:
            breaker.succeeded()

    async def answered(self, answer: Answer, leave: Callable[[dict[str, Any]], None] | None) -> Call:
        """Store, record and return an answer."""
        self.engine.timeouts.saw(self.request.model, answer.latency_ms / 1000)
        entry = entry_of(self.request, answer)
        reply = reply_of(self.request, entry)
        if reply is None:  # check_answer has read the same body
            msg = "an answer that was checked cannot be read"
            raise RuntimeError(msg)
        number, cut = self.number, is_cut_thinking(reply)
        stored, evicted = await self.store(entry) if not cut else (False, 0)
        if leave is not None and not cut:
            leave({**entry, "stored": stored})
        self.in_attempt = False
        self.attempts.append(Attempt(number, answer.latency_ms, self.waited_ms()))
        reply = replace(reply, attempts=number)
        self.log(
            "gen_success",
            attempt=number,
            latency_ms=round(answer.latency_ms, 1),
            ttft_ms=_rounded(answer.ttft_ms),
            tokens_in=wire.token_count(reply.usage, "prompt_tokens"),
            tokens_out=wire.token_count(reply.usage, "completion_tokens"),
            tokens_per_second=_rounded(reply.tokens_per_second),
            finish_reason=reply.finish_reason,
            reply_chars=len(reply.text),
            stale_reconnects=answer.stale_reconnects,
            stored=stored,
            evicted=evicted,
            truncated_thinking=cut,
        )
        return Call(self.request, tuple(self.attempts), reply)

    async def store(self, entry: dict[str, Any]) -> Stored | tuple[bool, int]:
        """Store an answer, if this call may."""
        cache, mode = self.engine.cache, self.request.options.cache
        if cache is None or mode not in {"readwrite", "refresh"}:
            return False, 0
        stored = cache.put(self.request.key, entry, patient=False)
        if stored is None:  # another process is writing: wait for it beside the loop, which has deadlines to keep
            loop = asyncio.get_running_loop()
            stored = await loop.run_in_executor(self.engine.writer, cache.put, self.request.key, entry)
        return stored or (False, 0)

    def forgiven(self, failure: Failure) -> Failure:
        """Forgive, once, a full context that other requests may have filled."""
        if failure.shared_context and not self.attempts and self.engine.slots.others_in_flight():
            return replace(failure, forgiven=True)
        return failure

    def judged(self, failed: AttemptFailed, previous_s: float | None) -> float | None:
        """Record a failed attempt; return the seconds to wait before the next one, or None when there is none."""
        number, failure, options = self.number, failed.failure, self.request.options
        retry = Retry(number, failure.kind, failure.phase, options.backoff_s, previous_s or 0.0)
        decision = decide(failure, retry, retries=options.retries, strategy=self.engine.strategy)
        again = decision.again and not self.yielded
        message = self.engine.clean(failure.message, self.request.body)
        self.in_attempt = False
        self.attempts.append(
            Attempt(number, failed.latency_ms, self.waited_ms(), failure.kind, failure.phase, message)
        )
        self.log_error(
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

    def unsent(self, failure: Failure) -> Call:
        """End a call for which nothing is sent, or sent any more."""
        self.log_error(failure, attempt=0, latency_ms=None)
        return Call(self.request, tuple(self.attempts), error=self.error(failure))

    def left(self) -> None:
        """Record that nobody waits for the call any more: the run was interrupted, or the test went on without it."""
        number = self.number if self.in_attempt else 0
        latency_ms = round((time.monotonic() - self.started_s) * 1000, 1) if self.in_attempt else None
        if not self.engine.interrupted:
            self.log("gen_abandoned", attempt=number, latency_ms=latency_ms)
            return
        failure = Failure(ErrorKind.CANCELLED, "the run was interrupted", "waiting")
        self.log_error(failure, attempt=number, latency_ms=latency_ms)

    def error(self, failure: Failure) -> LMError:
        """Return the exception that the test sees."""
        made, url, model = len(self.attempts), self.engine.transport.url, self.request.model
        message = self.engine.clean(failure.message, self.request.body)
        text = describe(
            failure.kind,
            message,
            url=url,
            model=printable(model, limit=100),
            attempt=made,
            of=self.request.options.retries + 1,
            phase=failure.phase,
        )
        return make_error(
            failure.kind,
            text,
            category=failure.category,
            phase=failure.phase if made else None,
            attempts=made,
            model=model,
            url=url,
            call_id=self.request.call_id,
        )

    def log_request(self, timeout_s: float, *, stream: bool) -> None:
        """Record that an attempt is sent."""
        mode = self.request.options.cache
        self.log(
            "gen_request",
            attempt=self.number,
            prompt_chars=self.request.prompt_chars,
            timeout_ms=round(timeout_s * 1000),
            waited_ms=self.waited_ms(),
            endpoint=self.request.endpoint,
            stream=stream,
            cache="miss" if mode == "readwrite" else mode,
        )

    def log_error(
        self,
        failure: Failure,
        *,
        attempt: int,
        latency_ms: float | None,
        stale_reconnects: int = 0,
        retry_in_ms: int | None = None,
    ) -> None:
        """Record that an attempt failed, or (attempt 0) that none is made."""
        self.log(
            "gen_error",
            attempt=attempt,
            latency_ms=latency_ms,
            error_category=failure.category,
            error_kind=failure.kind,
            phase=failure.phase if attempt else None,
            status=failure.status,
            message=self.engine.clean(failure.message, self.request.body),
            stale_reconnects=stale_reconnects,
            retry_in_ms=retry_in_ms,
            cut_at_limit=failure.cut_at_limit,
            prompt_chars=self.request.prompt_chars,
        )

    def log(self, event: str, **fields: object) -> None:
        """Write an event of this call."""
        request = self.request
        self.engine.events.write(event, nodeid=request.nodeid, call_id=request.call_id, model=request.model, **fields)


def replace_failure(failed: AttemptFailed, failure: Failure) -> AttemptFailed:
    """Return a failed attempt with another view of its failure."""
    return failed if failed.failure is failure else AttemptFailed(failure, failed.latency_ms, failed.stale_reconnects)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
