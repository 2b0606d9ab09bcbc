"""Errors that the server reports in words: statuses with bodies, and events inside a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Unpack

from tests.standin import catalog, http1, loading
from tests.standin.exchange import CrashedError
from tests.standin.steps import Step, Times, Timing, send_deltas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.standin.exchange import Exchange

CRASH = "The model has crashed without additional information. (Exit code: null)"
OVERFLOW = (
    "Input does not fit in context length. "
    "The input has 31430 tokens, but the context length only supports 30000 tokens."
)
NO_TOKEN = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the Authorization "
    "header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). Learn more at: "
    "https://lmstudio.ai/docs/developer/core/authentication."
)
EXPRESS_500 = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n<body>\n'
    "<pre>Internal Server Error</pre>\n</body>\n</html>\n"
)


def status(
    code: int,
    body: str | bytes | dict[str, Any] = "",
    headers: Mapping[str, str] | None = None,
    *,
    name: str = "status",
    **times: Unpack[Times],
) -> Step:
    """Answer with this status; a dict is sent as JSON, a str as HTML, as Express does."""
    data = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else http1.dump(body)
    content_type = http1.JSON if isinstance(body, dict) else http1.HTML

    async def act(exchange: Exchange) -> None:
        await exchange.respond(code, data, content_type, headers)

    return Step(name, act, Timing(**times), generates=False)


def error_string(code: int, msg: str, **times: Unpack[Times]) -> Step:
    """Answer ``{"error": "msg"}``, the form of engine failures."""
    return status(code, {"error": msg}, name="error_string", **times)


def error_object(
    code: int,
    msg: str,
    type: str = "invalid_request_error",  # noqa: A002  # the wire's name
    param: str | None = None,
    code_: Any = None,
    **times: Unpack[Times],
) -> Step:
    """Answer with the object form of an error."""
    body = catalog.error_object(msg, type=type, param=param, code=code_)
    return status(code, body, name="error_object", **times)


def stream_error(msg: str = OVERFLOW, after_tokens: int = 0, *, done: bool = False, **times: Unpack[Times]) -> Step:
    """Answer 200, some deltas and ``event: error``, then end without ``[DONE]`` unless `done`.

    A request that does not stream gets 400 and the bare string.
    """
    return _failing("stream_error", msg, msg, 400, after_tokens, Timing(**times), done=done)


def engine_error(
    status: int = 400,
    inner_message: str = "Unable to generate parser for this template.",
    *,
    type: str = "invalid_request_error",  # noqa: A002  # the wire's name
    http_status: int = 400,
    after_tokens: int = 0,
    extra: Mapping[str, Any] | None = None,
    **times: Unpack[Times],
) -> Step:
    """Fail with the engine's own JSON error wrapped in text; `status` is the engine's, `http_status` the answer's."""
    inner = {"error": {"code": status, "message": inner_message, "type": type, **(extra or {})}}
    text = json.dumps(inner, separators=(",", ":"))
    whole = f"Engine protocol predict request returned {status}: {text}"
    event = f"Engine protocol predict stream returned an error: {text}"
    return _failing("engine_error", whole, event, http_status, after_tokens, Timing(**times))


def _failing(  # noqa: PLR0917  # private: both callers are above
    name: str, whole: str, event: str, http_status: int, after_tokens: int, timing: Timing, *, done: bool = False
) -> Step:
    async def act(exchange: Exchange) -> None:
        exchange.log(whole, "ERROR")
        if not exchange.stream:
            return await exchange.respond_json(http_status, {"error": whole})
        await send_deltas(exchange, exchange.deltas(after_tokens), timing.per_token_s)
        last = http1.event({"error": {"message": event}, "message": event}, "error")
        return await exchange.finish(last + (http1.DONE if done else b""))

    return Step(name, act, timing)


def crash(message: str = CRASH, away_s: float | None = 0.0, **times: Unpack[Times]) -> Step:
    """Fail this request and all others in flight with one message, such as ``Model unloaded.``.

    `away_s` is how long the model is not loaded afterwards; None: until something loads it.
    """

    async def act(exchange: Exchange) -> None:
        exchange.server.journal.log(f"Error: {message}", "ERROR")
        loading.lose(exchange.server, exchange.model, away_s)
        exchange.server.interrupt_others(exchange, CrashedError(message))
        raise CrashedError(message)

    return Step("crash", act, Timing(**times))


def html_500(**times: Unpack[Times]) -> Step:
    """Answer Express's page for an exception."""
    headers = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
    return status(500, EXPRESS_500, headers, name="html_500", **times)


def unexpected_endpoint(**times: Unpack[Times]) -> Step:
    """Answer as if the route were unknown: 200 and an error."""

    async def act(exchange: Exchange) -> None:
        await unknown_route(exchange)

    return Step("unexpected_endpoint", act, Timing(**times), generates=False)


async def unknown_route(exchange: Exchange) -> None:
    """Answer a request for a route that the server does not have."""
    what = f"Unexpected endpoint or method. ({exchange.received.method} {exchange.received.path})"
    exchange.server.journal.log(f"{what}. Returning 200 anyway", "ERROR")
    await exchange.respond_json(200, {"error": what})


def rate_limit(retry_after: float | str | None = None, code: int = 429, **times: Unpack[Times]) -> Step:
    """Answer 429, or 503, with Retry-After unless None; a number is seconds, a str goes out as it is."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = catalog.error_object("Rate limit reached", type="rate_limit_error")
    return status(code, body, headers, name="rate_limit", **times)


def loading_503(**times: Unpack[Times]) -> Step:
    """Answer as llama.cpp does while it loads."""
    body = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    return status(503, body, name="loading_503", **times)


def auth_401(message: str = NO_TOKEN, **times: Unpack[Times]) -> Step:
    """Answer that a token is needed."""
    return status(401, auth_body(message), name="auth_401", **times)


def auth_body(message: str = NO_TOKEN) -> dict[str, Any]:
    """Return the body of a 401."""
    return {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": message}}


def redirect(to: str, code: int = 307, **times: Unpack[Times]) -> Step:
    """Answer that the route is elsewhere."""
    return status(code, "", {"Location": to}, name="redirect", **times)
