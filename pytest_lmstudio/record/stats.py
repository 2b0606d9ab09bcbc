"""Numbers over many calls and tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The 97.5 % point of the normal distribution.
_Z_95 = 1.959963984540054

# What one test counts as, when its phases, subtests and reruns had several outcomes: the first of these that it had.
PRECEDENCE = ("failed", "error", "lm_error", "xfailed", "xpassed", "skipped", "passed")


class Interval(NamedTuple):
    """A closed interval of rates, 0 to 1."""

    lo: float
    hi: float


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the percentile by linear interpolation between the two nearest ranks, None of nothing.

    It is what NumPy's default and spreadsheets' PERCENTILE.INC give.
    """
    if not values:
        return None
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def spread(values: Sequence[float], *percents: int) -> dict[str, float | None]:
    """Return percentiles by name (``p50``), rounded to 3 decimals."""
    return {f"p{percent}": rounded(percentile(values, percent)) for percent in percents}


def rounded(value: float | None) -> float | None:
    """Return a value to 3 decimals; milliseconds have no more to tell."""
    return None if value is None else round(value, 3)


def ratio(part: int, whole: int) -> float | None:
    """Return part of whole, None of nothing."""
    return part / whole if whole else None


def wilson(hits: int, trials: int) -> Interval | None:
    """Return the 95 % Wilson score interval of a rate (Wilson 1927), None without trials.

    Unlike the normal approximation it holds for few trials, and for rates of 0 and 1.
    """
    if not trials:
        return None
    rate, z2 = hits / trials, _Z_95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # Exact at the ends, where rounding errors would leave the rate outside of its own interval.
    return Interval(max(0.0, centre - half) if hits else 0.0, min(1.0, centre + half) if hits < trials else 1.0)


def tally(outcomes: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return how many tests had which outcome, each test counted once.

    Args:
        outcomes: by nodeid, every outcome word that a test's phases, subtests and reruns had; words that are no
            outcome, such as ``rerun``, are left out.

    Returns:
        The counts of passed, failed, error, lm_error, skipped, xfailed and xpassed.
    """
    counts = dict.fromkeys(("passed", "failed", "error", "lm_error", "skipped", "xfailed", "xpassed"), 0)
    for words in map(set, outcomes.values()):
        outcome = next((word for word in PRECEDENCE if word in words), None)
        if outcome is not None:
            counts[outcome] += 1
    return counts
