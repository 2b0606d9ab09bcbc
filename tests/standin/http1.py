"""HTTP/1.1 as LM Studio's Express speaks it: requests read from bytes, responses written to bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
LAST_CHUNK = b"0\r\n\r\n"


class BadRequestError(Exception):
    """Bytes that are no HTTP/1.1 request; Node answers them with a bare 400 and closes."""


class Request(NamedTuple):
    """One request; `headers` are lower-cased, `size` counts the bytes of the buffer that it took."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    size: int


def parse_request(buffer: bytes | bytearray) -> Request | None:
    """Return the request that `buffer` begins with, None while it is incomplete.

    Raises:
        BadRequestError: these bytes can never become a request.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequestError(first)
    headers = _headers(lines)
    body = _body(buffer, end + 4, headers)
    if body is None:
        return None
    return Request(parts[0], parts[1].partition("?")[0], headers, body[0], body[1])


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequestError(line)
        key, value = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _body(buffer: bytes | bytearray, start: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
    if "chunked" in headers.get("transfer-encoding", ""):
        return _chunked(buffer, start)
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise BadRequestError(length)
    end = start + int(length)
    return (bytes(buffer[start:end]), end) if len(buffer) >= end else None


def _chunked(buffer: bytes | bytearray, start: int) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    while (end := buffer.find(b"\r\n", start)) >= 0:
        try:
            size = int(bytes(buffer[start:end]).split(b";")[0], 16)
        except ValueError as error:
            raise BadRequestError from error
        start = end + 2 + size + 2
        if len(buffer) < start:
            return None
        if size == 0:
            return b"".join(parts), start
        parts.append(bytes(buffer[end + 2 : start - 2]))
    return None


def head(status: int, headers: Mapping[str, str], *, keep_alive_s: float | None) -> bytes:
    """Return status line and headers; `keep_alive_s` None announces ``Connection: close``."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    merged = {"X-Powered-By": "Express", **headers, "Date": formatdate(usegmt=True)}
    if keep_alive_s is None:
        merged["Connection"] = "close"
    else:
        merged |= {"Connection": "keep-alive", "Keep-Alive": f"timeout={keep_alive_s:.0f}"}
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in merged.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def body_headers(body: bytes, content_type: str) -> dict[str, str]:
    """Return the headers that Express gives a whole body; the ETag is its weak form, length and SHA-1."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()[:27]
    return {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "ETag": f'W/"{len(body):x}-{digest}"',
    }


def stream_headers(content_type: str = "text/event-stream") -> dict[str, str]:
    """Return the headers of an event stream, which has no length."""
    return {"Content-Type": content_type, "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def dump(value: Any, *, indent: int | None = None) -> bytes:
    """Return JSON as JavaScript writes it: UTF-8, compact unless indented, lone surrogates escaped."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode(
        "utf-8", "backslashreplace"
    )


def event(value: Any, name: str | None = None) -> bytes:
    """Return one server-sent event that holds `value` as JSON."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
