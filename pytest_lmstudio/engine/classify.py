"""Which kind an error is. LM Studio answers most transient failures with 400, so messages decide before statuses."""

from __future__ import annotations

import html
import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.failure import Failure
from pytest_lmstudio.engine.wire import error_message
from pytest_lmstudio.engine.wordings import kind_of_message
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.text import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The type of an error that carries no status of its own, as inside a stream: names of OpenAI, Anthropic, LM Studio.
_KIND_OF_TYPE = {
    "authentication_error": ErrorKind.AUTH,
    "permission_error": ErrorKind.AUTH,
    "invalid_request": ErrorKind.BAD_REQUEST,
    "invalid_request_error": ErrorKind.BAD_REQUEST,
    "request_too_large": ErrorKind.BAD_REQUEST,
    "not_implemented": ErrorKind.BAD_REQUEST,
    "not_supported_error": ErrorKind.BAD_REQUEST,
    "model_not_found": ErrorKind.NO_MODEL,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "timeout_error": ErrorKind.TIMEOUT,
}
#: LM Studio wraps its engine's error into the text of its own; what the engine said counts, and both may differ.
_ENGINE_STATUS = re.compile(
    r"engine protocol predict (?:request returned (\d{3})\b|.*?\"code\": ?(\d{3})\b)", re.IGNORECASE | re.DOTALL
)
_SHARED_CONTEXT = re.compile(r"context size has been exceeded", re.IGNORECASE)
_LOADING = re.compile(r"(?<!error )\bloading model\b|model is (?:still )?loading", re.IGNORECASE)
#: So much of a body is read for a reason; no server gives it later, and a hostile one could send megabytes.
_MOST_CHARS = 10_000
_UNSHOWN = re.compile(r"<!--.*?(?:-->|\Z)|<(style|script)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]{0,500}>")
_SHOWN_CHARS = 300
#: A wait that is as good as for ever; what servers write has no limit.
_LONGEST_S = 1e9


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


def classify(status: int, headers: Mapping[str, str], body: object, text: str, sent: bytes = b"") -> Failure:
    """Return why an answer with an error status, or with a body that holds an error, is a failure.

    Args:
        status: the HTTP status, or 200 for an error inside a stream.
        headers: by lower-case name.
        body: the JSON body, or None where it is none.
        text: the body as text.
        sent: the request's body, which the error may quote.
    """
    message = _with_code(body) if isinstance(body, dict) else _plain(text) or f"HTTP {status}"
    if 300 <= status < 400 and headers.get("location"):  # noqa: PLR2004  # HTTP's own numbers
        message = f"HTTP {status} redirects to {without_userinfo(headers['location'])[:_SHOWN_CHARS]}"
    said, retry_after_s = message[:_MOST_CHARS], retry_after(headers)
    by_status = kind_of_status(status, retry_after=retry_after_s is not None)
    loading = status == 503 and bool(_LOADING.search(said))  # noqa: PLR2004  # HTTP's own number
    if loading and by_status is not ErrorKind.RATE_LIMITED:
        kind: ErrorKind = ErrorKind.SERVER_ERROR
    elif by_status in {ErrorKind.AUTH, ErrorKind.RATE_LIMITED}:
        kind = by_status
    else:
        kind = kind_of_message(said, sent) or _kind_inside(status, body, said) or by_status
    return Failure(
        kind,
        message,
        status=status,
        retry_after_s=retry_after_s,
        awaits_model=kind is ErrorKind.MODEL_LOST or loading,
        shared_context=bool(kind is ErrorKind.CONTEXT_OVERFLOW and _SHARED_CONTEXT.search(said)),
    )


def _kind_inside(status: int, body: object, message: str) -> ErrorKind | None:
    """Return the kind that the status inside an error tells, or its type; None where the answer's own status counts."""
    if wrapped := _ENGINE_STATUS.search(message):
        return _kind_of_code(int(wrapped[1] or wrapped[2]))
    if status >= 300:  # noqa: PLR2004  # HTTP's own number
        return None
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else body
    code, type_ = (error.get("code"), error.get("type")) if isinstance(error, dict) else (None, None)
    by_type = _KIND_OF_TYPE.get(type_) if isinstance(type_, str) else None
    return _kind_of_code(_status_of(code)) or by_type or ErrorKind.SERVER_ERROR


def _kind_of_code(code: int | None) -> ErrorKind | None:
    """Return the kind of an error that another server reported; its 404 is none of our address."""
    kind = kind_of_status(code, retry_after=False) if code is not None else None
    return ErrorKind.BAD_REQUEST if kind is ErrorKind.WRONG_URL else kind


def _status_of(code: object) -> int | None:
    """Return a status that an error carries, a number or its text."""
    known = re.fullmatch(r"[45]\d\d", str(code)[:4]) if isinstance(code, int | str) else None
    return int(known[0]) if known else None


def _with_code(body: dict[str, Any]) -> str:
    """Return an error's message; its code goes before it, as the message alone may not tell (``model_not_found``)."""
    message, error = error_message(body), body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return f"{code}: {message}" if isinstance(code, str) and not code.isdigit() and code not in message else message


def _plain(text: str) -> str:
    """Return what a page or a plain body says, on one line."""
    shown = _TAG.sub(" ", _UNSHOWN.sub(" ", text[:_MOST_CHARS]))
    return " ".join(html.unescape(shown).split())[:_SHOWN_CHARS]


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
    # Not all that float() takes: "1_0", "inf" and "nan" are no number of seconds.
    known = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", raw, re.ASCII)
    return min(float(known[1]), _LONGEST_S) / scale if known else None
