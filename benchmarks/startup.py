"""What the plugin costs a suite that has no LM tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import pytests
from benchmarks.measure import Row, Timing, beside, cpus, interleaved, walls

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Block

TESTS = 200
LEAST_ROUNDS = 15
TOPIC = "Start-up"
HOW = (
    f"A suite of {TESTS} empty tests with and without the plugin, xdist in both. Of "
    f"{', '.join(pytests.HEAVY)} the plugin adds none to such a run."
)
MOST_MS = 10.0
_WITH, _WITHOUT = "with the plugin", "a run without it"


def measure(folder: Path, rounds: int) -> list[Row]:
    """Let both take turns, and make sure of what the plugin imports."""
    pytests.suite(folder, "".join(f"def test_{n}(): pass\n" for n in range(TESTS)))
    heavy: dict[str, list[str]] = {}
    peaks_mb: dict[str, list[float]] = {_WITH: [], _WITHOUT: []}

    def runs(name: str, *plugins: str) -> Block:
        def run(_: int) -> Timing:
            ran = pytests.pytest(folder, plugins=plugins)
            heavy[name] = ran.heavy
            peaks_mb[name] += [] if ran.peak_mb is None else [ran.peak_mb]
            return Timing(ran.wall_s * 1e6, ran.cpu_s * 1e6)

        return run

    competitors = {_WITH: runs(_WITH, "xdist", "lmstudio"), _WITHOUT: runs(_WITHOUT, "xdist")}
    timings = interleaved(competitors, max(rounds, LEAST_ROUNDS), blocks=1)
    assert set(heavy[_WITH]) <= set(heavy[_WITHOUT]), f"the plugin imports {heavy[_WITH]}"
    what, pair = f"{TESTS} empty tests", (_WITH, _WITHOUT)
    rows = [
        beside(TOPIC, f"{what}: {kind}", "ms", figures, pair, target=MOST_MS, is_difference=True)
        for kind, figures in (("CPU", cpus(timings, 1e3)), ("wall", walls(timings, 1e3)))
    ]
    if not peaks_mb[_WITH]:  # no way to learn it on this system
        return rows
    return [*rows, beside(TOPIC, f"{what}: memory", "MB", peaks_mb, pair, is_difference=True)]
