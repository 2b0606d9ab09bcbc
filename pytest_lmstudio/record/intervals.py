"""How far a number, or the difference of two, may be from what it estimates: 95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.stats import Interval, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAIL = 0.025
#: What is further from the mean than so many standard deviations adds nothing to a sum of chances.
_FAR = 12.0


class Estimate(NamedTuple):
    """A number with its interval; None where too little is known."""

    value: float | None
    interval: Interval | None = None


def quantile(values: Sequence[float], percent: float) -> Estimate:
    """Return a percentile with its interval between two order statistics, whatever the values are distributed like.

    Its ends are the closest ranks outside of which the true percentile lies with 2.5 % on either side at most, by the
    binomial distribution (David and Nagaraja, Order Statistics, 2003, section 7.1). A median needs 6 values for that,
    a 95th percentile 72; with fewer there is no interval.
    """
    ranks = _ranks(len(values), percent / 100)
    ranked = sorted(values)
    interval = Interval(ranked[ranks[0] - 1], ranked[ranks[1] - 1]) if ranks else None
    return Estimate(percentile(ranked, percent), interval)


def difference(before: Estimate, after: Estimate) -> Estimate:
    """Return after less before, with the interval that the two intervals make.

    It is the square-and-add way: with Wilson intervals of two rates it is Newcombe's hybrid score interval (Newcombe,
    Statistics in Medicine 17, 1998, 873-890, method 10), and it holds for other intervals too (Zou and Donner, the same
    journal 27, 2008, 1693-1702).
    """
    if before.value is None or after.value is None:
        return Estimate(None)
    change = after.value - before.value
    if before.interval is None or after.interval is None:
        return Estimate(change)
    down = math.hypot(after.value - after.interval.lo, before.interval.hi - before.value)
    up = math.hypot(after.interval.hi - after.value, before.value - before.interval.lo)
    return Estimate(change, Interval(change - down, change + up))


def _ranks(n: int, p: float) -> tuple[int, int] | None:
    """Return the ranks, from 1, of the two values; None when there are too few."""
    mean, deviation = n * p, math.sqrt(n * p * (1 - p))
    first = max(0, math.floor(mean - _FAR * deviation) - 1)
    below, lower = 0.0, None
    for hits in range(first, n):
        below += math.exp(_log_chance(hits, n, p))
        if below <= _TAIL:
            lower = hits + 1
        elif 1 - below <= _TAIL:
            return None if lower is None else (lower, hits + 1)
    return None


def _log_chance(hits: int, n: int, p: float) -> float:
    """Return the logarithm of the binomial chance of so many hits."""
    ways = math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1)
    return ways + hits * math.log(p) + (n - hits) * math.log1p(-p)
