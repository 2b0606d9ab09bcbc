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


def median(values: Iterable[float]) -> float:
    """Return the median of one value or more. Python's own would load fractions, at the end of each run."""
    found = percentile(list(values), 50)
    assert found is not None  # noqa: S101  # so said
    return found


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


def chance_of_more(hits: int, drawn: int, hits_of_all: int, total: int) -> float:
    """Return how likely at least so many hits among those drawn are, if hits fell by chance alone.

    One-sided Fisher's exact test (Fisher 1935): the upper tail of the hypergeometric distribution.
    """
    least, most = max(0, drawn + hits_of_all - total), min(drawn, hits_of_all)
    if not least < hits <= most:
        return 1.0 if hits <= least else 0.0
    ways = _log_choose(hits_of_all, hits) + _log_choose(total - hits_of_all, drawn - hits)
    term = math.exp(ways - _log_choose(total, drawn))
    chance = 0.0
    for k in range(hits, most + 1):
        chance += term
        term *= (hits_of_all - k) * (drawn - k) / ((k + 1) * (total - hits_of_all - drawn + k + 1))
    return min(chance, 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def tally(outcomes: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return how many tests had which outcome, each test counted once.

    Args:
        outcomes: by nodeid, every outcome word that a test's phases, subtests and reruns had; words that are no
            outcome, such as ``rerun``, are left out.

    Returns:
        The counts of passed, failed, error, lm_error, skipped, xfailed and xpassed.
    """
    counts = dict.fromkeys(("passed", "failed", "error", "lm_error", "skipped", "xfailed", "xpassed"), 0)
    for words in outcomes.values():
        outcome = counted_as(words)
        if outcome is not None:
            counts[outcome] += 1
    return counts


def counted_as(words: Iterable[str]) -> str | None:
    """Return the one outcome that a test with these counts as, None when none of them is an outcome."""
    known = set(words)
    return next((word for word in PRECEDENCE if word in known), None)
