"""How calls end when the run is interrupted, in the process that noted it and in the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.clock import Clock
from pytest_lmstudio.engine import drain
from pytest_lmstudio.engine.retry import exponential
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.runtime import Identity, Runtime
from pytest_lmstudio.settings import Settings
from tests.standin import Model, StandIn, hang, rate_limit, reply
from tests.unit.engine.attempts import MODEL, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from pytest_lmstudio.records import Call

pytestmark = pytest.mark.timeout(60)


class Bench:
    """One process of a run, alone or a worker, and a server."""

    def __init__(self, folder: Path, server: StandIn, shared: Path | None) -> None:
        self.server = server
        self.folder = shared
        settings = Settings(url=server.url, dir=str(folder / "home"), model=MODEL, concurrency=2, backoff=60.0)
        identity = Identity("run-1", "main", 0, str(shared) if shared else None, "0", Clock.set_now())
        self.runtime = Runtime(settings, identity, token=None, strategy=exponential, fixed_model=None)

    def begin(self, text: str, **given: Any) -> Future[Call]:
        return self.runtime.loop.submit(self.runtime.engine.call(request(text, **given)))

    def interrupt(self) -> Shared:
        """Note an interrupt: in a worker's run another process does; return what that one sees."""
        if self.folder is None:
            self.runtime.interrupt()
            return self.runtime.shared
        other = Shared(self.folder, 2)
        other.interrupt()
        return other


@pytest.fixture(params=["alone", "worker"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    shared = tmp_path / "shared" if request.param == "worker" else None
    if shared:
        shared.mkdir()
    with StandIn() as server:
        bench = Bench(tmp_path, server, shared)
        try:
            yield bench
        finally:
            bench.runtime.close()


def kinds(*futures: Future[Call]) -> list[str | None]:
    calls = [future.result(20) for future in futures]
    return [None if call.error is None else str(call.error.kind) for call in calls]


def test_what_is_in_flight_may_end_and_what_waits_ends_at_once(bench: Bench) -> None:
    bench.server.when(lambda r: r.text.startswith("slow"), reply("slow", delay_s=0.5))
    slow = [bench.begin(f"slow {n}") for n in range(2)]
    bench.server.wait_for(lambda: bench.server.in_flight == 2)
    waiting = [bench.begin(f"waiting {n}") for n in range(2)]
    while len(bench.runtime.engine.waiting) < 2:
        bench.runtime.loop.run(asyncio.sleep(0.01))
    bench.interrupt()
    assert kinds(*waiting) == ["cancelled"] * 2
    assert bench.server.in_flight == 2
    assert kinds(*slow) == [None] * 2
    assert len(bench.server.requests) == 2


def test_a_back_off_ends_at_once(bench: Bench) -> None:
    bench.server.default = rate_limit(retry_after=100)
    call = bench.begin("again", retries=3)
    bench.server.wait_for(lambda: any(r.outcome for r in bench.server.requests))
    bench.interrupt()
    assert kinds(call) == ["cancelled"]
    assert [attempt.kind for attempt in call.result().attempts] == ["rate_limited"]


def test_a_model_that_is_being_loaded_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lmstudio.runtime.DRAIN_S", 1000.0)
    monkeypatch.setattr("pytest_lmstudio.runtime._WORKER_DRAIN_S", 1000.0)
    bench.server.models[:] = [Model(MODEL, loaded=False, load_s=60)]
    call = bench.begin("never")
    bench.server.wait_for(lambda: bench.server.in_flight == 1)
    bench.interrupt()
    assert kinds(call) == ["cancelled"]
    assert call.result().attempts == ()


def test_nothing_is_begun_any_more(bench: Bench) -> None:
    assert kinds(bench.begin("before")) == [None]
    bench.interrupt()
    assert kinds(bench.begin("after"), bench.begin("after that")) == ["cancelled"] * 2
    assert [r.text for r in bench.server.requests] == ["before"]


def test_what_does_not_end_in_time_is_cut_off_and_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lmstudio.runtime.DRAIN_S", 0.2)
    monkeypatch.setattr("pytest_lmstudio.runtime._WORKER_DRAIN_S", 0.2)
    bench.server.default = hang()
    call = bench.begin("hang")
    bench.server.wait_for(lambda: bench.server.in_flight == 1)
    bench.interrupt()
    assert kinds(call) == ["cancelled"]
    bench.server.wait_for(lambda: bench.server.in_flight == 0)


def test_hurrying_cuts_off_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lmstudio.runtime.DRAIN_S", 1000.0)
    monkeypatch.setattr("pytest_lmstudio.runtime._WORKER_DRAIN_S", 1000.0)
    bench.server.default = hang()
    call = bench.begin("hang")
    bench.server.wait_for(lambda: bench.server.in_flight == 1)
    shared = bench.interrupt()
    bench.runtime.loop.run(asyncio.sleep(0.2))  # it has begun to wait by now
    assert not call.done()
    shared.hurry()
    assert kinds(call) == ["cancelled"]


def test_closing_an_interrupted_run_waits_for_what_is_in_flight(bench: Bench) -> None:
    bench.server.default = reply("slow", delay_s=0.5)
    call = bench.begin("slow")
    bench.server.wait_for(lambda: bench.server.in_flight == 1)
    bench.runtime.close(interrupted=True)
    assert call.done()
    assert kinds(call) == [None]
    assert bench.runtime.interrupted


def test_closing_a_run_that_was_not_interrupted_waits_for_nothing(bench: Bench) -> None:
    bench.server.default = hang()
    call = bench.begin("hang")
    bench.server.wait_for(lambda: bench.server.in_flight == 1)
    bench.runtime.close()
    assert call.cancelled()
    assert not bench.runtime.interrupted


def test_a_run_may_be_closed_again(bench: Bench) -> None:
    bench.begin("hello").result(20)
    assert bench.runtime.close(interrupted=True) == []
    assert bench.runtime.close(interrupted=True) == []
    assert bench.runtime.close() == []


def test_cutting_off_leaves_the_one_that_asks_for_it() -> None:
    async def work() -> list[bool]:
        tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
        await asyncio.sleep(0)
        await drain.cut_off_all()
        await drain.cut_off_all()
        return [task.cancelled() for task in tasks]

    assert asyncio.run(work()) == [True] * 3
