"""A large suite whose answers all are in the cache, next to as many empty tests: what a case costs beyond pytest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks import pytests
from benchmarks.measure import Row, Timing, beside, cpus, interleaved, walls
from benchmarks.server import MODEL, counted, running
from benchmarks.subject import ROOM

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Block

CASES = 10_000
MOST_ROUNDS = 5
TOPIC = "A large run"
HOW = (
    f"{CASES:,} declared cases of a JSONL file, all of them answered by the cache in a run after the one that stored "
    f"them, next to {CASES:,} parametrized tests that do nothing, which a bare pytest runs. Memory is the peak of the "
    "process. The server counts: no call reaches it."
)
MOST_RATIO = 1.5
MOST_MORE_MB = 100.0
_OURS, _EMPTY = "declared cases, cached", "empty tests"
_SUITES = {
    _OURS: """
import pytest
@pytest.mark.llm_cases("cases.jsonl", prompt="case {n}")
def test_case(reply):
    assert reply.cached
""",
    _EMPTY: f"""
import pytest
@pytest.mark.parametrize("n", range({CASES}))
def test_case(n): pass
""",
}


def measure(folder: Path, rounds: int) -> list[Row]:
    """Fill a cache, then measure runs that find everything in it."""
    peaks_mb: dict[str, list[float]] = {name: [] for name in _SUITES}
    with running() as url:
        ours = pytests.suite(folder / "ours", _SUITES[_OURS])
        with (ours / "cases.jsonl").open("w", encoding="ascii") as file:
            file.writelines(json.dumps({"n": n}) + "\n" for n in range(CASES))
        empty = pytests.suite(folder / "empty", _SUITES[_EMPTY])
        _fill(ours, url)
        runs: dict[str, Block] = {
            _OURS: lambda _: _noted(peaks_mb[_OURS], _ours(ours, url)),
            _EMPTY: lambda _: _noted(peaks_mb[_EMPTY], pytests.pytest(empty, plugins=())),
        }
        timings = interleaved(runs, min(rounds, MOST_ROUNDS), blocks=1)
        assert counted(url).chats == 0, "not every call was answered by the cache"
    what, pair = f"{CASES:,} {_OURS}", (_OURS, _EMPTY)
    rows = [
        beside(TOPIC, f"{what}: wall", "s", walls(timings, 1e6), pair, target=MOST_RATIO),
        beside(TOPIC, f"{what}: CPU", "s", cpus(timings, 1e6), pair),
    ]
    if not peaks_mb[_OURS]:  # no way to learn it on this system
        return rows
    memory = beside(TOPIC, f"{what}: memory", "MB", peaks_mb, pair, target=MOST_MORE_MB, is_difference=True)
    return [*rows, memory]


def _noted(peaks_mb: list[float], ran: pytests.Ran) -> Timing:
    assert f"{CASES} passed" in ran.said, ran.said[-3000:]
    if ran.peak_mb is not None:
        peaks_mb.append(ran.peak_mb)
    return Timing(ran.wall_s * 1e6, ran.cpu_s * 1e6)


def _fill(folder: Path, url: str) -> None:
    """Let the same cases be asked for once."""
    text = (folder / "suite.py").read_text(encoding="ascii")
    (folder / "suite.py").write_text(text.replace("assert reply.cached", "assert not reply.cached"), encoding="ascii")
    _ours(folder, url)
    assert counted(url).chats == CASES
    (folder / "suite.py").write_text(text, encoding="ascii")


def _ours(folder: Path, url: str) -> pytests.Ran:
    settings = {"LMSTUDIO_URL": url, "LMSTUDIO_MODEL": MODEL, "EVAL_CONCURRENCY": "8", "EVAL_CACHE_SIZE": str(ROOM)}
    return pytests.pytest(folder, "-n0", plugins=("lmstudio", "xdist"), **settings)
