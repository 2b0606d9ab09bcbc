"""Answers as lines of text, to be committed and read elsewhere: one JSON object a line, in a spelling of its own.

A line tells all that an entry of the cache holds, so that a run without a server finds its answers. What reads lines
distrusts them: whatever is not what this package writes is refused, with the reason.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pytest_lmstudio import values
from pytest_lmstudio.engine.answers import reply_of
from pytest_lmstudio.engine.key import cache_key
from pytest_lmstudio.engine.vetting import LARGEST_VALUE
from pytest_lmstudio.records import CallOptions, Endpoint, Request
from pytest_lmstudio.text import printable, redact, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT, VERSION = "pytest-lmstudio cache", 1
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
#: Objects and lists inside of each other, at most: a schema of tools takes some twenty.
_DEEPEST = 100
_LONGEST_NAME = 10_000
_KEY = re.compile(r"[0-9a-f]{64}")
_ENTRY = ("answer", "asked", "latency_ms", "nodeid", "pieces", "ttft_ms")
_ASKED = {"pipeline_version", "endpoint", "body", "sample"}
_HOW = CallOptions(timeout_s=None, retries=0, backoff_s=0.0, cache="offline", stream=False)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class UnfitError(ValueError):
    """A line, or an entry, is not what this package writes; half a sentence that says why."""


class Entry(NamedTuple):
    """An answer: its key, and what the cache holds of it."""

    key: str
    value: dict[str, Any]


class Remembered(NamedTuple):
    """The model that was last resolved for a URL."""

    url: str
    endpoint: Endpoint
    model: str


class Header(NamedTuple):
    """What the lines are."""

    version: int


def header_line() -> str:
    """Return the first line of an export."""
    return _ENCODER.encode({"format": FORMAT, "version": VERSION})


def entry_line(entry: Entry, secrets: Iterable[str] = ()) -> str:
    """Return an entry as a line; the moment of its answer is left out, which would differ with every recording.

    Raises:
        UnfitError: it is no answer to its question, or holds a secret.
    """
    answer = entry.value.get("answer")
    timeless = {**answer, "created": 0} if isinstance(answer, dict) and "created" in answer else answer
    known = {name: entry.value.get(name) for name in _ENTRY} | {"answer": timeless, "key": entry.key}
    _check_entry(known)
    line = _encoded(known)
    if redact(line, secrets) != line:
        msg = "holds what looks like an API token"
        raise UnfitError(msg)
    return line


def model_line(found: Remembered) -> str:
    """Return a remembered model as a line."""
    return _encoded({**found._asdict(), "url": without_userinfo(found.url)})


def read_line(text: str) -> Entry | Remembered | Header:
    """Return what a line holds.

    Raises:
        UnfitError: it is not what this package writes.
    """
    if len(text) > LARGEST_VALUE:
        msg = "is too long"
        raise UnfitError(msg)
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        msg = "is no JSON"
        raise UnfitError(msg) from None
    if not isinstance(found, dict):
        msg = "is no object"
        raise UnfitError(msg)
    if "format" in found:
        return _header(found)
    if "url" in found:
        return _remembered(found)
    _check_entry(found)
    return Entry(found["key"], {name: found[name] for name in _ENTRY})


def _header(found: Mapping[str, Any]) -> Header:
    if found != {"format": FORMAT, "version": VERSION}:
        msg = f"tells of another format: {printable(found, limit=80)}; this version reads {FORMAT} {VERSION}"
        raise UnfitError(msg)
    return Header(VERSION)


def _remembered(found: Mapping[str, Any]) -> Remembered:
    _check_names(found, set(Remembered._fields))
    url, endpoint, model = found["url"], found["endpoint"], found["model"]
    if not _is_text(url) or endpoint not in ENDPOINTS or not _is_text(model) or not model or not model.isprintable():
        msg = "is no model of a URL"
        raise UnfitError(msg)
    try:
        return Remembered(values.url(url), endpoint, model)
    except ValueError as error:
        msg = f"has a URL that is none: {error}"
        raise UnfitError(msg) from None


def _check_entry(found: Mapping[str, Any]) -> None:
    _check_names(found, {*_ENTRY, "key"})
    if not _is_shallow(found):
        raise _too_deep()
    key, asked = found["key"], found["asked"]
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        msg = "has a key that is none"
        raise UnfitError(msg)
    _check_asked(asked)
    if _key(asked) != key:
        msg = "has a key that is not that of its question"
        raise UnfitError(msg)
    if not _is_text(found["nodeid"]) or not all(_is_time(found[name]) for name in ("latency_ms", "ttft_ms")):
        msg = "has a test or a time that is none"
        raise UnfitError(msg)
    pieces = found["pieces"]
    if not isinstance(pieces, list) or not all(_is_count(length) for length in pieces):
        msg = "has pieces that are no lengths"
        raise UnfitError(msg)
    if not _answers(found):
        msg = "has no answer to its question"
        raise UnfitError(msg)


def _check_names(found: Mapping[str, Any], names: set[str]) -> None:
    if odd := sorted(found.keys() ^ names):
        word = "lacks" if odd[0] in names else "has an unknown field,"
        msg = f"{word} {printable(odd[0], limit=40)!r}"
        raise UnfitError(msg)


def _check_asked(asked: Any) -> None:
    fits = (
        isinstance(asked, dict)
        and asked.keys() == _ASKED
        and isinstance(asked["pipeline_version"], str)
        and asked["endpoint"] in ENDPOINTS
        and isinstance(asked["body"], dict)
        and _is_text(asked["body"].get("model"))
        and isinstance(asked["body"].get("input" if asked["endpoint"] == "embeddings" else "messages"), list)
        and _is_count(asked["sample"])
    )
    if not fits:
        msg = "has a question that is none"
        raise UnfitError(msg)


def _answers(found: Mapping[str, Any]) -> bool:
    """Tell whether a run that asks the question would take the answer."""
    asked = found["asked"]
    request = Request(
        call_id="",
        nodeid=found["nodeid"],
        endpoint=asked["endpoint"],
        model=asked["body"]["model"],
        body=asked["body"],
        asked=asked,
        key=found["key"],
        prompt_chars=0,
        options=_HOW,
    )
    return reply_of(request, dict(found)) is not None


def _key(asked: dict[str, Any]) -> str | None:
    try:
        return cache_key(asked)
    except (ValueError, RecursionError):
        return None


def _encoded(found: Mapping[str, Any]) -> str:
    try:
        return _ENCODER.encode(found)
    except (ValueError, RecursionError):
        msg = "holds what JSON does not have"
        raise UnfitError(msg) from None


def _is_shallow(value: Any) -> bool:
    """Tell whether data is nested no deeper than what is read back anywhere."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = [part for whole in level if isinstance(whole, dict) for part in whole.values()]
        inner += [part for whole in level if isinstance(whole, list) for part in whole]
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def _too_deep() -> UnfitError:
    return UnfitError("is nested too deeply")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return math.isfinite(value) and value >= 0


def _no_constant(name: str) -> Any:
    raise ValueError(name)
