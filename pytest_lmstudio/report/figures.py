"""Numbers as people read them, the same on the terminal, in pages and in summaries; what is not known is a dash."""

from __future__ import annotations

import math

UNKNOWN = "–"  # noqa: RUF001  # a dash is meant
_SECOND_MS = 1000
_MINUTE_S = 60
#: So long, seconds say more than minutes: limits and pauses are given in seconds.
_LONGEST_IN_SECONDS_S = 600
_LEAST_SHOWN, _MOST_SHOWN = 0.0005, 0.9995


def rate(share: float | None) -> str:
    """Return a share of 0 to 1 as a percentage: ``0%``, ``6.7%``; only none is 0%, and only all is 100%."""
    if share is None:
        return UNKNOWN
    if share in {0, 1}:
        return f"{share:.0%}"
    if 0 < share < _LEAST_SHOWN:
        return "<0.1%"
    return ">99.9%" if _MOST_SHOWN <= share < 1 else f"{share * 100:.1f}%"


def interval(ends: tuple[float, float] | list[float] | None) -> str:
    """Return an interval of shares: ``1.8% to 21.3%``."""
    return f"{rate(ends[0])} to {rate(ends[1])}" if ends else UNKNOWN


def duration(ms: float | None) -> str:
    """Return milliseconds as ``850 ms``, ``1.2 s``, ``45 s``, ``12 min 5 s`` or ``2 h 10 min``."""
    if ms is None:
        return UNKNOWN
    if round(ms) < _SECOND_MS:
        return f"{ms:.0f} ms"
    if ms < _LONGEST_IN_SECONDS_S * _SECOND_MS:
        return f"{round(ms / _SECOND_MS, 1):g} s"
    minutes, seconds = divmod(round(ms / _SECOND_MS), _MINUTE_S)
    if minutes < _MINUTE_S:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(round(ms / _SECOND_MS / _MINUTE_S), _MINUTE_S)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def left(ms: float) -> str:
    """Return an estimate of milliseconds, rounded up to what it is good for: ``40 s``, ``3 min``, ``2 h 10 min``."""
    seconds = math.ceil(ms / _SECOND_MS / 10) * 10
    if seconds < 2 * _MINUTE_S:
        return f"{seconds} s"
    minutes = math.ceil(seconds / _MINUTE_S)
    return f"{minutes} min" if minutes < _MINUTE_S else duration(minutes * _MINUTE_S * _SECOND_MS)


def amount(number: float | None, digits: int = 0) -> str:
    """Return a number with its thousands apart."""
    return UNKNOWN if number is None else f"{number:,.{digits}f}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 call``, ``2 calls``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
