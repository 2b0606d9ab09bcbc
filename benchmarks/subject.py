"""The client under test, built as the plugin builds it for a test."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.server import MODEL
from pytest_lmstudio.client.alm import AsyncLM
from pytest_lmstudio.client.caller import Caller, Scope
from pytest_lmstudio.client.lm import LM
from pytest_lmstudio.clock import Clock
from pytest_lmstudio.engine.retry import exponential
from pytest_lmstudio.runtime import Identity, Runtime
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_lmstudio.records import Request

#: Room for every answer of a benchmark, so that each is stored, which is the dearer case.
ROOM = 1_000_000


class Subject(NamedTuple):
    """A client, its twin, and what is behind them."""

    lm: LM
    alm: AsyncLM
    caller: Caller
    runtime: Runtime
    scopes: list[Scope]

    def request(self, prompt: str) -> Request:
        """Return what a call would ask."""
        ready = self.caller.ready(self.caller.plan_chat(prompt, None, {}))
        assert ready is not None
        return ready.request

    def next_test(self) -> None:
        """Book what follows to a new test, as happens in a suite; one test's list of calls would grow and grow."""
        self.scopes[:] = [Scope("bench.py::test_bench")]


@contextmanager
def opened(url: str, folder: Path, run_id: str = "run-1") -> Iterator[Subject]:
    """Open a client of a process without workers, and close it."""
    settings = Settings(url=url, model=MODEL, dir=str(folder), cache_size=ROOM)
    identity = Identity(run_id, "main", 0, None, "0", Clock.set_now())
    runtime = Runtime(settings, identity, token=None, strategy=exponential, fixed_model=None)
    scopes = [Scope("bench.py::test_bench")]
    caller = Caller(runtime, lambda: scopes[0], {})
    try:
        yield Subject(LM(caller), AsyncLM(caller), caller, runtime, scopes)
    finally:
        runtime.close()
