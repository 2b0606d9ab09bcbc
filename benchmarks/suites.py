"""Suites of calls that take the server 50 ms each: how long a whole run takes, by how many may be in flight at once."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import pytests
from benchmarks.measure import Row, Timing, beside, cpus, interleaved, walls
from benchmarks.server import ANSWER, MODEL, counted, running

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Block

CALLS = 200
CALL_MS = 50
#: Most rounds, by how many calls may be in flight: one after another they take 10 s, and differ little.
MOST_ROUNDS = {1: 2, 8: 9, 32: 5}
TOPIC = f"A run of {CALLS} calls of {CALL_MS} ms each"
HOW = (
    "Wall time of the whole process, from the start of Python to its end, each with only the plugins it needs, and "
    "nothing in any cache. The server counts: each run makes exactly its calls, and never more at once than it may. "
    f"The ideal is {CALLS} calls, so many at once, of {CALL_MS} ms each, and what a bare pytest takes for as many "
    "empty tests."
)
_DECLARED, _ORDINARY = "declared cases, one process", "ordinary tests, `-n {}`"
_IDEAL, _XDIST = "the ideal", "pytest-xdist and httpx, `-n {}`"
#: What is wanted of declared cases next to the ideal, and of ordinary tests next to xdist.
MOST_OF_IDEAL = {1: 1.25, 8: 1.25, 32: 1.5}
MOST_OF_XDIST = 1.05
_WANTED_AT = 8
MOST_OF_PEERS = 1.0

_EMPTY = f"""
import pytest
@pytest.mark.parametrize("n", range({CALLS}))
def test_case(n): pass
"""
_SUITE_DECLARED = f"""
import pytest
@pytest.mark.llm_cases([{{"n": n}} for n in range({CALLS})], prompt="case {{n}}")
def test_case(reply):
    assert reply.text == {ANSWER!r}
"""
_SUITE_ORDINARY = f"""
import pytest
@pytest.mark.parametrize("n", range({CALLS}))
def test_case(lm, n):
    assert lm(f"case {{n}}").text == {ANSWER!r}
"""
#: httpx imports its command line, at a tenth of a second, where click is there, as inspect_ai wants it: not in a suite.
_LEAN = """
import sys
sys.modules["click"] = None
"""
_SYNC = f"""{_LEAN}
import os, httpx, pytest
@pytest.fixture(scope="session")
def client():
    with httpx.Client(base_url=os.environ["BENCH_URL"], timeout=45) as client:
        yield client
@pytest.mark.parametrize("n", range({CALLS}))
def test_case(client, n):
    body = {{"model": {MODEL!r}, "messages": [{{"role": "user", "content": f"case {{n}}"}}], "stream": False}}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == {ANSWER!r}
"""
_ASYNC = f"""{_LEAN}
import asyncio, os, httpx, pytest
AT_ONCE = int(os.environ["BENCH_AT_ONCE"])
LIMITS = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
CLIENT = httpx.AsyncClient(base_url=os.environ["BENCH_URL"], timeout=45, limits=LIMITS)
GATE = asyncio.Semaphore(AT_ONCE)
async def call(n):
    body = {{"model": {MODEL!r}, "messages": [{{"role": "user", "content": f"case {{n}}"}}], "stream": False}}
    async with GATE:
        answer = (await CLIENT.post("/v1/chat/completions", json=body)).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == {ANSWER!r}
"""
_COOPERATIVE = f"""{_ASYNC}
@pytest.mark.asyncio_cooperative
@pytest.mark.parametrize("n", range({CALLS}))
async def test_case(n):
    await call(n)
"""
#: Tests without parameters: on pytest 9.1 and later this plugin finds no value for any.
_CONCURRENT = f"""{_ASYNC}
def declared(n):
    @pytest.mark.asyncio_concurrent(group="all")
    async def test_case():
        await call(n)
    return test_case
globals().update((f"test_case_{{n}}", declared(n)) for n in range({CALLS}))
"""
_INSPECT = f"""
import os
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate
AT_ONCE = int(os.environ["BENCH_AT_ONCE"])
samples = [Sample(input=f"case {{n}}", target={ANSWER.strip()!r}) for n in range({CALLS})]
(log,) = eval(
    Task(dataset=samples, solver=generate(), scorer=match(location="exact")), model="openai-api/bench/{MODEL}",
    model_base_url=os.environ["BENCH_URL"] + "/v1", max_connections=AT_ONCE, max_samples=AT_ONCE, display="none",
    log_dir=os.environ["BENCH_LOGS"],
)
assert log.status == "success", log.error
assert log.results.scores[0].metrics["accuracy"].value == 1.0
"""


class _Way(NamedTuple):
    """A way to make the calls.

    Attributes:
        suite: the text of the suite, or of the program.
        plugins: of pytest; None for a program without pytest.
        arguments: of pytest, with ``{}`` for how many calls at once.
        needs: a module, without which it is not installed.
        only: the only number of calls at once that it can do, None for any.
    """

    suite: str
    plugins: tuple[str, ...] | None
    arguments: tuple[str, ...] = ()
    needs: str = "pytest"
    only: int | None = None


_OURS = {
    _DECLARED: _Way(_SUITE_DECLARED, ("lmstudio", "xdist"), ("-n0",)),
    _ORDINARY: _Way(_SUITE_ORDINARY, ("lmstudio", "xdist"), ("-n{}",)),
}
_PEERS = {
    "pytest and httpx": _Way(_SYNC, (), only=1),
    _XDIST: _Way(_SYNC, ("xdist",), ("-n{}",)),
    "pytest-asyncio-cooperative": _Way(
        _COOPERATIVE,
        ("asyncio-cooperative",),
        ("--max-asyncio-tasks={}",),
        "pytest_asyncio_cooperative",
    ),
    "pytest-asyncio-concurrent": _Way(_CONCURRENT, ("asyncio-concurrent",), needs="pytest_asyncio_concurrent"),
    "inspect_ai": _Way(_INSPECT, None, needs="inspect_ai"),
}
_WITHOUT_CALLS = _Way(_EMPTY, ())


def measure(folder: Path, rounds: int) -> list[Row]:
    """Measure all ways, for each number of calls at once."""
    rows = []
    with running(CALL_MS) as url:
        for at_once, most in MOST_ROUNDS.items():
            rows += _at(at_once, url, folder / str(at_once), min(rounds, most))
    return rows


def _at(at_once: int, url: str, folder: Path, rounds: int) -> list[Row]:
    peers = {name.format(at_once): way for name, way in _PEERS.items() if way.only in {None, at_once}}
    ways = {name.format(at_once): way for name, way in _OURS.items()} | peers
    runs = {
        name: _runs(way, folder / str(number), url, at_once)
        for number, (name, way) in enumerate(ways.items())
        if importlib.util.find_spec(way.needs)
    }
    runs[_IDEAL] = _runs(_WITHOUT_CALLS, folder / "empty", url, at_once, chats=0)
    timings = interleaved(runs, rounds, blocks=1)
    walls_s, cpus_s = walls(timings, 1e6), cpus(timings, 1e6)
    walls_s[_IDEAL] = [CALLS / at_once * CALL_MS / 1000 + empty_s for empty_s in walls_s[_IDEAL]]
    others = (_IDEAL, _ORDINARY.format(at_once), *peers)
    ordinary = (_ORDINARY.format(at_once), _XDIST.format(at_once))
    rows = [_row(at_once, "wall", walls_s, (_DECLARED, other), _wanted(at_once, other)) for other in others]
    rows.append(_row(at_once, "wall", walls_s, ordinary, MOST_OF_XDIST if at_once == _WANTED_AT else None))
    return [*rows, _row(at_once, "CPU", cpus_s, ordinary, None)]


def _wanted(at_once: int, other: str) -> float | None:
    if other == _IDEAL:
        return MOST_OF_IDEAL[at_once]
    return MOST_OF_PEERS if at_once > 1 else None


def _row(
    at_once: int, measured: str, figures: dict[str, list[float]], pair: tuple[str, str], target: float | None
) -> Row:
    return beside(TOPIC, f"{at_once} at once, {pair[0]}: {measured}", "s", figures, pair, target=target)


def _runs(way: _Way, folder: Path, url: str, at_once: int, chats: int = CALLS) -> Block:
    """Return what runs a suite once, and makes sure of its calls."""
    pytests.suite(folder, way.suite)

    def run(number: int) -> Timing:
        counted(url)
        ran = _run(way, folder, url, at_once, folder / f"home-{number}")
        found = counted(url)
        assert found.chats == chats, f"{folder}: the server got {found.chats} calls, not {chats}"
        assert found.at_once <= at_once, f"{folder}: the server held {found.at_once} calls at once, not {at_once}"
        return Timing(ran.wall_s * 1e6, ran.cpu_s * 1e6)

    return run


def _run(way: _Way, folder: Path, url: str, at_once: int, home: Path) -> pytests.Ran:
    variables = {"BENCH_URL": url, "BENCH_AT_ONCE": str(at_once), "BENCH_LOGS": str(home)}
    if way.plugins is None:
        return pytests.python(folder, way.suite, **variables, BENCH_API_KEY="none", XDG_CACHE_HOME=str(home))
    if "lmstudio" in way.plugins:
        variables = {"LMSTUDIO_URL": url, "LMSTUDIO_MODEL": MODEL, "EVAL_CONCURRENCY": str(at_once)}
        variables["LMSTUDIO_DIR"] = str(home)
    arguments = [argument.format(at_once) for argument in way.arguments]
    return pytests.pytest(folder, *arguments, plugins=way.plugins, **variables)
