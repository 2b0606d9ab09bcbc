"""The state of a run in one process: what it opens, what it gathers, and how it is closed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import __version__, hooks, marks, names, options, outcome, outlets, xdist
from pytest_lmstudio.announce import Announcer
from pytest_lmstudio.clock import Clock
from pytest_lmstudio.common import Common
from pytest_lmstudio.endings import Endings
from pytest_lmstudio.gathered import Gathered
from pytest_lmstudio.home import Place, new_run_id
from pytest_lmstudio.interrupt import Interrupts
from pytest_lmstudio.lazy import loading, once_property
from pytest_lmstudio.own_server import OwnServer
from pytest_lmstudio.settings import DRAIN_S, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_lmstudio.cases.ahead import Ahead
    from pytest_lmstudio.client.caller import Caller, Scope
    from pytest_lmstudio.engine.retry import RetryStrategy
    from pytest_lmstudio.engine.shared import Shared
    from pytest_lmstudio.record.events import EventWriter
    from pytest_lmstudio.report.terminal import Line
    from pytest_lmstudio.runtime import Runtime


class Run:
    """One process's part of a run: controller, worker, or both in one."""

    def __init__(self, config: pytest.Config, resolved: options.Resolved) -> None:
        self.config = config
        self.resolved = resolved
        self.settings = resolved.settings
        sent = xdist.worker_input(config)
        self.received: dict[str, Any] | None = (sent or {}).get("lmstudio")
        self.worker: str = sent["workerid"] if sent else "main"
        self.run_id: str = self.received["run_id"] if self.received else new_run_id()
        self.starts_workers = False
        self.clock = Clock(self.received["clock_offset_s"]) if self.received else Clock.set_now()
        self.started_s: float = self.received["started_s"] if self.received else self.clock.now_s()
        self.place = Place(self.settings.dir, self.run_id)
        self.scope: Scope | None = None
        self.ahead: Ahead | None = None
        self.gathered = Gathered()
        self.announcer = Announcer(lambda: self.folder / "events.jsonl")
        self.endings = Endings(self.gathered, self._open_log)
        self.problems: list[str] = []
        self.item: pytest.Item | None = None
        self._thread = 0
        self.case_error: Exception | None = None
        self._interrupted = False
        self.own_server = OwnServer(self.settings)
        self.report: dict[str, Any] | None = None
        self.unwritten: list[str] = []
        self.common = Common(self.settings.concurrency, (self.received or {}).get("shared_dir"))
        self.interrupts = Interrupts(lambda: self.made_calls, self._mark_interrupt, self._hurry)
        self._unreported = False

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
            return hooks.own_strategy(self.config, name)
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
        self.own_server.start(self.common.folder, say)

    # While tests run.

    @once_property
    def runtime(self) -> Runtime:
        """Return what this process opens for its calls."""
        with loading():
            from pytest_lmstudio.record.events import iso_of
            from pytest_lmstudio.runtime import Identity, Runtime
        self.announcer.start()
        received = self.received or {}
        number = int("".join(filter(str.isdigit, self.worker)) or 0)
        shared_dir, started_at = received.get("shared_dir"), iso_of(self.started_s)
        identity = Identity(self.run_id, self.worker, number, shared_dir, __version__, self.clock, started_at)
        return Runtime(
            Settings.from_dict(received["settings"]) if received else self.own_server.settings(),
            identity,
            token=names.token(),
            strategy=self.strategy,  # type: ignore[arg-type]  # check() has seen to it
            fixed_model=received["fixed_model"] if received else self.own_server.model(),
        )

    def begin_test(self, item: pytest.Item) -> None:
        """Book what comes to a test, or to nobody; its scope is made when something does come."""
        self.scope, self.item, self.case_error = None, item, None
        self._thread = threading.get_ident()

    def running(self) -> pytest.Item | None:
        """Return the test that runs now in the thread that asks, None when that is not known.

        Other plugins may run tests inside each other, or side by side.
        """
        return self.item if threading.get_ident() == self._thread else None

    def new_scope(self, nodeid: str) -> Scope:
        """Book what comes to a test."""
        from pytest_lmstudio.client.caller import Scope

        self.scope = Scope(nodeid)
        return self.scope

    def caller(self, item: pytest.Item | None) -> Caller:
        """Return what plans and begins calls for a test, or (None) for whichever test is being set up."""
        runtime = self.runtime  # first: it loads nearly all that a caller needs
        from pytest_lmstudio.client.caller import Caller

        if item is None:
            return Caller(runtime, lambda: self.scope or self.new_scope(self.item.nodeid if self.item else ""), {})
        if self.scope is not None and self.scope.nodeid != item.nodeid:
            self.new_scope(item.nodeid)
        scope = self.scope or self.new_scope(item.nodeid)
        return Caller(runtime, lambda: scope, marks.options_of(item))

    def take(self, scope: Scope) -> bool:
        """Book what comes to this scope of the test under way, unless it has one by now; tell which."""
        if self.scope is None:
            self.scope = scope
        return self.scope is scope

    def mark_report(self, report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Put our facts, and the calls of a failed test, on its report."""
        error = call.excinfo.value if call.excinfo else None
        gate = self.settings.on_error == "gate"
        # A teardown that passed tells nothing new; a setup does, of a test whose worker dies after it.
        if report.when != "teardown" or not report.passed:
            if error is not None and error is self.case_error:
                outcome.mark_case(report, call)
            llm, declared = marks.is_llm(item), marks.is_declared(item)
            outcome.mark_report(report, item, error, llm=llm, gate=gate, declared=declared)
        if self.scope is not None and self.scope.nodeid == item.nodeid and self.scope.calls:
            outlets.tell_calls(report, item, self.scope.calls, self.settings)

    # After the tests.

    def begin(self) -> None:
        """Be ready for interrupts, and to report what comes."""
        self.interrupts.watch()
        self._unreported = not self.is_worker

    def interrupt(self) -> None:
        """Note the interrupt, and let no process of the run send anything more."""
        self._interrupted = True
        self.interrupts.noted()
        self.announcer.interrupted(DRAIN_S)
        if "runtime" in self.__dict__:
            self.runtime.interrupt()
        elif (numbers := self.common.numbers(make=True)) is not None:
            numbers.interrupt()

    @property
    def interrupted(self) -> bool:
        """Tell whether the run was interrupted, here or in another process."""
        if self._interrupted or "runtime" in self.__dict__:
            return self._interrupted or self.runtime.interrupted
        numbers = None if self.is_worker else self.common.numbers()
        return numbers is not None and numbers.interrupted_s > 0

    def _opened_numbers(self) -> Shared | None:
        """Return what the processes of the run share, if this one uses it; for signal handlers, so without any wait."""
        runtime = self.__dict__.get("runtime")
        return runtime.__dict__.get("shared") if runtime is not None else self.common.opened

    def _mark_interrupt(self) -> None:
        if (numbers := self._opened_numbers()) is not None:
            numbers.interrupt()

    def _hurry(self) -> None:
        if (numbers := self._opened_numbers()) is not None:
            numbers.hurry()

    def close_calls(self) -> None:
        """End the calls of this process."""
        if "runtime" in self.__dict__:
            self.problems += self.runtime.close(interrupted=self.interrupted)
        self.settle()

    def settle(self) -> None:
        """Bring events together that went elsewhere, since their log did not take them."""
        if not self.is_worker:
            self.problems += self.place.settle(self.endings.close)

    @property
    def folder(self) -> Path:
        """Return where this run writes."""
        return self.place.folder

    @property
    def made_calls(self) -> bool:
        """Tell whether any process of the run made a call."""
        return (self.folder / "events.jsonl").exists()

    def _open_log(self) -> EventWriter | None:
        """Return the log, for what this process adds to it as the one that sees all reports."""
        if not self.made_calls:
            return None
        from pytest_lmstudio.record.events import LOG, EventWriter

        common = {"run_id": self.run_id, "worker": "main", "pipeline_version": self.settings.pipeline_version}
        return EventWriter(self.folder / LOG, common, now_s=self.clock.now_s, spare=self.place.make_spare)

    def gate_failed(self) -> bool:
        """Tell whether more was lost than may be, as of now."""
        if not self.made_calls:
            return False
        from pytest_lmstudio import closing

        return closing.gate_failed(self)

    def load_end(self) -> None:
        """Load what the end of the run needs, at a time when there is nothing else to do."""
        if not self.is_worker:
            with loading():
                from pytest_lmstudio import closing  # noqa: F401  # to be there later

    def finish(self, exit_status: int) -> bool:
        """Write the report, if the run made a call; tell whether its gate failed."""
        self.close_calls()
        self.interrupts.done()
        if not self.made_calls:
            self._unreported = False
            return False
        with loading():
            from pytest_lmstudio import closing
        self.report = closing.write(self, exit_status)
        self._unreported = False
        closing.remember_lost(self)
        return self.report is not None and bool(self.report["gate"]["failed"])

    def lines(self, width: int) -> Iterator[Line]:
        """Yield the section at the end of the session."""
        if self.report is not None:
            from pytest_lmstudio import closing

            yield from closing.section(self, self.report, width)
        elif not self.config.option.collectonly:
            yield from outlets.unwritten(self)

    def close(self) -> None:
        """Give everything back."""
        try:
            self.close_calls()
            if self._unreported:  # pytest was broken off before it let us report
                self.finish(pytest.ExitCode.INTERRUPTED)
        finally:
            self.interrupts.restore()
            self.interrupts.done()
            self.endings.close()
            self.own_server.stop()
            self.common.close()


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
