"""What one process of a run opens at its first call, and closes at the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.engine.booking import Books
from pytest_lmstudio.engine.breaker import Breaker
from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.call import Engine
from pytest_lmstudio.engine.changes import Changes
from pytest_lmstudio.engine.coalesce import Coalescer
from pytest_lmstudio.engine.drain import Drain, cut_off_all
from pytest_lmstudio.engine.keeper import Keeper
from pytest_lmstudio.engine.locks import LockError
from pytest_lmstudio.engine.loop import Loop
from pytest_lmstudio.engine.opening import prepare
from pytest_lmstudio.engine.pressure import Pressure
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.engine.slots import Slots
from pytest_lmstudio.engine.timeouts import Timeouts
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.errors import LMError, LMRequestError
from pytest_lmstudio.home import Home, make_spare
from pytest_lmstudio.lazy import once_property
from pytest_lmstudio.record.events import EVENTS_LOST, LOG, EventWriter
from pytest_lmstudio.server.preflight import Preflight
from pytest_lmstudio.settings import DRAIN_S, EMBEDDED
from pytest_lmstudio.text import printable, redact

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pytest_lmstudio.clock import Clock
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.records import Endpoint
    from pytest_lmstudio.settings import Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: `DRAIN_S` in a worker: execnet interrupts it once more 5 s after it was told to end.
_WORKER_DRAIN_S = 4.5


class Identity(NamedTuple):
    """Who this process is within its run.

    Attributes:
        run_id: the run; a folder's name.
        worker: ``main``, or the xdist worker's name.
        number: 0 for the first worker, 1 for the next.
        shared_dir: the folder that the run's processes share, None when there is only this one.
        plugin_version: as installed.
        clock: the run's time.
        started_at: when the session began, UTC, ISO 8601; None when that is not known.
    """

    run_id: str
    worker: str
    number: int
    shared_dir: str | None
    plugin_version: str
    clock: Clock
    started_at: str | None = None


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
        self._draining: Future[None] | None = None
        self._models: dict[str, str] = {}
        self.usual: dict[str, Any] = {}

    @once_property
    def shared(self) -> Shared:
        """Return what the run's processes share."""
        folder = Path(self.identity.shared_dir) if self.identity.shared_dir else None
        return Shared(folder, self.settings.concurrency)

    @once_property
    def problem(self) -> LMError | None:
        """Return why no call can be made at all, None when all is well."""
        try:
            _ = self.shared
        except LockError as error:
            return LMRequestError(str(error))
        except OSError as error:
            msg = f"the folder for temporary files cannot be used ({printable(error)}): set TMPDIR to one with room"
            return LMRequestError(msg)
        try:
            _ = self.folder
        except OSError as error:
            places = f"neither {printable(self.settings.dir)} nor the folder for temporary files"
            why = f"{places} can be written to ({printable(error)}): name a folder with room with --lmstudio-dir"
            return LMRequestError(why)
        return None

    @once_property
    def folder(self) -> Path:
        """Return the run's folder; the first process that asks makes it and opens the run."""
        self.shared.once_blocking("open", self._open)
        return self._home.run(self.identity.run_id)

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

        def note(problem: str) -> None:
            self._note(events, problem)

        with self.shared.alone("cache"):
            number, way = self.shared.once_blocking("cache-run", lambda: prepare(folder, note)._asdict()).values()
            return AnswerCache(folder, size=self.settings.cache_size, run=number, on_problem=note, way=way)

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
        changes = Changes(self.events, settings.breaker)
        pressure = Pressure(self.shared, settings.concurrency, settings.latency_threshold, changes.limit)
        if self.cache is not None:
            self.loop.call(self.cache.keep)
        engine = Engine(
            transport=self.transport,
            slots=Slots(self.shared, settings.concurrency, pressure, self.identity.number % settings.concurrency),
            pressure=pressure,
            breaker=Breaker(self.shared, settings.breaker, changes.breaker),
            coalescer=Coalescer(self.shared),
            cache=self.cache,
            keeper=Keeper(self.cache, self._store_thread) if self.cache is not None else None,
            books=self.books,
            strategy=self._strategy,
            timeouts=Timeouts(self.shared, default_s),
            ready=self.preflight.ready,
            model_back=self.preflight.model_back,
            interrupted=lambda: self.interrupted,
        )
        if self.identity.shared_dir:
            self._drain(engine)
        return engine

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
        """Let no process of the run send anything more; calls that wait end now, those in flight have some seconds."""
        self.shared.interrupt()
        if self._draining is None and "engine" in self.__dict__ and self.loop.usable:
            self._drain(self.engine)

    def _drain(self, engine: Engine) -> None:
        """End the calls of this process once the run is interrupted, whichever process notes it."""
        limit_s = DRAIN_S if self.identity.shared_dir is None else _WORKER_DRAIN_S
        self._draining = self.loop.submit(Drain(self.shared, engine, limit_s).watch())

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
            self._end_calls()
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
        return [f"{EVENTS_LOST}: {self.events.failed}"] if self.events.failed else []

    def _end_calls(self) -> None:
        """End what is in flight, in its own time when the run was interrupted; else nobody asks for it any more."""
        draining = self._draining
        if draining is not None and self.interrupted:
            self.loop.wait(draining)
        elif draining is not None:
            self._draining = None
            draining.cancel()
        self.loop.run(cut_off_all())

    async def _release(self) -> None:
        """Give back what the loop's thread holds."""
        if "transport" in self.__dict__:
            await self.transport.close()
        if self.__dict__.get("cache") is not None:
            self.__dict__["cache"].release()

    def _open(self) -> dict[str, Any]:
        run_id = self.identity.run_id
        refused = self._home.make_run(run_id)
        folder = self._home.run(run_id)
        if self._fixed_model is not None and self.settings.cache != "offline":
            self._home.remember_model(EMBEDDED, "chat", self._fixed_model)
        with self._writer(folder) as events:
            events.write(
                "run_start",
                plugin_version=self.identity.plugin_version,
                started_at=self.identity.started_at,
                url=self.settings.url,
                settings=self.settings.as_dict(),
            )
            if refused is not None:
                why = f"{self.settings.dir} cannot be written to ({refused.strerror})"
                self._note(events, f"{why}: this run is in {folder}; name a folder of your own with --lmstudio-dir")
        return {"opened": True}

    def _writer(self, folder: Path) -> EventWriter:
        who, version = self.identity, self.settings.pipeline_version
        common = {"run_id": who.run_id, "worker": who.worker, "pipeline_version": version}
        return EventWriter(folder / LOG, common, now_s=who.clock.now_s, spare=lambda: make_spare(who.run_id))

    def _log(self, event: str, **fields: object) -> None:
        """Write an event; the log is opened no sooner than it must."""
        self.events.write(event, **fields)

    def _note(self, events: EventWriter, problem: str) -> None:
        if problem not in self._problems:
            self._problems.add(problem)
            events.write("note", message=printable(problem, limit=500))
