"""Every pytest hook of the plugin, each a few lines that delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import hooks, interrupt, marks, options, outcome, xdist
from pytest_lmstudio.fixtures import alm, lm, lm_session
from pytest_lmstudio.session import RUN, open_run

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_lmstudio.session import Run

__all__ = ["alm", "lm", "lm_session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the settings."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks that users may implement."""
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Resolve the settings, and let xdist start workers, before xdist decides."""
    if not _only_explains(config):
        run = open_run(config)
        run.starts_workers = xdist.start_workers(config, run.resolved)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and take over what the controller sent."""
    config.addinivalue_line("markers", marks.DESCRIPTION)
    if _only_explains(config):
        return
    run = open_run(config)
    config.pluginmanager.register(Worker(run) if run.is_worker else Gatherer(run), "lmstudio-run")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give everything back."""
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show the settings that differ from their defaults."""
    return [] if _only_explains(config) else config.stash[RUN].header()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use the model, before ``-m`` selects."""
    try:
        marks.mark_items(items)
    except ValueError as error:
        xdist.report_usage_error(config, items, str(error))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the embedded server before the workers, which must know its address."""
    config = session.config
    run = config.stash[RUN]
    if not run.is_worker and config.getoption("dist", "no") != "no" and not config.option.collectonly:
        run.start_server(_say(config))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Judge the run when its tests are done; later would be too late for pytest's own summary."""
    run = session.config.stash[RUN]
    if not session.config.option.collectonly and any(map(marks.needs_server, getattr(session, "items", ()))):
        run.start_server(_say(session.config))
    try:
        with interrupt.sigterm_interrupts(lambda: not run.is_worker and run.made_calls):
            return (yield)
    except (KeyboardInterrupt, pytest.exit.Exception) as stop:
        if type(stop) in {KeyboardInterrupt, pytest.exit.Exception}:
            run.interrupt()
        raise
    finally:
        if not run.is_worker and not run.interrupted and not session.config.option.collectonly:
            run.close_calls()
            report = run.judge()
            if report is not None and report["gate"]["failed"]:
                session.testsfailed += 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Book the calls that follow to this test."""
    run = item.config.stash[RUN]
    run.begin_test(item.nodeid)
    result = yield
    if run.is_worker and run.interrupted_elsewhere:
        item.session.shouldstop = "the run was interrupted"
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell a lost test from a failed one; outermost, since xfail is decided inside."""
    report = yield
    item.config.stash[RUN].mark_report(report, item, call)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Give lost tests a letter of their own."""
    return outcome.status_of(report)


class Worker:
    """Hooks of an xdist worker."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_sessionfinish(self) -> None:
        """End the calls of this worker."""
        self._run.close_calls()
        xdist.send_problems(self._run.config, self._run.problems)


class Gatherer:
    """Hooks of the process that sees all reports: the controller, or the only one."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the outcome of a test."""
        self._run.gathered.note(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker what it must know."""
        node.workerinput["lmstudio"] = self._run.for_worker()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take over what a worker found wrong, and note that it died."""
        self._run.gathered.workers_crashed += error is not None
        self._run.problems += xdist.received_problems(node)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the report, when all workers are down and pytest has kept what failed."""
        self._run.finish(int(exitstatus))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the report."""
        width = terminalreporter._tw.fullwidth  # noqa: SLF001  # pytest has no public name for it
        for number, line in enumerate(self._run.lines(width)):
            if number == 0:
                terminalreporter.write_sep("=", "LM Studio")
            terminalreporter.write_line(line.text, **line.markup)


def _only_explains(config: pytest.Config) -> bool:
    """Tell whether pytest was only asked for its help or version, which a wrong setting must not spoil."""
    return bool(config.getoption("help", default=False) or config.getoption("version", 0))


def _say(config: pytest.Config) -> Any:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.write_line if reporter is not None else print
