"""A server asked directly: without cache, retries, slots or breaker, and without a trace on disk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer, read_reply
from pytest_lmstudio.engine.attempt import AttemptFailed, Page, get, run_attempt
from pytest_lmstudio.engine.drain import cut_off_all
from pytest_lmstudio.engine.exchange import json_or_none
from pytest_lmstudio.engine.loop import Loop
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.records import CallOptions, Request
from pytest_lmstudio.server import models as dialects
from pytest_lmstudio.server.preflight import LIST_TIMEOUT_S, Preflight, only_model_of
from pytest_lmstudio.text import printable, redact

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pytest_lmstudio.engine.attempt import Answer
    from pytest_lmstudio.engine.deadline import Limits
    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.records import ServerInfo
    from pytest_lmstudio.reply import Reply

GREETING = "/lmstudio-greeting"
#: A server that is there answers these from memory.
_PAGE_S = 5.0
_LEAST_PAGE_S = 1.0
_OK, _REFUSED = 200, frozenset({401, 403})
_LONGEST = 300


class Features(NamedTuple):
    """What tells LM Studio's age; it has no route that tells its version.

    Attributes:
        greets: whether it calls itself LM Studio.
        api_v1: whether it has ``/api/v1``, as 0.4.0 and newer.
        api_v0: whether it has ``/api/v0``, as 0.3.6 and newer.
        capabilities: whether ``/api/v0`` tells capabilities, as 0.3.16 and newer.
        usable: the models that a request can name, None when they are not listed.

    Source: https://lmstudio.ai/docs/developer/api-changelog.
    """

    greets: bool
    api_v1: bool
    api_v0: bool
    capabilities: bool
    usable: frozenset[str] | None


class Generation(NamedTuple):
    """One generation: its reply, or its failure, whose message is safe to show; and how long it took, ms."""

    reply: Reply | None
    failure: Failure | None
    latency_ms: float


class Probe:
    """Asks one server; used as a context manager, by any thread.

    Args:
        url: base URL.
        token: the API token, or None.
        wait_s: how long to wait for a server that is still starting.
        timeout_s: how long an answer may take that is no generation, at least 1 s; it has limits of its own, too.
    """

    def __init__(self, url: str, token: str | None, *, wait_s: float = 0.0, timeout_s: float = math.inf) -> None:
        self.url = url
        self._token = token
        patience_s = max(timeout_s, _LEAST_PAGE_S)
        self._page_s = min(_PAGE_S, patience_s)
        self._loop = Loop()
        self._transport = Transport(url, token)
        self._preflight = Preflight(
            self._transport,
            Shared(None, 1),
            wait_s=wait_s,
            limit=1,
            log=_leave_no_trace,
            clean=self._clean,
            list_timeout_s=min(LIST_TIMEOUT_S, patience_s),
        )

    def __enter__(self) -> Self:
        """Return the probe."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is under way, and close the connections."""
        self.cut_off()
        self._loop.run(self._transport.close())
        self._loop.close()

    def cut_off(self) -> None:
        """End what is under way; who waits for it gets `concurrent.futures.CancelledError`."""
        self._loop.run(cut_off_all())

    def look(self) -> ServerInfo:
        """Return what the server is, and its models."""
        return self._loop.run(self._preflight.look())

    def only_model(self) -> str:
        """Return the one model that can answer.

        Raises:
            Refused: there is none, or several, or no list of them.
        """
        return only_model_of(self.look(), "chat")

    def page(self, path: str) -> Page | Failure:
        """Return what a GET brings."""
        try:
            return self._loop.run(get(self._transport, path, self._page_s))
        except AttemptFailed as failed:
            return self._safe(failed.failure)

    def greets(self) -> bool:
        """Tell whether the server calls itself LM Studio."""
        body = self._json(GREETING)
        return isinstance(body, dict) and body.get("lmstudio") is True

    def refuses(self) -> bool:
        """Tell whether the server wants another token than this."""
        page = self.page("/v1/models")
        return isinstance(page, Page) and page.status in _REFUSED

    def features(self) -> Features:
        """Return what the server has."""
        v1, v0, listed = (self._json(path) for path in ("/api/v1/models", "/api/v0/models", "/v1/models"))
        rows = v0.get("data") if isinstance(v0, dict) else None
        usable = dialects.from_openai(listed)
        return Features(
            greets=self.greets(),
            api_v1=dialects.from_v1(v1) is not None,
            api_v0=dialects.from_v0(v0) is not None,
            capabilities=any("capabilities" in row for row in rows or () if isinstance(row, dict)),
            usable=None if usable is None else frozenset(model.id for model in usable),
        )

    def generate(  # one generation needs all of it
        self, model: str, prompt: str, *, max_tokens: int, limits: Limits, stream: bool = True
    ) -> Generation:
        """Ask once; return what came of it."""
        request = _request(model, prompt, max_tokens, limits, stream=stream)
        try:
            answer = self._loop.run(self._answer(request, limits))
        except AttemptFailed as failed:
            return Generation(None, self._safe(failed.failure), failed.latency_ms)
        times = {"latency_ms": answer.latency_ms, "ttft_ms": answer.ttft_ms}
        return Generation(read_reply(request, answer.body, times, attempts=1), None, answer.latency_ms)

    async def _answer(self, request: Request, limits: Limits) -> Answer:
        """Ask on a new connection: on a kept one, a server that hangs up at once would be asked again, unseen."""
        transport = Transport(self.url, self._token)
        content = wire.encode(request.body, stream=request.options.stream)
        try:
            return await run_attempt(
                transport,
                "/v1/chat/completions",
                content,
                limits=limits,
                check=lambda body: check_answer(request, body),
            )
        finally:
            await transport.close()

    def _json(self, path: str) -> object:
        page = self.page(path)
        return json_or_none(page.text) if isinstance(page, Page) and page.status == _OK else None

    def _safe(self, failure: Failure) -> Failure:
        return failure._replace(message=self._clean(failure.message))

    def _clean(self, text: str) -> str:
        return printable(redact(text, (self._token,) if self._token else ()), limit=_LONGEST)


def greets(url: str) -> bool:
    """Tell whether an LM Studio is at a URL; false also where nothing can be asked."""
    with Probe(url, None) as probe:
        return probe.greets()


def _request(model: str, prompt: str, max_tokens: int, limits: Limits, *, stream: bool) -> Request:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    options = CallOptions(limits.attempt_s, 0, 0.0, "off", stream, limits.first_token_s, limits.inter_token_s)
    return Request("", "", "chat", model, body, body, "", len(prompt), options)


def _leave_no_trace(_: str, **__: object) -> None:
    """Take an event, and write it nowhere."""
