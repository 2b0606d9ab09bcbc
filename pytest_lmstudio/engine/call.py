"""What all calls of a process meet on their way, and how one is made to its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pytest_lmstudio.engine.failure import INTERRUPTED, Failure, Refused
from pytest_lmstudio.engine.life import Life
from pytest_lmstudio.records import Attempt, Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_lmstudio.engine.booking import Books
    from pytest_lmstudio.engine.breaker import Breaker
    from pytest_lmstudio.engine.cache import AnswerCache
    from pytest_lmstudio.engine.coalesce import Coalescer
    from pytest_lmstudio.engine.keeper import Keeper
    from pytest_lmstudio.engine.pressure import Pressure
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.engine.slots import Slots
    from pytest_lmstudio.engine.timeouts import Timeouts
    from pytest_lmstudio.engine.transport import Transport
    from pytest_lmstudio.records import Request


class Wait:
    """A part of a call that `Engine.end_waiting` ends; each call has some, and a generator would take longer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._task = _task()

    def __enter__(self) -> None:
        """Begin, unless the run was interrupted."""
        if self._engine.interrupted():
            raise Refused(INTERRUPTED)
        self._engine.waiting.add(self._task)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """End; an interrupt is told as what it is, and not as the cancellation that it came as."""
        self._engine.waiting.discard(self._task)
        if self._engine.interrupted() and (error is None or isinstance(error, asyncio.CancelledError)):
            raise Refused(INTERRUPTED) from None


@dataclass(slots=True, eq=False, repr=False)
class Engine:
    """What all calls of a process meet on their way.

    Attributes:
        transport: connections to the server.
        slots: the limit.
        pressure: backpressure on the limit.
        breaker: the circuit breaker.
        coalescer: single flight.
        cache: the disk cache, or None when it is off.
        keeper: stores answers there, or None.
        books: the log of calls.
        strategy: the back-off.
        timeouts: the hard limit of an attempt.
        ready: makes sure that server and model are there; raises `Refused` when they cannot be.
        model_back: waits until the models list shows a model again.
        interrupted: tells whether the run is being interrupted, here or in another process: nothing more is sent, and
            calls that end by it are failures.
        calls: the calls under way.
        waiting: those of them that wait for breaker, slot or back-off, and looks at the server.
    """

    transport: Transport
    slots: Slots
    pressure: Pressure
    breaker: Breaker
    coalescer: Coalescer
    cache: AnswerCache | None
    keeper: Keeper | None
    books: Books
    strategy: RetryStrategy
    timeouts: Timeouts
    ready: Callable[[Request], Awaitable[None]]
    model_back: Callable[[str], Awaitable[None]]
    interrupted: Callable[[], bool]
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)

    async def call(
        self,
        request: Request,
        on_piece: Callable[[str], None] | None = None,
        on_freed: Callable[[], None] | None = None,
    ) -> Call:
        """Make a call to its end; its error is in the `Call`, not raised.

        Args:
            request: what to ask.
            on_piece: called with each piece of text as it comes; after the first piece nothing is tried again.
            on_freed: called once, when the call first gives its slot back, or ends without one.
        """
        life, task = Life(self, request, on_piece, on_freed), _task()
        self.calls.add(task)
        try:
            if request.options.cache == "readwrite" and on_piece is None:
                return await life.coalesced()
            return await life.sent()
        except asyncio.CancelledError:
            life.left()
            if not self.interrupted():
                raise
            error = self.books.error(request, INTERRUPTED, len(life.attempts))
            return Call(request, tuple(life.attempts), error=error)
        except Refused as refused:
            return self.refuse(request, refused.failure, tuple(life.attempts))
        finally:
            self.calls.discard(task)
            life.free_slot()

    def end_waiting(self) -> None:
        """End the calls that wait for their turn; those in flight go on."""
        for task in self.waiting:
            task.cancel()

    def wait(self) -> Wait:
        """Let the present call be ended by `end_waiting`.

        Raises:
            Refused: the run was interrupted, when that begins or when it ends.
        """
        return Wait(self)

    def refuse(self, request: Request, failure: Failure, attempts: tuple[Attempt, ...] = ()) -> Call:
        """End a call for which nothing is sent, or sent any more."""
        self.books.failed(request, failure, attempt=0)
        return Call(request, attempts, error=self.books.error(request, failure, len(attempts)))


def _task() -> asyncio.Task[Any]:
    """Return the present task: a coroutine that runs on a loop is always part of one."""
    return cast("asyncio.Task[Any]", asyncio.current_task())
