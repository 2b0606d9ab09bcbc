"""What tests call: `LM`; its twin with coroutines is in `alm`."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_lmstudio.client.waiting import wait
from pytest_lmstudio.engine.failure import Refused
from pytest_lmstudio.records import Call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        self._open: weakref.WeakSet[Iterator[Any]] = weakref.WeakSet()

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
    ) -> list[Reply]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[True],
        as_completed: Literal[False] = False,
        **params: Any,
    ) -> list[Reply | LMError]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[False] = False,
        as_completed: Literal[True],
        **params: Any,
    ) -> Iterator[tuple[int, Reply]]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: Literal[True],
        as_completed: Literal[True],
        **params: Any,
    ) -> Iterator[tuple[int, Reply | LMError]]: ...

    def map(
        self,
        prompts: Iterable[Item],
        *,
        system: str | None = None,
        return_errors: bool = False,
        as_completed: bool = False,
        **params: Any,
    ) -> Any:
        """Ask many questions at once, as many as the limit lets through; return the replies in order.

        Each prompt runs to its end. The second of two equal prompts is another sample, with a cache entry of its own.

        Args:
            prompts: a str or a conversation each.
            system: the system prompt of all.
            return_errors: put errors in the places of their replies instead of raising the first.
            as_completed: return an iterator of place (0 for the first prompt) and reply, each as soon as it is there;
                what fails is left out, and raised when all others have come. Leaving the loop cancels what is left.
            params: keywords of every call.

        Raises:
            LMError: the first failure in order, ``auth`` and ``other`` before ``network``; its ``replies`` holds what
                came (None where lost), its ``errors`` all failures.
        """
        from pytest_lmstudio.client.mapping import completed, settled

        plans = self._caller.plan_map(prompts, system, params)
        if as_completed:
            arrivals = completed(self._caller, plans, return_errors=return_errors)
            self._open.add(arrivals)
            return arrivals
        begun: list[Call | Future[Call]] = []
        try:
            begun.extend(map(self._caller.start, plans))
            # Not `_wait`, which leaves the one it waits for: should the wait be cut, all are left together.
            loop = self._caller.runtime.loop
            calls = [one if isinstance(one, Call) else loop.wait(one) for one in begun]
        except BaseException as cut:
            self._caller.leave(begun, cut)
            raise
        return settled(self._caller, calls, return_errors=return_errors)

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
        """Cancel streams and calls that were left open."""
        for one in list(self._open):
            one.close()  # type: ignore[attr-defined]  # they are generators

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
        from pytest_lmstudio.client.streaming import Stream

        loop = self._caller.runtime.loop
        flow = Stream(self._caller.runtime, ready.request)
        try:
            while isinstance(piece := loop.run(flow.next()), str):
                yield piece
            self._caller.settle(piece, None)
        finally:
            flow.cancel()
