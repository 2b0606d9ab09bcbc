"""What `LM` and `AsyncLM` have in common: from keywords to a call, and from a call to what the test gets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.client import asking
from pytest_lmstudio.client.waiting import leave
from pytest_lmstudio.engine.answers import pieces_of, prompt_chars, reply_of
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.engine.key import cache_key, question
from pytest_lmstudio.errors import UNKNOWN_MODEL, ErrorKind, LMError, describe, make_error
from pytest_lmstudio.keywords import TRANSPORT
from pytest_lmstudio.records import Call, Endpoint, Request

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.runtime import Runtime
    from pytest_lmstudio.settings import Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

Item = str | Sequence[Mapping[str, Any]]

_READING = frozenset({"readwrite", "offline"})
_WHICH_MODEL = (
    f"{UNKNOWN_MODEL}, since none is remembered for this address; name --lmstudio-model "
    "(`pytest-lmstudio cache stats` lists those of the cache)"
)
_NO_LIST = (
    "[cache_miss] models() asks the server at {url}, and with --lmstudio-cache=offline nobody does; a list of models "
    "is never recorded: name the model with --lmstudio-model, or run this test with --lmstudio-cache=readwrite"
)


class Scope:
    """The test that calls are booked to.

    Attributes:
        nodeid: the test's id, empty outside of tests.
        calls: every call it made, in the order in which they ended.
    """

    def __init__(self, nodeid: str) -> None:
        """Begin with no call."""
        self.nodeid = nodeid
        self.calls: list[Call] = []


class Planned(NamedTuple):
    """A call whose model may not be known yet."""

    endpoint: Endpoint
    asked: asking.Asked
    content: dict[str, Any]
    schema: dict[str, Any] | None = None
    sample: int = 0


class Ready(NamedTuple):
    """A call that can be made, or (with a failure) cannot."""

    request: Request
    failure: Failure | None = None


class Caller:
    """Plans, begins and settles calls for one test.

    Args:
        runtime: what the process opened for calls.
        scope: says which test calls are booked to.
        marker: the checked keywords of the test's marker.
    """

    def __init__(self, runtime: Runtime, scope: Any, marker: Mapping[str, Any]) -> None:
        self.runtime = runtime
        self.settings: Settings = asking.effective(runtime.settings, marker)
        self._scope = scope
        self._marker = marker

    # Planning.

    def plan_chat(
        self,
        prompt: object,
        system: str | None,
        keywords: dict[str, Any],
        schema: dict[str, Any] | None = None,
        *,
        need_schema: bool = False,
        sample: int = 0,
    ) -> Planned:
        """Plan one chat completion."""
        asked = asking.sorted_out(self.runtime.settings, self._marker, keywords) if keywords else self._usual
        content: dict[str, Any] = {
            "messages": asking.messages_for(prompt, self._marker.get("system") if system is None else system)
        }
        if schema is not None or need_schema:
            from pytest_lmstudio.client import schema as schemas  # jsonschema costs 30 ms that most suites need not pay

            schemas.check_schema(schema)
            if "response_format" in asked.params:
                msg = "a call with a schema sets response_format itself; leave one of the two out"
                raise TypeError(msg)
            content["response_format"] = schemas.response_format(schema or {})
        return Planned("chat", asked, content, schema, sample)

    @property
    def _usual(self) -> asking.Asked:
        """Return what a call without keywords says; the same for all tests of equal marks."""
        known: dict[str, asking.Asked] = self.runtime.usual
        marks = repr(self._marker)
        if marks not in known:
            known[marks] = asking.sorted_out(self.runtime.settings, self._marker, {})
        return known[marks]

    def plan_map(self, prompts: Iterable[Item], system: str | None, keywords: dict[str, Any]) -> list[Planned]:
        """Plan many; the nth of equal prompts is sample n."""
        if isinstance(prompts, str):
            msg = "map takes a list of prompts; for one prompt call lm(prompt)"
            raise TypeError(msg)
        seen: dict[str, int] = {}
        plans = []
        for prompt in prompts:
            plan = self.plan_chat(prompt, system, keywords)
            same = _key({"messages": plan.content["messages"]})
            plans.append(plan._replace(sample=seen.get(same, 0)))
            seen[same] = seen.get(same, 0) + 1
        return plans

    def plan_embed(self, texts: object, keywords: dict[str, Any]) -> Planned:
        """Plan one request for embeddings."""
        # Parameters and the model of the settings and marks are meant for chats.
        travel = {name: value for name, value in self._marker.items() if name in TRANSPORT and name != "model"}
        asked = asking.sorted_out(self.runtime.settings._replace(params=()), travel, keywords)
        return Planned("embeddings", asked, {"input": asking.texts_for(texts)})

    # Making ready.

    def ready(self, plan: Planned) -> Ready | None:
        """Return the call with its model, or None when the server must be asked for the model."""
        if (error := self.runtime.problem) is not None:
            raise error
        model = plan.asked.model or self.runtime.known_model(plan.endpoint)
        if model is None and self.settings.cache == "offline":
            model = self.runtime.remembered_model(plan.endpoint)
            if model is None:
                return Ready(self._request(plan, ""), Failure(ErrorKind.CACHE_MISS, _WHICH_MODEL, "connecting"))
        return None if model is None else Ready(self._request(plan, model))

    async def resolved(self, plan: Planned) -> Ready:
        """Ask the server which model can answer."""
        try:
            with self.runtime.engine.wait():
                model = await self.runtime.preflight.only_model(plan.endpoint)
        except Refused as refused:
            return self._unresolved(plan, refused.failure)
        self.runtime.remember_model(plan.endpoint, model)
        return Ready(self._request(plan, model))

    def _unresolved(self, plan: Planned, failure: Failure) -> Ready:
        """Do without the server: a remembered model may still find its answers in the cache."""
        if failure.kind is ErrorKind.NO_MODEL and plan.endpoint == "embeddings" and self.settings.model:
            return Ready(self._request(plan, self.settings.model))
        model = self.runtime.remembered_model(plan.endpoint) if failure.kind is ErrorKind.UNREACHABLE else None
        if model is not None:
            return Ready(self._request(plan, model))
        return Ready(self._request(plan, ""), failure)

    def _request(self, plan: Planned, model: str) -> Request:
        body = {"model": model, **plan.content, **plan.asked.params}
        asked = _asked(self.settings.pipeline_version, plan, body)
        return Request(
            call_id=os.urandom(16).hex(),
            nodeid=self._scope().nodeid,
            endpoint=plan.endpoint,
            model=model,
            body=body,
            asked=asked,
            key=_key(asked),
            prompt_chars=prompt_chars(body),
            options=plan.asked.options,
        )

    # Calling.

    def start(self, plan: Planned) -> Call | Future[Call]:
        """Return the call from the cache, or the future of one on its way; the first one may wait for the server."""
        ready = self.ready(plan)
        return self.begin(ready if ready is not None else self.runtime.loop.run(self.resolved(plan)))

    def begin(self, ready: Ready) -> Call | Future[Call]:
        """Return the call from the cache, or the future of one on its way."""
        request, failure = ready
        if failure is not None:
            return self.runtime.engine.refuse(request, failure)
        reply = self.look(request)
        if reply is not None:
            return self.hit(request, reply)
        if request.options.cache == "offline":
            return self._missed(request)
        return self.runtime.loop.submit(self.runtime.engine.call(request))

    def look(self, request: Request) -> Reply | None:
        """Return the answer that the cache holds; that is no call yet."""
        entry = self._entry(request)
        return reply_of(request, entry, cached=True) if entry is not None else None

    def look_all(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Return the answer that the cache holds to each, with one look."""
        cache = self.runtime.cache
        reading = [request for request in requests if request.options.cache in _READING]
        entries = cache.get_all([request.key for request in reading]) if reading and cache is not None else {}
        found = {one.call_id: reply_of(one, entries[one.key], cached=True) for one in reading if one.key in entries}
        return [found.get(request.call_id) for request in requests]

    def hit(self, request: Request, reply: Reply) -> Call:
        """Make a call of an answer from the cache."""
        self.runtime.books.cached(request, "cache")
        return Call(request, (), reply)

    def replayed(self, ready: Ready) -> list[str] | None:
        """Return a cached answer in its pieces, or None when it must be asked for."""
        request, failure = ready
        if failure is not None:
            self.settle(self.runtime.engine.refuse(request, failure), None)
        entry = self._entry(request)
        reply = reply_of(request, entry, cached=True) if entry is not None else None
        if entry is not None and reply is not None:
            self.settle(self.hit(request, reply), None)
            return pieces_of(entry, reply.text)
        if request.options.cache == "offline":
            self.settle(self._missed(request), None)
        return None

    def leave(self, begun: Iterable[Call | Future[Call]], cut: BaseException) -> None:
        """Go on without calls that were begun; see `waiting.leave`."""
        leave(self.runtime, [one for one in begun if not isinstance(one, Call)], cut)

    def _entry(self, request: Request) -> dict[str, Any] | None:
        cache = self.runtime.cache if request.options.cache in _READING else None
        return cache.get(request.key) if cache is not None else None

    def _missed(self, request: Request) -> Call:
        from pytest_lmstudio.engine.nearest import explain_miss

        cache = self.runtime.cache
        why = explain_miss(request, cache.entries() if cache is not None else ())
        return self.runtime.engine.refuse(request, Failure(ErrorKind.CACHE_MISS, why, "connecting"))

    # Settling.

    def settle(self, call: Call, schema: dict[str, Any] | None) -> Reply:
        """Book a call; return its reply, or raise its error."""
        self._scope().calls.append(call)
        if call.error is not None:
            raise call.error
        return self._reply(call, schema)

    def book(self, calls: Sequence[Call]) -> None:
        """Note calls as those of the test."""
        self._scope().calls.extend(calls)

    def _reply(self, call: Call, schema: dict[str, Any] | None) -> Reply:
        reply = call.reply
        if reply is None:  # a call has an error or a reply
            msg = "a call ended without a reply and without an error"
            raise RuntimeError(msg)
        if schema is None:
            return reply
        from pytest_lmstudio.client import schema as schemas

        return replace(reply, parsed=schemas.parse(reply, schema))

    def vectors(self, reply: Reply) -> list[list[float]]:
        """Return the vectors of an embeddings reply, in the order of their texts."""
        rows = reply.raw["data"]
        if all(isinstance(row.get("index"), int) for row in rows):
            rows = sorted(rows, key=lambda row: row["index"])
        return [row["embedding"] for row in rows]

    async def models(self) -> tuple[ModelInfo, ...]:
        """Ask the server for its models.

        Raises:
            Refused: the server cannot be asked, or may not be, since the run is offline.
        """
        if self.settings.cache == "offline":
            raise Refused(Failure(ErrorKind.CACHE_MISS, "", "connecting"))
        with self.runtime.engine.wait() if self.runtime.opened else nullcontext():
            return await self.runtime.preflight.models()

    def server_error(self, failure: Failure) -> LMError:
        """Return the error of a look at the server, which is no call."""
        url = self.runtime.settings.url
        if failure.kind is ErrorKind.CACHE_MISS:
            return make_error(failure.kind, _NO_LIST.format(url=url), url=url)
        text = describe(failure.kind, failure.message, url=url, model=None, attempt=0, of=0, phase=None)
        return make_error(failure.kind, text, url=url)


def _asked(pipeline_version: str, plan: Planned, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return question(pipeline_version, plan.endpoint, body, plan.sample)
    except RecursionError as error:
        raise _no_json(error) from None


def _key(asked: dict[str, Any]) -> str:
    try:
        return cache_key(asked)
    except (TypeError, ValueError, RecursionError) as error:
        raise _no_json(error) from None


def _no_json(error: Exception) -> TypeError:
    return TypeError(f"the request holds something that JSON cannot carry: {error}")
