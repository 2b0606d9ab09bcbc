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

    def __init__(self, caller: Caller, scope: Scope, plan: Planned, request: Request, found: Reply | None) -> None:
        self.caller = caller
        self.scope = scope
        self.plan = plan
        self.request = request
        self.found = found
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
        plan = planned(caller, case) if asked is None else asked.plan
        self._taken = item
        started = (asked and asked.started()) or caller.start(plan)
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

    def _advance(self) -> None:
        if self._items is None:
            for item in self._coming:
                if item not in self._asked:
                    self._begin(item)
            return
        while self._next < len(self._items) and len(self._asked) < self._window:
            if not self._begin(self._items[self._next]):
                return
            self._next += 1

    def _begin(self, item: pytest.Item) -> bool:
        """Begin the call of a test, if it has one; return False when that cannot be said yet."""
        case = case_of(item)
        if item is self._taken or case is None or not marks.asks_case(item) or may_be_skipped(item):
            return True
        scope = Scope(item.nodeid)
        try:
            caller = Caller(self._run.runtime, lambda: scope, marks.options_of(item))
            plan = planned(caller, case)
            ready = caller.ready(plan)
        except Exception:  # noqa: BLE001  # it belongs to that test, which will meet it again
            return True
        if ready is None:
            return False  # the first test that asks finds out which model is loaded
        if ready.failure is None:
            asked = self._asked[item] = _Asked(caller, scope, plan, ready.request, caller.look(ready.request))
            if asked.found is None and ready.request.options.cache != "offline":
                asked.future = caller.runtime.loop.submit(self._call(asked))
        return True

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


def planned(caller: Caller, case: Case) -> Planned:
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
