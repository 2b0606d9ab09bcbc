"""Which kind an error is. LM Studio answers most transient failures with 400, so messages decide before statuses."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.wire import error_message
from pytest_lmstudio.errors import KINDS, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lmstudio.errors import Category, Phase


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        kind: the kind; the category follows from it unless `forgiven`.
        message: one line from the server or the client, not yet cleaned.
        phase: how far the attempt got.
        status: the HTTP status, or None when none came.
        retry_after_s: what the server asked to wait, or None.
        awaits_model: whether the next attempt should wait until the models list shows the model.
        shared_context: whether other requests in flight may have used the context up.
        cut_at_limit: whether our own hard limit ended it.
        forgiven: whether it counts as ``network`` although its kind does not.
    """

    kind: ErrorKind
    message: str
    phase: Phase = "receiving"
    status: int | None = None
    retry_after_s: float | None = None
    awaits_model: bool = False
    shared_context: bool = False
    cut_at_limit: bool = False
    forgiven: bool = False

    @property
    def category(self) -> Category:
        """Return ``auth``, ``network`` or ``other``."""
        return "network" if self.forgiven else KINDS[self.kind].category

    @property
    def retried(self) -> bool:
        """Tell whether another attempt can help."""
        return self.forgiven or KINDS[self.kind].retried


class Refused(Exception):
    """An answer, or the lack of one, that is a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


#: Wordings of LM Studio 0.2 to 0.4 and Bionic, of its engines, and of llama.cpp's server; the first that fits decides.
#: "Channel Error" is an outer wrapper and comes last, since the cause may stand inside.
_WORDINGS: tuple[tuple[ErrorKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile("|".join(patterns), re.IGNORECASE))
    for kind, *patterns in (
        (ErrorKind.WRONG_URL, r"unexpected endpoint or method"),
        (
            ErrorKind.CONTEXT_OVERFLOW,
            r"\bn_ctx\b",
            r"\bn_keep\b",
            r"exceed_context_size_error",
            r"context size has been exceeded",
            r"exceeds the available context",
            r"does not fit in context length",
            r"context the overflows",
            r"reached context length",
            r"maximum context length",
        ),
        (
            ErrorKind.BAD_REQUEST,
            r"\bjinja\b",
            r"failed to parse grammar",
            r"failed to initialize samplers",
            r"failed to load image",
            r"unrecognized key\(s\)",
            r"unable to generate parser for this template",
            r"invalid discriminator value",
            r"'messages'",
        ),
        (ErrorKind.MODEL_LOST, r"operation canceled"),
        (
            ErrorKind.OUT_OF_MEMORY,
            r"insufficient system resources",
            r"failed to load model",
            r"error loading model",
            r"unable to allocate",
            r"out of memory",
            r"snapshot of system resources failed",
        ),
        (
            ErrorKind.NO_MODEL,
            r"no models? loaded",
            r"model_not_found",
            r"invalid model identifier",
            r"multiple models are loaded",
            r"no downloaded llm",
            r"model .{1,200} not (?:found|loaded)",
            r"model name is missing",
        ),
        (
            ErrorKind.MODEL_LOST,
            r"(?:model|it) has crashed",
            r"model (?:is |was )?(?:unloaded|reloaded)",
            r"channel error",
            r"exit code:",
        ),
        (ErrorKind.SERVER_ERROR, r"compute error", r"peer_keepalive_timeout"),
    )
)
#: LM Studio wraps its engine's error into the text of its own; what the engine said counts, and both may differ.
_ENGINE_STATUS = re.compile(
    r"engine protocol predict (?:request returned (\d{3})\b|.*?\"code\": ?(\d{3})\b)", re.IGNORECASE | re.DOTALL
)
_SHARED_CONTEXT = re.compile(r"context size has been exceeded", re.IGNORECASE)
_LOADING = re.compile(r"\bloading model\b|model is (?:still )?loading", re.IGNORECASE)
_MOST_DEPTH = 4


def unwrapped(message: str) -> str:
    """Return a message with the JSON that an engine wrapped into its text spelled out behind it.

    Such as ``Engine protocol predict request returned 400: {"error": {"message": "..."}}``.
    """
    parts = [message]
    for _ in range(_MOST_DEPTH):
        _, brace, inner = parts[-1].partition("{")
        try:
            body = json.JSONDecoder().raw_decode(brace + inner)[0]
        except (ValueError, RecursionError):
            break
        if not isinstance(body, dict):
            break
        error = body.get("error")
        kind = error.get("type", "") if isinstance(error, dict) else ""
        parts.append(f"{kind}: {error_message(body)}" if kind else error_message(body))
    return " | ".join(parts)


def kind_of_message(message: str) -> ErrorKind | None:
    """Return the kind that a known wording tells, or None."""
    whole = unwrapped(message)
    return next((kind for kind, pattern in _WORDINGS if pattern.search(whole)), None)


def kind_of_status(status: int, *, retry_after: bool) -> ErrorKind:
    """Return the kind that a status alone tells."""
    by_status = {
        401: ErrorKind.AUTH,
        403: ErrorKind.AUTH,
        404: ErrorKind.WRONG_URL,
        405: ErrorKind.WRONG_URL,
        408: ErrorKind.TIMEOUT,
        429: ErrorKind.RATE_LIMITED,
        501: ErrorKind.BAD_REQUEST,
        504: ErrorKind.TIMEOUT,
    }
    if status in by_status:
        return by_status[status]
    if status >= 500:  # noqa: PLR2004  # HTTP's own number
        return ErrorKind.RATE_LIMITED if status == 503 and retry_after else ErrorKind.SERVER_ERROR  # noqa: PLR2004
    return ErrorKind.WRONG_URL if 300 <= status < 400 else ErrorKind.BAD_REQUEST  # noqa: PLR2004


def classify(status: int, headers: Mapping[str, str], body: object, text: str) -> Failure:
    """Return why an answer with an error status, or with a body that holds an error, is a failure.

    Args:
        status: the HTTP status, or 200 for an error inside a stream.
        headers: by lower-case name.
        body: the JSON body, or None where it is none.
        text: the body as text.
    """
    message = _with_code(body) if isinstance(body, dict) else _plain(text) or f"HTTP {status}"
    retry_after_s = retry_after(headers)
    kind = _kind(status, message, retry_after_s, _engine_status(status, body, message))
    return Failure(
        kind,
        message,
        status=status,
        retry_after_s=retry_after_s,
        awaits_model=kind is ErrorKind.MODEL_LOST or (status == 503 and bool(_LOADING.search(message))),  # noqa: PLR2004
        shared_context=bool(kind is ErrorKind.CONTEXT_OVERFLOW and _SHARED_CONTEXT.search(message)),
    )


def _kind(status: int, message: str, retry_after_s: float | None, engine_status: int | None) -> ErrorKind:
    by_status = kind_of_status(status, retry_after=retry_after_s is not None)
    if by_status in {ErrorKind.AUTH, ErrorKind.RATE_LIMITED}:
        return by_status
    if status == 503 and _LOADING.search(message):  # noqa: PLR2004
        return ErrorKind.SERVER_ERROR
    if (told := kind_of_message(message)) is not None:
        return told
    if engine_status is not None:
        return ErrorKind.SERVER_ERROR if engine_status >= 500 else ErrorKind.BAD_REQUEST  # noqa: PLR2004
    return ErrorKind.SERVER_ERROR if status < 300 else by_status  # noqa: PLR2004


def _engine_status(status: int, body: object, message: str) -> int | None:
    """Return the status inside an error: wrapped into its text, or as the code of an error inside a stream."""
    if wrapped := _ENGINE_STATUS.search(message):
        return int(wrapped[1] or wrapped[2])
    error = body.get("error") if status < 300 and isinstance(body, dict) else None  # noqa: PLR2004
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None  # noqa: PLR2004


def _with_code(body: dict[str, Any]) -> str:
    """Return an error's message; its code goes before it, as the message alone may not tell (``model_not_found``)."""
    message, error = error_message(body), body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return f"{code}: {message}" if isinstance(code, str) and code not in message else message


def _plain(text: str) -> str:
    """Return the text of an HTML or plain body, short."""
    return " ".join(re.sub(r"<[^>]{0,200}>", " ", text[:2000]).split())[:300]


def retry_after(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Return the seconds that the server asks to wait: RFC 9110 section 10.2.3, seconds or a date."""
    if (milliseconds := _not_negative(headers.get("retry-after-ms", ""), 1000)) is not None:
        return milliseconds
    raw = headers.get("retry-after", "").strip()
    if not raw:
        return None
    if (seconds := _not_negative(raw, 1)) is not None:
        return seconds
    try:
        at = parsedate_to_datetime(raw)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)  # an HTTP date is GMT, also where its form does not say so
        return max(0.0, at.timestamp() - (time.time() if now_s is None else now_s))
    except (ValueError, TypeError, OverflowError):
        return None


def _not_negative(raw: str, scale: int) -> float | None:
    try:
        value = float(raw) / scale
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
