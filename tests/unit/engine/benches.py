"""The engine of a process, or of two that share a run, and a stand-in server for it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.clock import Clock
from pytest_lmstudio.engine.retry import exponential
from pytest_lmstudio.record.events import read_events
from pytest_lmstudio.runtime import Identity, Runtime
from pytest_lmstudio.settings import Settings
from tests.standin import StandIn
from tests.unit.engine.attempts import MODEL, request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from pytest_lmstudio.engine.call import Engine
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.records import Call

Pick = list[tuple[Any, ...]]


class Bench(NamedTuple):
    """A runtime, and a server for it."""

    server: StandIn
    runtime: Runtime

    @property
    def engine(self) -> Engine:
        return self.runtime.engine

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runtime.loop.run(work)

    def begin(self, text: str = "hello", **given: Any) -> Future[Call]:
        """Start a call."""
        return self.runtime.loop.submit(self.engine.call(request(text, **given)))

    def call(self, text: str = "hello", **given: Any) -> Call:
        return self.begin(text, **given).result()

    def calls(self, texts: list[str], **given: Any) -> list[Call]:
        """Make calls at once."""

        async def work() -> list[Call]:
            asked = [request(text, number=number, **given) for number, text in enumerate(texts)]
            return await asyncio.gather(*(self.engine.call(one) for one in asked))

        calls: list[Call] = self.run(work())
        return calls

    def events(self, *names: str) -> list[Event]:
        log = self.runtime.folder / "events.jsonl"
        return [event for event in read_events(log).events if event["event"] in names]

    def pick(self, name: str, *fields: str) -> Pick:
        return [tuple(event[field] for field in fields) for event in self.events(name)]


def _bench(
    server: StandIn, home: Path, identity: Identity, given: dict[str, Any], strategy: RetryStrategy = exponential
) -> Bench:
    usual: dict[str, Any] = {"url": server.url, "dir": str(home), "model": MODEL, "breaker": None}
    settings = Settings(**(usual | given))
    return Bench(server, Runtime(settings, identity, token=None, strategy=strategy, fixed_model=None))


@contextmanager
def one_process(folder: Path, strategy: RetryStrategy = exponential, **given: Any) -> Iterator[Bench]:
    """Open the engine of a run without workers; the keywords are settings."""
    with StandIn(capacity=16) as server:
        bench = _bench(
            server, folder / "home", Identity("run-1", "main", 0, None, "0", Clock.set_now()), given, strategy
        )
        try:
            yield bench
        finally:
            bench.runtime.close()


@contextmanager
def two_workers(folder: Path, strategy: RetryStrategy = exponential, **given: Any) -> Iterator[tuple[Bench, Bench]]:
    """Open the engines of two workers of one run; what they share lies in files, as between real processes."""
    shared = folder / "shared"
    shared.mkdir()
    with StandIn(capacity=16) as server, ExitStack() as stack:
        identities = [Identity("run-1", f"gw{n}", n, str(shared), "0", Clock.set_now()) for n in range(2)]
        one, other = (_bench(server, folder / "home", identity, given, strategy) for identity in identities)
        for bench in (one, other):
            stack.callback(bench.runtime.close)
        yield one, other
