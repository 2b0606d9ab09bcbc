"""The hooks of a run that asks a model, or may; attached to pytest when that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import flags, marks, outcome, outlets, xdist
from pytest_lmstudio.lazy import loading
from pytest_lmstudio.session import open_run

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_lmstudio.cases.ahead import Ahead
    from pytest_lmstudio.session import Run

_NAME = "lmstudio-run"
_REORDERED = "lmstudio: tests of one model and system prompt run together (--lmstudio-order=as-written turns this off)"
_INTERRUPTED = "the run was interrupted"
#: Whether tests run in another order than they were collected in.
_MOVED = pytest.StashKey[bool]()


def begin(config: pytest.Config) -> None:
    """Resolve the settings, and let xdist start workers if they ask for that.

    Raises:
        pytest.UsageError: a setting is wrong.
    """
    run = attach(config)
    run.starts_workers = xdist.start_workers(config, run.resolved)


def attach(config: pytest.Config) -> Run:
    """Return the run of this process, and let pytest call the hooks below.

    Raises:
        pytest.UsageError: a setting is wrong.
    """
    run = open_run(config)
    if not config.pluginmanager.has_plugin(_NAME):
        config.pluginmanager.register(Worker(run) if run.is_worker else Controller(run), _NAME)
        if not run.is_worker:
            config.pluginmanager.register(run.announcer, f"{_NAME}-announcer")
            outlets.attach(config, run)
    return run


def take(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take charge of the collected tests that ask the model; a wrong mark ends the run."""
    attach(config)
    problems = config.stash.get(flags.PROBLEMS, [])
    try:
        marks.mark_items(items)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        xdist.report_usage_error(config, items, problems[0])


def put_in_order(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the tests of one model run together, unless the order is as written or pytest counts on that.

    With ``--stepwise`` it does: it has left out what stands before the test that failed, in the order as written.
    """
    if open_run(config).settings.order == "as-written" or config.getoption("stepwise", default=False):
        return
    if not any(map(marks.has_place, items)):
        return
    from pytest_lmstudio.cases.order import by_affinity

    ordered = by_affinity(items, open_run(config).settings.model)
    config.stash[_MOVED] = ordered != items
    items[:] = ordered


class Live:
    """Hooks of every process that runs tests, or has them run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_unconfigure(self) -> None:
        """Give everything back."""
        self._run.close()

    def pytest_report_header(self) -> list[str]:
        """Show the settings that differ from their defaults."""
        return self._run.header()

    def pytest_report_collectionfinish(self, config: pytest.Config) -> str | None:
        """Say that tests run in another order than they are written in."""
        return _REORDERED if config.stash.get(_MOVED, False) else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the run when its tests are done; later would be too late for pytest's own summary."""
        run = self._run
        if session.config.option.collectonly:
            return (yield)
        if any(map(marks.needs_server, getattr(session, "items", ()))):
            run.start_server(_say(session.config))
        run.begin()
        run.ahead = _lookahead(run, session)
        try:
            return (yield)
        except (KeyboardInterrupt, pytest.exit.Exception) as stop:
            if type(stop) in {KeyboardInterrupt, pytest.exit.Exception}:
                run.interrupt()
            raise
        finally:
            if run.ahead is not None:
                run.ahead.close(interrupted=run.interrupted)
            if not run.is_worker and not run.interrupted:
                run.close_calls()
                session.testsfailed += run.gate_failed()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Book the calls that follow to this test, and begin those of the tests behind it."""
        run = self._run
        run.begin_test(item)
        if run.ahead is not None:
            run.ahead.begin_test(item, nextitem)
        result = yield
        if run.ahead is not None:
            run.ahead.end_test(item)
        run.item = None
        if run.interrupted:
            item.session.shouldstop = _INTERRUPTED
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell a lost test from a failed one; outermost, since xfail is decided inside."""
        report = yield
        self._run.mark_report(report, item, call)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Give lost tests a letter of their own."""
        return outcome.status_of(report)


class Worker(Live):
    """Hooks of an xdist worker."""

    def pytest_sessionfinish(self) -> None:
        """End the calls of this worker."""
        self._run.close_calls()
        self._run.interrupts.done()
        xdist.send_problems(self._run.config, self._run.problems)
        if self._run.interrupted:
            xdist.send_stop(self._run.config, _INTERRUPTED)


class Controller(Live):
    """Hooks of the process that sees all reports: the controller, or the only one."""

    #: Whether a test that asks the model has ended, so that there will be something to report.
    _awaits_end = False

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Start the embedded server before the workers, which must know its address."""
        config = session.config
        if config.getoption("dist", "no") != "no" and not config.option.collectonly:
            self._run.start_server(_say(config))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the outcome of a test."""
        self._run.gathered.note(report)
        if not self._awaits_end and self._run.gathered.llm_tests:
            self._awaits_end = True
            if self._run.config.getoption("dist", "no") != "no":
                self._run.load_end()  # here, while workers wait for answers, and not when all wait for this process
        if report.when not in {"setup", "call", "teardown"}:
            self._run.endings.settle(report.nodeid)  # of a crashed worker, which cannot say that the test is over

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Let the log tell how a test ended, all reruns of it included."""
        self._run.endings.settle(nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker what it must know."""
        node.workerinput["lmstudio"] = xdist.for_worker(self._run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take over what a worker found wrong, and note that it died."""
        if error not in {None, "keyboard-interrupt"}:
            self._run.gathered.workers_crashed += 1
            self._run.endings.worker_crashed(node.gateway.id)
        self._run.problems += xdist.received_problems(node)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report, when all workers are down and pytest has kept what failed."""
        if self._run.finish(int(exitstatus)) and exitstatus == pytest.ExitCode.OK:
            # A test got its fixture by name while it ran, so nobody watched the loop.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the report."""
        width = terminalreporter._tw.fullwidth  # noqa: SLF001  # pytest has no public name for it
        for number, line in enumerate(self._run.lines(width)):
            if number == 0:
                terminalreporter.write_sep("=", "LM Studio")
            terminalreporter.write_line(line.text, **line.markup)


def _lookahead(run: Run, session: pytest.Session) -> Ahead | None:
    """Return what asks declared cases before their tests run, None when there are none."""
    items = getattr(session, "items", [])
    if not any(map(marks.asks_case, items)):
        return None
    with loading():
        from pytest_lmstudio.cases.ahead import Ahead
    return Ahead(run, None if run.is_worker else items)


def _say(config: pytest.Config) -> Any:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.write_line if reporter is not None else print
