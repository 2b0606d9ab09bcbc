"""What one process of a run opens at its first call, and closes at the end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.booking import Books
from pytest_lmstudio.engine.breaker import Breaker, BreakerState
from pytest_lmstudio.engine.cache import AnswerCache, next_run
from pytest_lmstudio.engine.call import Engine
from pytest_lmstudio.engine.coalesce import Coalescer
from pytest_lmstudio.engine.loop import Loop
from pytest_lmstudio.engine.pressure import Pressure
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.engine.slots import Slots
from pytest_lmstudio.engine.timeouts import Timeouts
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.errors import LMError, LMRequestError
from pytest_lmstudio.home import Home
from pytest_lmstudio.lazy import once_property
from pytest_lmstudio.record.events import EventWriter
from pytest_lmstudio.server.preflight import Preflight
from pytest_lmstudio.text import printable, redact

if TYPE_CHECKING:
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.records import Endpoint
    from pytest_lmstudio.settings import Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: How long calls in flight may take to end when the run is interrupted.
DRAIN_S = 5.0
#: The same in a worker: execnet interrupts it once more 5 s after it was told to end.
_WORKER_DRAIN_S = 4.5


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is within its run.

    Attributes:
        run_id: the run; a folder's name.
        worker: ``main``, or the xdist worker's name.
        number: 0 for the first worker, 1 for the next.
        shared_dir: the folder that the run's processes share, None when there is only this one.
        plugin_version: as installed.
    """

    run_id: str
    worker: str
    number: int
    shared_dir: str | None
    plugin_version: str


class Runtime:
    """Everything a process needs to make calls; each part is opened when it is first used.

    Args:
        settings: resolved, with the real URL.
        identity: who this process is.
        token: the API token, or None.
        strategy: the back-off.
        fixed_model: the model of a server of our own, or None.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        token: str | None,
        strategy: RetryStrategy,
        fixed_model: str | None,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self._token = token
        self._strategy = strategy
        self._fixed_model = fixed_model
        self._home = Home(settings.dir)
        self._problems: set[str] = set()
        self._closing = False
        self._models: dict[str, str] = {}

    @once_property
    def shared(self) -> Shared:
        """Return what the run's processes share."""
        folder = Path(self.identity.shared_dir) if self.identity.shared_dir else None
        return Shared(folder, self.settings.concurrency)

    @once_property
    def problem(self) -> LMError | None:
        """Return why no call can be made at all, None when all is well."""
        try:
            _ = self.folder
        except OSError as error:
            msg = f"{printable(self.settings.dir)} cannot be written to ({error.strerror}): mend --lmstudio-dir"
            return LMRequestError(msg)
        return None

    @once_property
    def folder(self) -> Path:
        """Return the run's folder; the first process that asks makes it and opens the run."""
        folder = self._home.run(self.identity.run_id)
        self.shared.once_blocking("open", lambda: self._open(folder))
        return folder

    @once_property
    def events(self) -> EventWriter:
        """Return the log."""
        return self._writer(self.folder)

    @once_property
    def books(self) -> Books:
        """Return the log of calls."""
        return Books(self.events, self.settings.url, self.secrets)

    @once_property
    def cache(self) -> AnswerCache | None:
        """Return the answers on disk, or None when the cache is off."""
        if self.settings.cache == "off":
            return None
        events, folder = self.events, self._home.cache
        with self.shared.alone("cache"):
            folder.mkdir(mode=0o700, exist_ok=True)
            number = self.shared.once_blocking("cache-run", lambda: {"number": next_run(folder)})["number"]
            return AnswerCache(
                folder,
                size=self.settings.cache_size,
                run=number,
                on_problem=lambda problem: self._note(events, problem),
            )

    @once_property
    def loop(self) -> Loop:
        """Return the engine's event loop."""
        return Loop()

    @once_property
    def transport(self) -> Transport:
        """Return the connections to the server."""
        return Transport(self.settings.url, self._token)

    @once_property
    def preflight(self) -> Preflight:
        """Return the look at the server."""
        return Preflight(
            self.transport,
            self.shared,
            wait_s=self.settings.wait,
            limit=self.settings.concurrency,
            log=self._log,
            clean=lambda text: printable(redact(text, self.secrets), limit=500),
        )

    @once_property
    def engine(self) -> Engine:
        """Return what calls go through."""
        settings = self.settings
        default_s = settings.timeout if isinstance(settings.timeout, float) else 45.0
        pressure = Pressure(self.shared, settings.concurrency, settings.latency_threshold, self._limit_changed)
        if self.cache is not None:
            self.loop.call(self.cache.keep)
        return Engine(
            transport=self.transport,
            slots=Slots(self.shared, settings.concurrency, pressure, self.identity.number % settings.concurrency),
            pressure=pressure,
            breaker=Breaker(self.shared, settings.breaker, self._breaker_changed),
            coalescer=Coalescer(self.shared),
            cache=self.cache,
            writer=self._store_thread,
            books=self.books,
            strategy=self._strategy,
            timeouts=Timeouts(default_s),
            ready=self.preflight.ready,
            model_back=self.preflight.model_back,
            interrupted=lambda: self.interrupted,
        )

    @once_property
    def _store_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "lmstudio-cache", self.cache.keep if self.cache is not None else None)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the texts that may never be shown."""
        return (self._token,) if self._token else ()

    @property
    def opened(self) -> bool:
        """Tell whether this process made a call."""
        return "events" in self.__dict__

    def known_model(self, endpoint: Endpoint) -> str | None:
        """Return the model to ask when the call names none, as far as it is known without asking the server."""
        if endpoint == "chat" and self.settings.model is not None:
            return self.settings.model
        return self._fixed_model or self._models.get(endpoint)

    def remembered_model(self, endpoint: Endpoint) -> str | None:
        """Return the model that was last resolved for this URL, by any run."""
        return self._home.remembered_model(self.settings.url, endpoint)

    def remember_model(self, endpoint: Endpoint, model: str) -> None:
        """Keep the model that was resolved, for this run, and for times when the server cannot be asked."""
        self._models[endpoint] = model
        with self.shared.alone("models"):
            self._home.remember_model(self.settings.url, endpoint, model)

    def interrupt(self) -> None:
        """Let no process of the run send anything more; what is in flight goes on."""
        self.shared.interrupt()

    def hurry(self) -> None:
        """Wait for no call in flight any more."""
        self._closing = True

    @property
    def interrupted(self) -> bool:
        """Tell whether the run was interrupted, here or in another process."""
        return "shared" in self.__dict__ and self.shared.interrupted_s > 0

    def close(self, *, interrupted: bool = False) -> list[str]:
        """End the calls in flight, and close all that was opened; return what went wrong, a line each.

        Args:
            interrupted: give calls in flight 5 s to end, and count those that do not as lost.
        """
        opened = self.__dict__
        if "loop" in opened and self.loop.usable:
            if interrupted:
                self.interrupt()
            if interrupted and "engine" in opened:
                self.loop.run(self.engine.end_waiting())
            self.loop.finish(self._drain_s())
            self.loop.run(self._release())
            self.loop.close()
        if "_store_thread" in opened:
            thread = opened.pop("_store_thread")  # a run is closed more than once
            if opened.get("cache") is not None:
                thread.submit(opened["cache"].release).result()
            thread.shutdown()
        if opened.get("cache") is not None:
            opened["cache"].close()
        if "shared" in opened:
            self.shared.close()
        if "events" not in opened:
            return []
        self.events.close()
        return [f"events are missing from the log: {self.events.failed}"] if self.events.failed else []

    async def _release(self) -> None:
        """Give back what the loop's thread holds."""
        if "transport" in self.__dict__:
            await self.transport.close()
        if self.__dict__.get("cache") is not None:
            self.__dict__["cache"].release()

    def _drain_s(self) -> float:
        """Return how long calls in flight may still take; a second interrupt, which ends the first close, gives 0."""
        since_s, again, self._closing = self.shared.interrupted_s, self._closing, True
        if not since_s or again:
            return 0.0
        limit_s = DRAIN_S if self.identity.shared_dir is None else _WORKER_DRAIN_S
        return max(0.0, limit_s - (time.monotonic() - since_s))

    def _open(self, folder: Path) -> dict[str, Any]:
        self._home.make_run(folder.name)
        with self._writer(folder) as events:
            events.write(
                "run_start",
                plugin_version=self.identity.plugin_version,
                url=self.settings.url,
                settings=self.settings.as_dict(),
            )
        self._home.point_to(folder.name)
        return {"opened": True}

    def _writer(self, folder: Path) -> EventWriter:
        common = {
            "run_id": self.identity.run_id,
            "worker": self.identity.worker,
            "pipeline_version": self.settings.pipeline_version,
        }
        return EventWriter(folder / "events.jsonl", common)

    def _breaker_changed(self, before: BreakerState, after: BreakerState) -> None:
        if after.phase == 0:
            self.events.write("breaker_closed", paused_s=round(after.paused_s - before.paused_s, 3))
        else:
            pause_s = self.settings.breaker.pause_s if self.settings.breaker else 0.0
            self.events.write(
                "breaker_open",
                failures=after.failures,
                pauses=after.pauses,
                pause_s=pause_s,
                gave_up=after.phase == 3,  # noqa: PLR2004  # BreakerState.phase
            )

    def _log(self, event: str, **fields: object) -> None:
        """Write an event; the log is opened no sooner than it must."""
        self.events.write(event, **fields)

    def _limit_changed(self, before: int, now: int, why: str) -> None:
        self.events.write("concurrency_changed", limit=now, previous=before, reason=why)

    def _note(self, events: EventWriter, problem: str) -> None:
        if problem not in self._problems:
            self._problems.add(problem)
            events.write("note", message=printable(problem, limit=500))
