"""Lookahead: declared cases are asked before their tests run, as many at once as the limit lets through."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pytest_lmstudio import marks
from pytest_lmstudio.cases.declare import case_of
from pytest_lmstudio.client.caller import Caller, Scope
from pytest_lmstudio.client.waiting import wait
from pytest_lmstudio.records import Call

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import pytest

    from pytest_lmstudio.cases.declare import Case
    from pytest_lmstudio.client.caller import Planned
    from pytest_lmstudio.records import Request
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.session import Run

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: So many calls for each that may be in flight are under way or kept, so that one slow answer leaves no place empty.
_WINDOW = 4
_LEAST_WINDOW = 32


class _Asked:
    """A call that a test will ask for.

    Attributes:
        caller: what began it.
        scope: where it is booked, once its test asks for it.
        plan: what it asks.
        request: the request.
        found: the answer from the cache, or None.
        future: else the call under way.
        ended: whether that came to its end; written on the loop.
    """

    __slots__ = ("caller", "ended", "found", "future", "plan", "request", "scope")

    def __init__(self, caller: Caller, scope: Scope, plan: Planned, request: Request) -> None:
        self.caller = caller
        self.scope = scope
        self.plan = plan
        self.request = request
        self.found: Reply | None = None
        self.future: Future[Call] | None = None
        self.ended = False

    def started(self) -> Call | Future[Call] | None:
        """Return the call, now that its test asks for it."""
        return self.future if self.found is None else self.caller.hit(self.request, self.found)


class Ahead:
    """The calls of tests that are still to run, in the order in which they will.

    Args:
        run: this process's part of the run.
        items: all tests in order; None in an xdist worker, which knows only the next one.
    """

    def __init__(self, run: Run, items: Sequence[pytest.Item] | None) -> None:
        limit = run.settings.concurrency
        self._run = run
        self._items = items
        self._window = limit  # at first: to plan more takes time that sending these needs
        self._whole_window = max(_LEAST_WINDOW, _WINDOW * limit)
        self._gate = asyncio.Semaphore(limit)  # so that a call which a running test makes itself comes next
        self._next = 0
        self._closed = False
        self._taken: pytest.Item | None = None
        self._asked: dict[pytest.Item, _Asked] = {}
        self._coming: tuple[pytest.Item, ...] = ()

    def begin_test(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Begin calls, from that of the test which runs now on."""
        self._coming = (item,) if nextitem is None else (item, nextitem)
        self._advance()

    def end_test(self, item: pytest.Item) -> None:
        """Leave the call of a test that did not ask for it."""
        if (asked := self._asked.pop(item, None)) is not None:
            self._leave([asked])

    def reply(self, item: pytest.Item, case: Case) -> Reply:
        """Return the answer to a test's case.

        Raises:
            BadCases: the case cannot be asked.
            LMError: there is no answer.
            LMSchemaError: the answer breaks its schema.
        """
        asked = self._asked.pop(item, None)
        caller = asked.caller if asked is not None and self._run.take(asked.scope) else self._run.caller(item)
        plan = plan_of(caller, case) if asked is None else asked.plan
        self._taken = item
        started = (asked and asked.started()) or caller.start(plan)
        if isinstance(started, Call):  # no request has to be sent before more is planned
            self._window = self._whole_window
        self._advance()
        widen = self._widen if self._window < self._whole_window else None
        call = started if isinstance(started, Call) else wait(caller.runtime, started, widen)
        return caller.settle(call, plan.schema)

    def close(self, *, interrupted: bool) -> None:
        """Leave all calls that no test will ask for any more.

        Args:
            interrupted: let those in flight come to their end as others do, and begin none.
        """
        self._closed = True
        if interrupted:
            return
        self._leave(list(self._asked.values()))
        self._asked.clear()

    def _widen(self) -> None:
        self._window = self._whole_window
        self._advance()
        self._run.load_end()

    def _advance(self) -> None:
        """Begin what there is room for; a quarter of the window at a time, since they share a look into the cache."""
        known = len(self._asked)
        if self._items is None:
            coming = [item for item in self._coming if item not in self._asked]
            self._begin([one for item in coming for one in self._planned(item) or ()])
        elif 4 * known <= 3 * self._window:
            begun: list[_Asked] = []
            while self._next < len(self._items) and known + len(begun) < self._window:
                planned = self._planned(self._items[self._next])
                if planned is None:
                    break
                self._next += 1
                begun += planned
            self._begin(begun)

    def _begin(self, begun: Sequence[_Asked]) -> None:
        """Find the answers of calls in the cache, and send the others."""
        if not begun:
            return
        replies = begun[0].caller.look_all([one.request for one in begun])
        for one, reply in zip(begun, replies, strict=True):
            one.found = reply
            if reply is None and one.request.options.cache != "offline":
                one.future = one.caller.runtime.loop.submit(self._call(one))

    def _planned(self, item: pytest.Item) -> tuple[_Asked, ...] | None:
        """Plan the call of a test, if it has one; return None when that cannot be said yet."""
        case = case_of(item)
        if item is self._taken or case is None or not marks.asks_case(item) or may_be_skipped(item):
            return ()
        scope = Scope(item.nodeid)
        try:
            caller = Caller(self._run.runtime, lambda: scope, marks.options_of(item))
            plan = plan_of(caller, case)
            ready = caller.ready(plan)
        except Exception:  # noqa: BLE001  # it belongs to that test, which will meet it again
            return ()
        if ready is None:
            return None  # the first test that asks finds out which model is loaded
        if ready.failure is not None:
            return ()
        asked = self._asked[item] = _Asked(caller, scope, plan, ready.request)
        return (asked,)

    async def _call(self, asked: _Asked) -> Call:
        await self._gate.acquire()
        if self._closed or asked.caller.runtime.interrupted:
            self._gate.release()
            raise asyncio.CancelledError
        call = await asked.caller.runtime.engine.call(asked.request, on_freed=self._gate.release)
        asked.ended = True
        return call

    def _leave(self, asked: Sequence[_Asked]) -> None:
        """Cancel calls, and book those that have ended already as abandoned."""
        under_way = [one for one in asked if one.future is not None]
        if under_way:
            under_way[0].caller.runtime.loop.run(_left(under_way))


async def _left(asked: Sequence[_Asked]) -> None:
    for one in asked:
        if one.ended:
            one.caller.runtime.books.abandoned(one.request, 0, None)
        elif one.future is not None:
            one.future.cancel()


def plan_of(caller: Caller, case: Case) -> Planned:
    """Plan the call of a case.

    Raises:
        BadCases: the case cannot be asked.
        TypeError, ValueError: a parameter is wrong.
    """
    question = case.question()
    return caller.plan_chat(question.prompt, question.system, question.params, question.schema)


def may_be_skipped(item: pytest.Item) -> bool:
    """Tell whether marks skip a test, or might: a condition given as text is only looked at when the test runs."""
    for mark in item.iter_markers():
        if mark.name == "skip":
            return True
        if mark.name == "skipif" and any(isinstance(condition, str) or condition for condition in _conditions(mark)):
            return True
        if mark.name == "xfail" and mark.kwargs.get("run") is False:
            return True
    return False


def _conditions(mark: pytest.Mark) -> tuple[object, ...]:
    return (*mark.args, mark.kwargs["condition"]) if "condition" in mark.kwargs else mark.args
