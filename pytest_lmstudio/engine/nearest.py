"""Why an offline look-up missed: what differs from the nearest entry of the same test, without quoting any prompt."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.errors import NOTHING_OF_THE_TEST
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lmstudio.records import Request

_MOST_ENTRIES = 20_000
_MOST_DIFFERENCES = 1000
_SHOWN = 4
_ABSENT = object()
#: Places whose texts are prompts, or hold them.
_PROMPTS = ("messages", "input", "body")


def explain_miss(request: Request, entries: Iterable[dict[str, Any]]) -> str:
    """Return one line on what the cache holds instead of a request's answer."""
    own = [
        e
        for e in islice(entries, _MOST_ENTRIES)
        if e.get("nodeid") == request.nodeid and isinstance(e.get("asked"), dict)
    ]
    if not own:
        return NOTHING_OF_THE_TEST
    found = min((_found(entry["asked"], request.asked) for entry in own), key=len)
    shown = "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    return f"the nearest answer of this test differs in {shown or 'nothing, but it cannot be read'}"


def _found(old: Any, new: Any) -> list[str]:
    """Return the differences of two questions, as many as a reader may care for; an entry may be anybody's."""
    try:
        return list(islice(differences(old, new), _MOST_DIFFERENCES))
    except RecursionError:
        return ["more than can be compared"]


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield each place where two questions differ; texts by their lengths and the first character that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys(), key=str):
            inner = f"{place}.{name}" if place and place != "body" else str(name)
            yield from differences(old.get(name, _ABSENT), new.get(name, _ABSENT), inner)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{place} ({len(old)} in the cache, {len(new)} asked)"
        for index, (was, now) in enumerate(zip(old, new, strict=False)):
            yield from differences(was, now, f"{place}[{index}]")
    elif old != new:
        yield f"{printable(place, limit=80)} ({_change(old, new, place)})"


def _change(old: Any, new: Any, place: str) -> str:
    if not place.startswith(_PROMPTS) or place.endswith(".role"):
        return f"{_shown(old)} in the cache, {_shown(new)} asked"
    if isinstance(old, str) and isinstance(new, str):
        at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        return f"{len(old)} characters in the cache, {len(new)} asked, from character {at + 1}"
    return f"{_measured(old)} in the cache, {_measured(new)} asked"


def _measured(value: Any) -> str:
    """Return a part of a prompt by its size alone."""
    if isinstance(value, str):
        return f"{len(value)} characters"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else _shown(value)


def _shown(value: Any) -> str:
    return "not there" if value is _ABSENT else printable(repr(value), limit=60)
