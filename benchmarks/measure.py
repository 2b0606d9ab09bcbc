"""How things are timed and compared: competitors take turns, so that a noisy machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import sub, truediv
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping, Sequence

#: A round is cut into blocks in which competitors take turns: noise often lasts longer than a block, seldom a round.
BLOCKS = 10
BLOCK_CALLS = 20


class Timing(NamedTuple):
    """Some operations of one competitor, each in µs: median wall time, and mean CPU time of the whole process."""

    wall_us: float
    cpu_us: float


#: Runs a block of operations, given its number.
Block = Callable[[int], Timing]


class Spread(NamedTuple):
    """A figure over all rounds."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result.

    Attributes:
        topic: which table it belongs to.
        what: what was measured.
        unit: of `ours` and `base`, such as ``µs``, ``ms``, ``s``, ``MB`` or ``tokens/s``.
        ours: with the plugin, None when that could not be measured.
        peer: what it is compared with; empty when the figure stands alone.
        base: the peer's figure, None without one.
        compared: the rounds' ratios ours / base, or their differences in `unit`; None without a base.
        is_difference: whether `compared` holds differences.
        target: what is wanted of `compared`, or of `ours` without a peer; None where nothing is promised.
        at_least: whether the target is a least and not a most.
        note: why a figure is missing, such as ``not installed``.
    """

    topic: str
    what: str
    unit: str
    ours: Spread | None = None
    peer: str = ""
    base: Spread | None = None
    compared: Spread | None = None
    is_difference: bool = False
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the median is as wanted, None when nothing is, or nothing was measured."""
        judged = self.compared if self.peer else self.ours
        if self.target is None or judged is None:
            return None
        return judged.median >= self.target if self.at_least else judged.median <= self.target


def alone(topic: str, what: str, unit: str, values: Iterable[float], target: float | None = None) -> Row:
    """Return the row of a figure with nothing beside it."""
    return Row(topic=topic, what=what, unit=unit, ours=spread(values), target=target)


def beside(
    topic: str,
    what: str,
    unit: str,
    figures: Mapping[str, Sequence[float]],
    pair: tuple[str, str],
    *,
    target: float | None = None,
    at_least: bool = False,
    is_difference: bool = False,
) -> Row:
    """Compare two competitors round by round: ours / base, or ours - base.

    Args:
        topic: see `Row`.
        what: see `Row`.
        unit: see `Row`.
        figures: of each competitor, one a round; one that is missing is not installed.
        pair: ours, and the peer.
        target: see `Row`.
        at_least: see `Row`.
        is_difference: whether to subtract.
    """
    row = Row(topic=topic, what=what, unit=unit, peer=pair[1], target=target, at_least=at_least)
    if not figures.keys() >= set(pair):
        return replace(row, note="not installed")
    ours, base = figures[pair[0]], figures[pair[1]]
    compared = spread(map(sub if is_difference else truediv, ours, base))
    return replace(row, ours=spread(ours), base=spread(base), compared=compared, is_difference=is_difference)


def spread(values: Iterable[float]) -> Spread:
    """Return median, lowest and highest."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1])


def timed(work: Callable[[int], object], calls: int = BLOCK_CALLS) -> Timing:
    """Time a block of work, of so many calls; `work` takes the numbers from 0."""
    gc.collect()  # nobody pays for the garbage of the one before
    walls_ns = []
    cpu_start_ns = time.process_time_ns()
    for number in range(calls):
        start_ns = time.perf_counter_ns()
        work(number)
        walls_ns.append(time.perf_counter_ns() - start_ns)
    return _timing(walls_ns, time.process_time_ns() - cpu_start_ns)


async def timed_async(work: Callable[[int], Awaitable[object]]) -> Timing:
    """Time a block of work on the running event loop."""
    gc.collect()
    walls_ns = []
    cpu_start_ns = time.process_time_ns()
    for number in range(BLOCK_CALLS):
        start_ns = time.perf_counter_ns()
        await work(number)
        walls_ns.append(time.perf_counter_ns() - start_ns)
    return _timing(walls_ns, time.process_time_ns() - cpu_start_ns)


def _timing(walls_ns: Sequence[int], cpu_ns: int) -> Timing:
    return Timing(statistics.median(walls_ns) / 1e3, cpu_ns / len(walls_ns) / 1e3)


def interleaved(competitors: Mapping[str, Block], rounds: int, blocks: int = BLOCKS) -> dict[str, list[Timing]]:
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


def walls(timings: Mapping[str, Sequence[Timing]], unit_us: float = 1) -> dict[str, list[float]]:
    """Return the wall times of each competitor, in units of so many µs."""
    return {name: [timing.wall_us / unit_us for timing in taken] for name, taken in timings.items()}


def cpus(timings: Mapping[str, Sequence[Timing]], unit_us: float = 1) -> dict[str, list[float]]:
    """Return the CPU times of each competitor, in units of so many µs."""
    return {name: [timing.cpu_us / unit_us for timing in taken] for name, taken in timings.items()}


def _pooled(blocks: Sequence[Timing]) -> Timing:
    return Timing(statistics.median(t.wall_us for t in blocks), statistics.fmean(t.cpu_us for t in blocks))
