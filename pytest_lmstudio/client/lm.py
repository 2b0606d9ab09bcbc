"""What tests call: `LM`, and `AsyncLM`, its twin with coroutines."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_lmstudio.client.streaming import AsyncPieces, Stream
from pytest_lmstudio.client.waiting import wait, wait_async
from pytest_lmstudio.engine.classify import Refused
from pytest_lmstudio.records import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from pytest_lmstudio.client.caller import Caller, Item, Planned, Ready
    from pytest_lmstudio.errors import LMError
    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.settings import Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

Message = dict[str, Any]


class LM:
    """Asks the model; every call is timed, tried again where that helps, cached and recorded.

    Keywords of every call: ``timeout``, ``first_token_timeout``, ``inter_token_timeout`` and ``backoff`` (seconds),
    ``retries``, ``model``, ``cache`` (False asks anew and stores nothing) and ``stream`` say how it travels;
    ``max_tokens``, ``temperature``, ``seed``, ``stop`` and the other parameters of an OpenAI-compatible server go into
    the request; ``extra_body={...}`` takes the rest.

    Errors of every call:
        LMError: there is no answer; `LMNetworkError` when the model did not get to answer, `LMAuthError` and
            `LMRequestError` when asking again cannot help.
        TypeError, ValueError: a keyword or its value is wrong.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._streams: weakref.WeakSet[Iterator[str]] = weakref.WeakSet()

    @property
    def settings(self) -> Settings:
        """Return the settings, as the test's marker changes them."""
        return self._caller.settings

    def __call__(self, prompt: str, *, system: str | None = None, **params: Any) -> Reply:
        """Ask one question; return the reply."""
        return self._reply(self._caller.plan_chat(prompt, system, params))

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, schema: dict[str, Any] | None = None, **params: Any
    ) -> Reply:
        """Ask with a whole conversation: text and image parts, tools.

        With `schema` the reply's ``parsed`` holds the object, as with `json`.

        Raises:
            LMSchemaError: the answer breaks the schema.
        """
        return self._reply(self._caller.plan_chat(messages, None, params, schema))

    def json(self, prompt: str, schema: dict[str, Any], *, system: str | None = None, **params: Any) -> Any:
        """Ask for JSON that follows a schema; return the object.

        Raises:
            LMSchemaError: the answer breaks the schema; an `AssertionError` with place, rule and ``reply``.
            ValueError: the schema is none.
        """
        return self._reply(self._caller.plan_chat(prompt, system, params, schema, need_schema=True)).parsed

    def stream(
        self, prompt: str | Sequence[Mapping[str, Any]], *, system: str | None = None, **params: Any
    ) -> Iterator[str]:
        """Yield the text as it arrives; leaving the loop cancels the generation.

        It is tried again only before the first text was yielded, and cached only when it was read to its end.
        """
        pieces = self._pieces(self._caller.plan_chat(prompt, system, {**params, "stream": True}))
        self._streams.add(pieces)
        return pieces

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[False] = False,
        **params: Any,
    ) -> list[Reply]: ...

    @overload
    def map(
        self, prompts: Iterable[Item], *, system: str | None = None, return_errors: Literal[True], **params: Any
    ) -> list[Reply | LMError]: ...

    def map(
        self, prompts: Iterable[Item], *, system: str | None = None, return_errors: bool = False, **params: Any
    ) -> list[Reply] | list[Reply | LMError]:
        """Ask many questions at once, as many as the limit lets through; return the replies in order.

        Each prompt runs to its end. The second of two equal prompts is another sample, with a cache entry of its own.

        Args:
            prompts: a str or a conversation each.
            system: the system prompt of all.
            return_errors: put errors in the places of their replies instead of raising the first.
            params: keywords of every call.

        Raises:
            LMError: the first failure in order, ``auth`` and ``other`` before ``network``; its ``replies`` holds what
                came (None where lost), its ``errors`` all failures.
        """
        plans = self._caller.plan_map(prompts, system, params)
        begun: list[Call | Future[Call]] = []
        try:
            begun.extend(map(self._caller.start, plans))
            calls = [one if isinstance(one, Call) else self._wait(one) for one in begun]
        except BaseException as cut:
            self._caller.leave(begun, cut)
            raise
        return self._caller.settle_map(calls, return_errors=return_errors)  # type: ignore[no-any-return]  # by overload

    def embed(self, texts: str | Sequence[str], **params: Any) -> list[list[float]]:
        """Return a vector for each text, in one request."""
        return self._caller.vectors(self._reply(self._caller.plan_embed(texts, params)))

    def models(self) -> list[ModelInfo]:
        """Return what the server lists right now, loaded models first; not counted as a call."""
        try:
            return list(self._caller.runtime.loop.run(self._caller.models()))
        except Refused as refused:
            error = self._caller.server_error(refused.failure)
        raise error

    def close(self) -> None:
        """Cancel streams that were left open."""
        for pieces in list(self._streams):
            pieces.close()  # type: ignore[attr-defined]  # they are generators

    def _reply(self, plan: Planned) -> Reply:
        started = self._caller.start(plan)
        return self._caller.settle(started if isinstance(started, Call) else self._wait(started), plan.schema)

    def _ready(self, plan: Planned) -> Ready:
        known = self._caller.ready(plan)
        return known if known is not None else self._caller.runtime.loop.run(self._caller.resolved(plan))

    def _wait(self, future: Future[Call]) -> Call:
        return wait(self._caller.runtime, future)

    def _pieces(self, plan: Planned) -> Iterator[str]:
        ready = self._ready(plan)
        replayed = self._caller.replayed(ready)
        if replayed is not None:
            yield from replayed
            return
        loop = self._caller.runtime.loop
        flow = self._caller.open_stream(ready)
        try:
            while isinstance(piece := loop.run(flow.next()), str):
                yield piece
            self._caller.settle(piece, None)
        finally:
            flow.cancel()


class AsyncLM:
    """`LM` with coroutines, for pytest-asyncio and anyio; see there for keywords and errors."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._streams: weakref.WeakSet[AsyncPieces] = weakref.WeakSet()

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
        self._streams.add(pieces)
        return pieces

    @overload
    async def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[False] = False,
        **params: Any,
    ) -> list[Reply]: ...

    @overload
    async def map(
        self, prompts: Iterable[Item], *, system: str | None = None, return_errors: Literal[True], **params: Any
    ) -> list[Reply | LMError]: ...

    async def map(
        self, prompts: Iterable[Item], *, system: str | None = None, return_errors: bool = False, **params: Any
    ) -> list[Reply] | list[Reply | LMError]:
        """Ask many questions at once; see `LM.map`."""
        plans = self._caller.plan_map(prompts, system, params)
        begun: list[Call | Future[Call]] = []
        cut: BaseException | None = None
        calls: list[Call] = []
        try:
            for plan in plans:
                begun.append(self._caller.begin(await self._ready(plan)))  # noqa: PERF401  # those begun must be left
            calls = [one if isinstance(one, Call) else await self._wait(one) for one in begun]
        except BaseException as error:  # noqa: BLE001  # raised below, see `leave`
            cut = error
        if cut is not None:
            self._caller.leave(begun, cut)
            raise cut
        return self._caller.settle_map(calls, return_errors=return_errors)  # type: ignore[no-any-return]  # by overload

    def close(self) -> None:
        """Cancel streams that were left open."""
        for pieces in list(self._streams):
            pieces.cancel()

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
        return replayed if replayed is not None else self._caller.open_stream(ready)

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
