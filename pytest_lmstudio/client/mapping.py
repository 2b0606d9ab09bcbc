"""Many calls of one test at once: their replies in order, or as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pytest_lmstudio.client.waiting import leave, wait, wait_async
from pytest_lmstudio.records import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from pytest_lmstudio.client.caller import Caller, Planned
    from pytest_lmstudio.errors import LMError
    from pytest_lmstudio.reply import Reply

    Found = tuple[int, Reply | LMError]

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True


def settled(caller: Caller, calls: Sequence[Call], *, return_errors: bool) -> list[Any]:
    """Book many calls; return their replies, with errors in their places if those are wanted.

    Raises:
        LMError: the first failure that matters most, see `LM.map`.
    """
    caller.book(calls)
    if not return_errors:
        _raise_first(calls)
    return [call.error or call.reply for call in calls]


def _raise_first(calls: Sequence[Call]) -> None:
    errors = [call.error for call in calls if call.error is not None]
    if errors:
        first = next((error for error in errors if error.category != "network"), errors[0])
        first.replies = [call.reply for call in calls]
        first.errors = errors
        raise first


class Arrivals:
    """The calls of one test, taken as they end.

    Args:
        caller: what begins and books them.
        return_errors: whether failures are handed out too, instead of being raised in the end.

    Attributes:
        begun: the calls, in order.
    """

    def __init__(self, caller: Caller, *, return_errors: bool) -> None:
        self.begun: list[Call | Future[Call]] = []
        self._caller = caller
        self._return_errors = return_errors
        self._taken: dict[int, Call] = {}

    def in_turn(self) -> Iterator[Future[int]]:
        """Return one future for each call that was begun: the first tells which ended first, and so on."""
        arrivals: list[Future[int]] = [Future() for _ in self.begun]
        free = deque(arrivals)

        def tell(index: int, _: object) -> None:
            arrival = free.popleft()
            if arrival.set_running_or_notify_cancel():
                arrival.set_result(index)

        for index, one in enumerate(self.begun):
            if isinstance(one, Call):
                tell(index, one)
        for index, one in enumerate(self.begun):
            if not isinstance(one, Call):
                one.add_done_callback(partial(tell, index))
        return iter(arrivals)

    def take(self, index: int) -> Found | None:
        """Book a call that ended; return its place and what came of it, None for a failure that is raised later."""
        one = self.begun[index]
        call = self._taken[index] = one if isinstance(one, Call) else one.result()
        self._caller.book([call])
        found: Any = call.reply if call.error is None else call.error
        return None if call.error is not None and not self._return_errors else (index, found)

    def finish(self) -> None:
        """Raise the first failure, once, unless failures were handed out; all calls have been taken."""
        calls = [self._taken[index] for index in range(len(self.begun))]
        self.begun.clear()
        if not self._return_errors:
            _raise_first(calls)

    def leave(self, cut: BaseException | None = None) -> None:
        """Cancel the calls that were not taken, and book those that have ended already as abandoned."""
        runtime = self._caller.runtime
        left = [one for n, one in enumerate(self.begun) if n not in self._taken and isinstance(one, Future)]
        for future in leave(runtime, left, cut):
            if future.exception() is None:
                runtime.books.abandoned(future.result().request, 0, None)
        self.begun.clear()


def completed(caller: Caller, plans: Sequence[Planned], *, return_errors: bool) -> Iterator[Found]:
    """Yield place and reply of each call as it ends; leaving the loop leaves the calls that did not."""
    arrivals = Arrivals(caller, return_errors=return_errors)
    try:
        arrivals.begun.extend(map(caller.start, plans))
        for arrival in arrivals.in_turn():
            found = arrivals.take(wait(caller.runtime, arrival))
            if found is not None:
                yield found
    except BaseException as cut:
        arrivals.leave(cut)
        raise
    arrivals.finish()


class AsyncCompleted(AsyncIterator["Found"]):
    """The same for ``async for``; when nobody holds it any more, the calls are left. No async generator: `AsyncPieces`.

    Args:
        caller: what begins and books the calls.
        begin: begins them and puts them into the list that it is given.
        return_errors: see `Arrivals`.
    """

    def __init__(
        self,
        caller: Caller,
        begin: Callable[[list[Call | Future[Call]]], Awaitable[None]],
        *,
        return_errors: bool,
    ) -> None:
        self._runtime = caller.runtime
        self._begin = begin
        self._arrivals = Arrivals(caller, return_errors=return_errors)
        self._in_turn: Iterator[Future[int]] | None = None

    def __aiter__(self) -> Self:
        """Return the replies themselves."""
        return self

    async def __anext__(self) -> Found:
        """Return place and reply of the call that ends next."""
        cut: BaseException
        try:
            found = await self._next()
        except BaseException as error:  # noqa: BLE001  # raised below, see `leave`
            cut = error
        else:
            if found is not None:
                return found
            self._in_turn, arrivals = iter(()), self._arrivals
            arrivals.finish()
            raise StopAsyncIteration
        self.cancel(cut)
        raise cut

    async def _next(self) -> Found | None:
        if self._in_turn is None:
            await self._begin(self._arrivals.begun)
            self._in_turn = self._arrivals.in_turn()
        for arrival in self._in_turn:
            found = self._arrivals.take(await wait_async(self._runtime, arrival))
            if found is not None:
                return found
        return None

    async def aclose(self) -> None:
        """Leave the calls that have not been taken."""
        self.cancel()

    def cancel(self, cut: BaseException | None = None) -> None:
        """Leave the calls that have not been taken; no more come."""
        self._in_turn = iter(())
        self._arrivals.leave(cut)

    def __del__(self) -> None:
        """Leave the calls that have not been taken."""
        self.cancel()
