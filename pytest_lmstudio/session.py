"""The state of a run in one process: what it opens, what it gathers, and how it is closed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import interrupt, marks, options, outcome, xdist
from pytest_lmstudio.gathered import Gathered
from pytest_lmstudio.lazy import once_property
from pytest_lmstudio.own_server import OwnServer
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lmstudio.client.caller import Scope
    from pytest_lmstudio.client.lm import LM, AsyncLM
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.report.terminal import Line
    from pytest_lmstudio.runtime import Runtime

#: Lost tests that are named at the end of a session.
_SHOWN_LOST = 10


class Run:
    """One process's part of a run: controller, worker, or both in one."""

    def __init__(self, config: pytest.Config, resolved: options.Resolved) -> None:
        self.config = config
        self.resolved = resolved
        self.settings = resolved.settings
        sent = xdist.worker_input(config)
        self.received: dict[str, Any] | None = (sent or {}).get("lmstudio")
        self.worker: str = sent["workerid"] if sent else "main"
        self.run_id: str = self.received["run_id"] if self.received else _new_run_id()
        self.starts_workers = False
        self.started_s = time.time()
        self.scope: Scope | None = None
        self.gathered = Gathered()
        self.problems: list[str] = []
        self.nodeid = ""
        self.interrupted = False
        self.own_server = OwnServer(self.settings)
        self.report: dict[str, Any] | None = None
        self.unwritten: list[str] = []
        self._temporary: str | None = None
        self._restore_handler: Callable[[], None] = lambda: None

    @once_property
    def plugin_version(self) -> str:
        """Return the version that is installed."""
        from importlib import metadata

        return metadata.version("pytest-lmstudio")

    # Before the tests.

    @property
    def is_worker(self) -> bool:
        """Tell whether a controller reads what this process writes."""
        return self.received is not None

    def check(self) -> None:
        """Look for mistakes that only the conftests, or the installed packages, can tell.

        Raises:
            pytest.UsageError: there is one.
        """
        if self.settings.retry_strategy not in options.STRATEGIES and self.strategy is None:
            raise options.unknown_strategy(self.resolved, self.config)
        if not self.is_worker:
            self.own_server.check()

    @once_property
    def strategy(self) -> RetryStrategy | None:
        """Return the back-off, None when nobody knows its name."""
        name = self.settings.retry_strategy
        if name not in options.STRATEGIES:
            found: RetryStrategy | None = self.config.hook.pytest_lmstudio_retry_strategy(name=name)
            return found
        from pytest_lmstudio.engine.retry import STRATEGIES

        return STRATEGIES[name]

    def header(self) -> list[str]:
        """Return the lines of pytest's header: what differs from the defaults."""
        lines = options.header_lines(self.resolved, self.config.rootpath / ".lmstudio")
        if self.starts_workers:
            why = "the concurrency given" if self.resolved.concurrency_given else "--lmstudio-url"
            lines.append(
                f"lmstudio: {self.settings.concurrency} xdist workers, because of {why} (-n0 runs all in this process)"
            )
        return lines

    def start_server(self, say: Callable[[str], object]) -> None:
        """Start the embedded server, if the run uses one and has not got it."""
        self.own_server.start(self.temporary_folder, say)

    def temporary_folder(self) -> str:
        """Return a folder on a local disk for this run alone."""
        if self._temporary is None:
            import tempfile

            self._temporary = tempfile.mkdtemp(prefix="pytest-lmstudio-")
        return self._temporary

    def for_worker(self) -> dict[str, Any]:
        """Return what a worker must know; plain data, and no secret."""
        return {
            "run_id": self.run_id,
            "shared_dir": self.temporary_folder(),
            "settings": self.own_server.settings().as_dict(),
            "fixed_model": self.own_server.model(),
        }

    # While tests run.

    @once_property
    def runtime(self) -> Runtime:
        """Return what this process opens for its calls."""
        from pytest_lmstudio.runtime import Identity, Runtime

        received = self.received or {}
        number = int("".join(filter(str.isdigit, self.worker)) or 0)
        identity = Identity(self.run_id, self.worker, number, received.get("shared_dir"), self.plugin_version)
        return Runtime(
            Settings.from_dict(received["settings"]) if received else self.own_server.settings(),
            identity,
            token=options.token(),
            strategy=self.strategy,  # type: ignore[arg-type]  # check() has seen to it
            fixed_model=received["fixed_model"] if received else self.own_server.model(),
        )

    def begin_test(self, nodeid: str) -> None:
        """Book what comes to a test, or to nobody; its scope is made when something does come."""
        self.scope, self.nodeid = None, nodeid

    def new_scope(self, nodeid: str) -> Scope:
        """Book what comes to a test."""
        from pytest_lmstudio.client.caller import Scope

        self.scope = Scope(nodeid)
        return self.scope

    def client(self, item: pytest.Item | None) -> LM:
        """Return a client for a test, or (None) for whichever test is being set up."""
        from pytest_lmstudio.client.lm import LM

        return LM(self._caller(item))

    def async_client(self, item: pytest.Item) -> AsyncLM:
        """Return a client for an async test."""
        from pytest_lmstudio.client.lm import AsyncLM

        return AsyncLM(self._caller(item))

    def _caller(self, item: pytest.Item | None) -> Any:
        from pytest_lmstudio.client.caller import Caller

        if item is None:
            return Caller(self.runtime, lambda: self.scope or self.new_scope(self.nodeid), {})
        if self.scope is not None and self.scope.nodeid != item.nodeid:
            self.new_scope(item.nodeid)
        scope = self.scope or self.new_scope(item.nodeid)
        return Caller(self.runtime, lambda: scope, marks.options_of(item))

    def mark_report(self, report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Put our facts, and the calls of a failed test, on its report."""
        error = call.excinfo.value if call.excinfo else None
        gate = self.settings.on_error == "gate"
        outcome.mark_report(report, item, error, llm=marks.is_llm(item), gate=gate)
        if (
            report.outcome != "passed"
            and self.scope is not None
            and self.scope.nodeid == item.nodeid
            and self.scope.calls
        ):
            from pytest_lmstudio.report import section

            report.sections.append((section.TITLE, section.render(self.scope.calls)))

    # After the tests.

    def interrupt(self) -> None:
        """Note the interrupt, and let no process of the run send anything more."""
        self.interrupted = True
        if "runtime" in self.__dict__:
            self._restore_handler = interrupt.hurried_by_the_next(self.runtime.hurry)
            self.runtime.interrupt()
        elif self._temporary is not None:
            from pytest_lmstudio.engine.shared import Shared

            shared = Shared(Path(self._temporary), self.settings.concurrency)
            shared.interrupt()
            shared.close()

    @property
    def interrupted_elsewhere(self) -> bool:
        """Tell whether another process noted an interrupt."""
        return "runtime" in self.__dict__ and self.runtime.interrupted

    def close_calls(self) -> None:
        """End the calls of this process."""
        if "runtime" in self.__dict__:
            self.problems += self.runtime.close(interrupted=self.interrupted)

    @property
    def folder(self) -> Path:
        """Return where this run writes."""
        return Path(self.settings.dir, "runs", self.run_id)

    @property
    def made_calls(self) -> bool:
        """Tell whether any process of the run made a call."""
        return (self.folder / "events.jsonl").exists()

    def gate_failed(self) -> bool:
        """Tell whether more was lost than may be, as of now."""
        if not self.made_calls:
            return False
        from pytest_lmstudio import closing

        report = closing.judge(self, None)
        return report is not None and bool(report["gate"]["failed"])

    def finish(self, exit_status: int) -> bool:
        """Write the report, if the run made a call; tell whether its gate failed."""
        self.close_calls()
        if not self.made_calls:
            return False
        from pytest_lmstudio import closing

        self.report = closing.write(self, exit_status)
        closing.remember_lost(self)
        return self.report is not None and bool(self.report["gate"]["failed"])

    def lines(self, width: int) -> Iterator[Line]:
        """Yield the section at the end of the session."""
        if self.report is not None:
            from pytest_lmstudio.report.terminal import Line, lines

            yield from lines(self.report, width=width, run_dir=_shown(self.folder, self.config.invocation_params.dir))
            yield from (Line(text) for text in self._lost_lines())
            yield from (Line(text, {"red": True}) for text in self.unwritten)

    def _lost_lines(self) -> Iterator[str]:
        """Yield which tests were lost, and to what."""
        lost = self.gathered.lost()
        for nodeid in lost[:_SHOWN_LOST]:
            kind = self.gathered.reasons[nodeid].partition("]")[0].removeprefix("[")
            yield f"{'lost':<14}{nodeid.encode('ascii', 'backslashreplace').decode()}: {kind}"
        if len(lost) > _SHOWN_LOST:
            yield f"{'':<14}and {len(lost) - _SHOWN_LOST} more"

    def close(self) -> None:
        """Give everything back."""
        self._restore_handler()
        self.close_calls()
        self.own_server.stop()
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)


RUN = pytest.StashKey[Run]()


def open_run(config: pytest.Config) -> Run:
    """Return the run of this process; made at the first call.

    Raises:
        pytest.UsageError: a setting is wrong.
    """
    run = config.stash.get(RUN, None)
    if run is None:
        received = (xdist.worker_input(config) or {}).get("lmstudio")
        if received:
            resolved = options.Resolved(Settings.from_dict(received["settings"]), {})
        else:
            resolved = options.resolve(config)
        run = config.stash[RUN] = Run(config, resolved)
        run.check()
    return run


def _new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


def _shown(path: Path, base: Path) -> Path:
    with suppress(ValueError):
        return path.relative_to(base)
    return path
