"""What a marker and a call may hold, as Python values: the keywords, and how each is checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.values import backoff, retries, threshold, timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _checked(parse: Callable[[str], Any]) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if not _is_number(value) and value != "auto":
            msg = "expected a number" if parse is not timeout else "expected seconds above 0 and up to 86400, or 'auto'"
            raise ValueError(msg)
        return parse(str(value))

    return check


def _token_timeout(value: object) -> float | None:
    if value == "off" or _is_number(value):
        return threshold(str(value))
    msg = "expected seconds above 0, or 'off'"
    raise ValueError(msg)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        msg = "expected True or False"
        raise ValueError(msg)  # noqa: TRY004  # one kind of error for every wrong value
    return value


def _str(value: object) -> str:
    if not isinstance(value, str) or not value:
        msg = "expected a text that is not empty"
        raise ValueError(msg)
    return value


def _tokens(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        msg = "expected a whole number from 1"
        raise ValueError(msg)
    return value


def _seed(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        msg = "expected a whole number"
        raise ValueError(msg)  # noqa: TRY004  # one kind of error for every wrong value
    return value


def _temperature(value: object) -> float:
    if not _is_number(value) or value < 0:  # type: ignore[operator]  # _is_number has seen to it
        msg = "expected a number from 0"
        raise ValueError(msg)
    return value  # type: ignore[return-value]


#: Keywords that say how a call travels; they never enter the request body.
TRANSPORT: Mapping[str, Callable[[object], Any]] = {
    "timeout": _checked(timeout),
    "first_token_timeout": _token_timeout,
    "inter_token_timeout": _token_timeout,
    "retries": _checked(retries),
    "backoff": _checked(backoff),
    "model": _str,
    "cache": _flag,
    "stream": _flag,
}

#: Keywords of the marker.
MARK_KEYWORDS: Mapping[str, Callable[[object], Any]] = {
    **TRANSPORT,
    "max_tokens": _tokens,
    "temperature": _temperature,
    "seed": _seed,
    "system": _str,
}
