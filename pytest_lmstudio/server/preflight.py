"""Before the first request of a run, once for all its processes: is the server there, and is the model ready?"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any, Literal

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.attempt import AttemptFailed, get_json, run_attempt
from pytest_lmstudio.engine.deadline import Limits
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.errors import KINDS, ErrorKind
from pytest_lmstudio.records import ModelInfo, ServerInfo
from pytest_lmstudio.server import models as dialects
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.shared import Shared
    from pytest_lmstudio.engine.transport import Transport
    from pytest_lmstudio.records import Endpoint, Request

#: How long a list of models may take, and how often a server that is still starting is asked for it.
LIST_TIMEOUT_S = 10.0
_ASK_AGAIN_S = 0.5
#: How long a server that says it is loading is waited for, and a model that was lost.
_LOADING_S = 60.0
#: How long the first load of a model may take.
WARM_UP_S = 300.0
_OK, _UNAVAILABLE = 200, 503
_SHOWN_MODELS = 20
_QUEUEING = (
    "up to {limit} requests may be in flight, but the server answers {most} at once; the rest waits inside the server, "
    "where waiting eats the timeout: lower EVAL_CONCURRENCY, or load the model with more parallel slots"
)


class Preflight:
    """Looks at the server once a run, and at each model once.

    Args:
        transport: connections to the server.
        shared: what the run's processes share.
        wait_s: how long to wait for a server that is still starting.
        limit: requests that may be in flight at once.
        log: writes an event.
        clean: takes secrets and control characters out of a text from outside.
        list_timeout_s: how long a list of models may take.
    """

    def __init__(
        self,
        transport: Transport,
        shared: Shared,
        *,
        wait_s: float,
        limit: int,
        log: Callable[..., None],
        clean: Callable[[str], str],
        list_timeout_s: float = LIST_TIMEOUT_S,
    ) -> None:
        self._transport = transport
        self._shared = shared
        self._wait_s = wait_s
        self._limit = limit
        self._log = log
        self._clean = clean
        self._list_timeout_s = list_timeout_s
        self._info: ServerInfo | None = None
        self._ready: set[str] = set()

    async def server(self) -> ServerInfo:
        """Return what is known of the server; it is asked once a run."""
        if self._info is None:
            self._info = info_from(await self._shared.once("server", self._look_and_log))
        return self._info

    async def models(self) -> tuple[ModelInfo, ...]:
        """Ask for the list of models anew.

        Raises:
            Refused: the server cannot be asked.
        """
        info = await self.look()
        if info.problem_kind is not None:
            raise Refused(Failure(info.problem_kind, info.problem or "", "connecting"))
        return info.models

    async def ready(self, request: Request) -> None:
        """Make sure that a request can be sent; a model that is known but not loaded is warmed up, once.

        Raises:
            Refused: there is no server, or the model cannot be loaded.
        """
        if request.model in self._ready:
            return
        info = await self.server()
        if not info.reachable:
            raise Refused(Failure(ErrorKind.UNREACHABLE, info.problem or "", "connecting"))
        model = dialects.find(info.models, request.model)
        if request.endpoint != "chat":
            return
        if model is not None and model.loaded is False:
            await self._warm(request.model)
        self._ready.add(request.model)

    async def _warm(self, model: str) -> None:
        name = f"model-{hashlib.sha256(model.encode(errors='replace')).hexdigest()[:16]}"
        warm = await self._shared.once(name, lambda: self._warm_up(model))
        if warm.get("kind"):
            raise Refused(Failure(ErrorKind(warm["kind"]), warm["message"]))

    async def only_model(self, endpoint: Endpoint) -> str:
        """Return the one model that can answer; see `only_model_of`."""
        return only_model_of(await self.server(), endpoint)

    async def model_back(self, model: str) -> None:
        """Wait until the list of models shows a model again, at most 60 s."""
        until_s = time.monotonic() + _LOADING_S
        while time.monotonic() < until_s:
            try:
                status, body = await get_json(self._transport, "/v1/models", self._list_timeout_s)
            except AttemptFailed:
                status, body = 0, None
            listed = dialects.from_openai(body) if status == _OK else None
            if status not in {0, _UNAVAILABLE} and (listed is None or dialects.find(listed, model)):
                return
            await asyncio.sleep(_ASK_AGAIN_S)

    async def look(self) -> ServerInfo:
        """Ask the server what it is, patiently while it starts."""
        start_s = time.monotonic()
        while True:
            try:
                info, loading = await self._ask()
            except AttemptFailed as failed:
                info, loading = self._silent(failed.failure), False
            patience_s = max(self._wait_s, _LOADING_S) if loading else self._wait_s
            if (info.reachable and not loading) or time.monotonic() - start_s >= patience_s:
                return info
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _look_and_log(self) -> dict[str, Any]:
        info = await self.look()
        plain = info.as_dict()
        self._log("preflight", server=plain)
        most = max((model.parallel or 0 for model in info.models if model.loaded is not False), default=0)
        if 0 < most < self._limit:
            self._log("note", message=_QUEUEING.format(limit=self._limit, most=most))
        return plain

    def _silent(self, failure: Failure) -> ServerInfo:
        """Return what to make of a server that did not answer."""
        url = self._transport.url
        message = self._clean(failure.message)
        if failure.phase == "connecting":
            return ServerInfo(url, reachable=False, problem=message, problem_kind=ErrorKind.UNREACHABLE)
        problem = f"it did not list its models: {message}"
        return ServerInfo(url, reachable=True, problem=problem, problem_kind=failure.kind)

    async def _ask(self) -> tuple[ServerInfo, bool]:
        """Return what the server is, and whether it says that it is still loading."""
        url = self._transport.url
        for path, read in (("/api/v1/models", dialects.from_v1), ("/api/v0/models", dialects.from_v0)):
            status, body = await get_json(self._transport, path, self._list_timeout_s)
            if status == _OK and (models := read(body)) is not None:
                return ServerInfo(url, reachable=True, kind="lmstudio", models=models), False
            if status in {401, 403}:
                return self._unlisted(status, body), False
        status, body = await get_json(self._transport, "/v1/models", self._list_timeout_s)
        models = dialects.from_openai(body) if status == _OK else None
        if models is None:
            return self._unlisted(status, body), status == _UNAVAILABLE
        if not dialects.is_llama_cpp(body):
            return ServerInfo(url, reachable=True, kind="openai", models=models), False
        return await self._llama_cpp(models), False

    async def _llama_cpp(self, models: tuple[ModelInfo, ...]) -> ServerInfo:
        """Return the facts of a llama.cpp server, which tells its slots apart from its models."""
        _, props = await get_json(self._transport, "/props", self._list_timeout_s)
        props = props if isinstance(props, dict) else {}
        slots, build = props.get("total_slots"), props.get("build_info")
        if isinstance(slots, int) and slots > 0:
            models = tuple(ModelInfo(m.id, m.type, m.loaded, m.quantization, m.context_length, slots) for m in models)
        known = isinstance(build, str) and not build.endswith("unknown")  # "b0-unknown" is built from no release
        version = printable(build, limit=100) if known else None
        return ServerInfo(self._transport.url, reachable=True, version=version, kind="llama.cpp", models=models)

    def _unlisted(self, status: int, body: object) -> ServerInfo:
        """Return what to make of a server that answers, but lists no models."""
        kind = {401: ErrorKind.AUTH, 403: ErrorKind.AUTH, _UNAVAILABLE: ErrorKind.SERVER_ERROR}.get(
            status, ErrorKind.WRONG_URL
        )
        said = self._clean(wire.error_message(body)) if isinstance(body, dict) else ""
        problem = f"it did not list its models (HTTP {status}){': ' + said if said else ''}"
        return ServerInfo(self._transport.url, reachable=True, problem=problem, problem_kind=kind)

    async def _warm_up(self, model: str) -> dict[str, Any]:
        """Let the server load a model, by one token; parallel first requests would load it several times."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        start_s = time.monotonic()
        kind: ErrorKind | None = ErrorKind.CANCELLED
        self._log("model_load_start", model=model)
        try:
            await run_attempt(
                self._transport,
                "/v1/chat/completions",
                wire.encode(body, stream=False),
                limits=Limits(WARM_UP_S),
                check=lambda answer: answer if isinstance(answer, dict) else {},
            )
        except AttemptFailed as failed:
            kind = failed.failure.kind
            if KINDS[kind].category != "network":
                return {"kind": str(kind), "message": self._clean(failed.failure.message)}
        else:
            kind = None
        finally:
            latency_ms = round((time.monotonic() - start_s) * 1000, 1)
            self._log("model_load_end", model=model, latency_ms=latency_ms, error_kind=kind)
        return {}


def info_from(plain: dict[str, Any]) -> ServerInfo:
    """Undo `ServerInfo.as_dict`."""
    known = dict(plain)
    known["models"] = tuple(ModelInfo(**model) for model in known["models"])
    known["problem_kind"] = ErrorKind(known["problem_kind"]) if known["problem_kind"] else None
    return ServerInfo(**known)


def only_model_of(info: ServerInfo, endpoint: Endpoint) -> str:
    """Return the one model of a server that can answer.

    Raises:
        Refused: there is none, or several, or no list of them.
    """
    if info.problem_kind is not None:
        raise Refused(Failure(info.problem_kind, info.problem or "", "connecting"))
    kind: Literal["llm", "embedding"] = "llm" if endpoint == "chat" else "embedding"
    found = list(dialects.answering(info.models, kind))
    if len(found) == 1:
        return found[0].id
    known = ", ".join(model.id for model in (found or info.models)[:_SHOWN_MODELS]) or "none"
    what = f"several {kind} models are loaded" if found else f"no {kind} model is loaded"
    msg = f"{what}, and none is named; {'loaded' if found else 'known'}: {known}"
    raise Refused(Failure(ErrorKind.NO_MODEL, msg))
