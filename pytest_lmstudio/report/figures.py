"""Numbers as people read them; what is not known is a dash."""

from __future__ import annotations

UNKNOWN = "–"  # noqa: RUF001  # a dash is meant
_SECOND_MS = 1000


def rate(share: float | None) -> str:
    """Return a share of 0 to 1 as a percentage: ``0%``, ``6.7%``."""
    if share is None:
        return UNKNOWN
    return f"{share * 100:.1f}%" if share else "0%"


def interval(ends: tuple[float, float] | list[float] | None) -> str:
    """Return an interval of shares: ``1.8% to 21.3%``."""
    return f"{rate(ends[0])} to {rate(ends[1])}" if ends else UNKNOWN


def duration(ms: float | None) -> str:
    """Return milliseconds as ``850 ms`` or ``1.2 s``."""
    if ms is None:
        return UNKNOWN
    return f"{ms:.0f} ms" if ms < _SECOND_MS else f"{ms / _SECOND_MS:.1f} s"


def amount(number: float | None, digits: int = 0) -> str:
    """Return a number with its thousands apart."""
    return UNKNOWN if number is None else f"{number:,.{digits}f}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 call``, ``2 calls``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
