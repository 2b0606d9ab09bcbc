"""What async tests call: `AsyncLM`."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_lmstudio.client.mapping import AsyncCompleted, settled
from pytest_lmstudio.client.streaming import AsyncPieces, Stream
from pytest_lmstudio.client.waiting import result_of, wait_async
from pytest_lmstudio.engine.failure import Refused
from pytest_lmstudio.records import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from pytest_lmstudio.client.caller import Caller, Item, Planned, Ready
    from pytest_lmstudio.errors import LMError
    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.settings import Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True


class AsyncLM:
    """`LM` with coroutines, for pytest-asyncio and anyio; see there for keywords and errors."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._open: weakref.WeakSet[AsyncPieces | AsyncCompleted] = weakref.WeakSet()

    @property
    def settings(self) -> Settings:
        """Return the settings, as the test's marker changes them."""
        return self._caller.settings

    async def __call__(self, prompt: str, *, system: str | None = None, **params: Any) -> Reply:
        """Ask one question; return the reply."""
        return await self._reply(self._caller.plan_chat(prompt, system, params))

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, schema: dict[str, Any] | None = None, **params: Any
    ) -> Reply:
        """Ask with a whole conversation; see `LM.chat`."""
        return await self._reply(self._caller.plan_chat(messages, None, params, schema))

    async def json(self, prompt: str, schema: dict[str, Any], *, system: str | None = None, **params: Any) -> Any:
        """Ask for JSON that follows a schema; see `LM.json`."""
        return (await self._reply(self._caller.plan_chat(prompt, system, params, schema, need_schema=True))).parsed

    def stream(
        self, prompt: str | Sequence[Mapping[str, Any]], *, system: str | None = None, **params: Any
    ) -> AsyncIterator[str]:
        """Yield the text as it arrives; see `LM.stream`."""
        plan = self._caller.plan_chat(prompt, system, {**params, "stream": True})
        pieces = AsyncPieces(lambda: self._begun(plan), self._piece)
        self._open.add(pieces)
        return pieces

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[False] = False,
        as_completed: Literal[False] = False,
        **params: Any,
    ) -> Coroutine[Any, Any, list[Reply]]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[True],
        as_completed: Literal[False] = False,
        **params: Any,
    ) -> Coroutine[Any, Any, list[Reply | LMError]]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[False] = False,
        as_completed: Literal[True],
        **params: Any,
    ) -> AsyncIterator[tuple[int, Reply]]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[True],
        as_completed: Literal[True],
        **params: Any,
    ) -> AsyncIterator[tuple[int, Reply | LMError]]: ...

    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: bool = False,
        as_completed: bool = False,
        **params: Any,
    ) -> Any:
        """Ask many questions at once; see `LM.map`. With `as_completed` for ``async for``, else to be awaited."""
        if not as_completed:
            return self._map(prompts, system, params, return_errors=return_errors)
        plans = self._caller.plan_map(prompts, system, params)
        arrivals = AsyncCompleted(self._caller, partial(self._begin, plans), return_errors=return_errors)
        self._open.add(arrivals)
        return arrivals

    async def _map(
        self, prompts: Iterable[Item], system: str | None, params: dict[str, Any], *, return_errors: bool
    ) -> list[Any]:
        plans = self._caller.plan_map(prompts, system, params)
        begun: list[Call | Future[Call]] = []
        cut: BaseException
        try:
            await self._begin(plans, begun)
            # Not `_wait`, which leaves the one it waits for: should the wait be cut, all are left together.
            calls = [one if isinstance(one, Call) else await result_of(one) for one in begun]
        except BaseException as error:  # noqa: BLE001  # raised below, see `leave`
            cut = error
        else:
            return settled(self._caller, calls, return_errors=return_errors)
        self._caller.leave(begun, cut)
        raise cut

    async def _begin(self, plans: Iterable[Planned], begun: list[Call | Future[Call]]) -> None:
        for plan in plans:
            begun.append(self._caller.begin(await self._ready(plan)))  # noqa: PERF401  # those begun must be left

    def close(self) -> None:
        """Cancel streams and calls that were left open."""
        for one in list(self._open):
            one.cancel()

    async def embed(self, texts: str | Sequence[str], **params: Any) -> list[list[float]]:
        """Return a vector for each text; see `LM.embed`."""
        return self._caller.vectors(await self._reply(self._caller.plan_embed(texts, params)))

    async def models(self) -> list[ModelInfo]:
        """Return what the server lists right now; see `LM.models`."""
        try:
            return list(await self._run(self._caller.models()))
        except Refused as refused:
            error = self._caller.server_error(refused.failure)
        raise error

    async def _reply(self, plan: Planned) -> Reply:
        started = self._caller.begin(await self._ready(plan))
        return self._caller.settle(started if isinstance(started, Call) else await self._wait(started), plan.schema)

    async def _ready(self, plan: Planned) -> Ready:
        known = self._caller.ready(plan)
        return known if known is not None else await self._run(self._caller.resolved(plan))

    async def _begun(self, plan: Planned) -> list[str] | Stream:
        ready = await self._ready(plan)
        replayed = self._caller.replayed(ready)
        return replayed if replayed is not None else Stream(self._caller.runtime, ready.request)

    async def _piece(self, stream: Stream) -> str | None:
        piece = await self._run(stream.next())
        if isinstance(piece, str):
            return piece
        self._caller.settle(piece, None)
        return None

    async def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._wait(self._caller.runtime.loop.submit(work))

    async def _wait(self, future: Future[Any]) -> Any:
        return await wait_async(self._caller.runtime, future)
