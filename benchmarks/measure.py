"""How things are timed: competitors take turns round by round, so that a noisy machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


#: A round is cut into blocks in which competitors take turns: noise often lasts longer than a block, seldom a round.
BLOCKS = 10
BLOCK_CALLS = 20


class Timing(NamedTuple):
    """Some operations of one competitor, each in µs: median wall time, and mean CPU time of the whole process."""

    wall_us: float
    cpu_us: float


class Spread(NamedTuple):
    """A figure over all rounds."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result.

    Attributes:
        what: what was measured.
        unit: of `ours` and `base`: ``µs`` or ``ms``.
        ours: with the plugin.
        base: without it, or None where there is nothing to compare with.
        compared: the rounds' ratios ours / base, or their differences in `unit`; None without a base.
        target: the most that is wanted of `compared`, or of `ours` without a base; None where nothing is promised.
    """

    what: str
    unit: str
    ours: Spread
    base: Spread | None = None
    compared: Spread | None = None
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Tell whether the median is within the target, None without one."""
        return None if self.target is None else (self.compared or self.ours).median <= self.target


def timed(work: Callable[[int], object]) -> Timing:
    """Time a block of work; `work` takes the numbers from 0."""
    gc.collect()  # nobody pays for the garbage of the one before
    walls_ns = []
    cpu_start_ns = time.process_time_ns()
    for number in range(BLOCK_CALLS):
        start_ns = time.perf_counter_ns()
        work(number)
        walls_ns.append(time.perf_counter_ns() - start_ns)
    cpu_ns = time.process_time_ns() - cpu_start_ns
    return Timing(statistics.median(walls_ns) / 1e3, cpu_ns / BLOCK_CALLS / 1e3)


def interleaved(
    competitors: Mapping[str, Callable[[int], Timing]], rounds: int, blocks: int = BLOCKS
) -> dict[str, list[Timing]]:
    """Let competitors take turns, a different one first each time; return the timings of each, one a round.

    Args:
        competitors: each runs one block; they take its number. Block 0 warms up and does not count.
        rounds: how many to make.
        blocks: of one competitor in a round.
    """
    taken: dict[str, list[Timing]] = {name: [] for name in competitors}
    names = list(competitors)
    for number in range(rounds * blocks + 1):
        names.append(names.pop(0))
        for name in names:
            taken[name].append(competitors[name](number))
    return {name: [_pooled(all_[n : n + blocks]) for n in range(1, len(all_), blocks)] for name, all_ in taken.items()}


def _pooled(blocks: Sequence[Timing]) -> Timing:
    return Timing(statistics.median(t.wall_us for t in blocks), statistics.fmean(t.cpu_us for t in blocks))


def spread(values: Iterable[float]) -> Spread:
    """Return median, lowest and highest."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1])


def compared(
    what: str,
    ours: Sequence[float],
    base: Sequence[float],
    *,
    unit: str,
    how: Callable[[float, float], float],
    most: float,
) -> Row:
    """Compare two competitors round by round; `how` is division or subtraction, `most` the target."""
    return Row(what, unit, spread(ours), spread(base), spread(map(how, ours, base)), most)
