"""The fields of an event as text: JSON, whatever they hold."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENCODER = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"), default=str
)


def members(fields: Mapping[str, object]) -> str:
    """Return the members of a JSON object, each with a comma before it.

    One by one, since most are scalars: that is half the time of encoding the whole.
    """
    return _members(*fields) % tuple([_SCALARS.get(type(value), _any)(value) for value in fields.values()])


@lru_cache(1000)
def _members(*names: str) -> str:
    """Return members of these names, with a place for each value; the same few come again and again."""
    return "".join([f",{quoted(name).replace('%', '%%')}:%s" for name in names])


@lru_cache(1000)
def quoted(name: str) -> str:
    """Return a name as JSON."""
    return _ENCODER.encode(name)


def _any(value: object) -> str:
    """Return any value as JSON: what that cannot carry goes by the name of its type."""
    try:
        return _ENCODER.encode(value)
    except (ValueError, TypeError, RecursionError):
        return f'"<{type(value).__name__}>"'


#: How values of these very types are encoded; JSON has no numbers that are not finite.
_SCALARS: Mapping[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    float: lambda value: float.__repr__(value) if math.isfinite(value) else "null",
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
}
