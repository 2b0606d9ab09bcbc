"""What CI systems are told of a run: GitHub's summary and annotations, and properties for whoever reads JUnit XML."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import outcome
from pytest_lmstudio.files import check_regular
from pytest_lmstudio.home import shown
from pytest_lmstudio.report import markdown
from pytest_lmstudio.report.annotations import Trouble, commands
from pytest_lmstudio.report.masking import masked, secrets_of
from pytest_lmstudio.text import without_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from pytest_lmstudio.session import Run

#: A pipe that nobody reads from would make its writer wait.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: It annotates what failed by itself; twice would be once too often.
_ANNOTATES_FAILURES = "pytest_github_actions_annotate_failures"
_REASON_CHARS = 4000


class GitHub:
    """Hooks of the process that sees all reports, in a job of GitHub Actions.

    Args:
        run: the run.
        environ: ``GITHUB_ACTIONS``, ``GITHUB_STEP_SUMMARY`` and ``GITHUB_WORKSPACE`` are read.
    """

    def __init__(self, run: Run, environ: Mapping[str, str]) -> None:
        self._run = run
        self._environ = environ
        self._seen: dict[tuple[str, bool], Trouble] = {}
        self._llm: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what went wrong in a test; whether it counts shows at the end."""
        facts = outcome.facts_of(report)
        lost = bool(facts.get("lost"))
        if facts.get("llm"):
            self._llm.add(report.nodeid)  # what is reported of a test whose worker died does not say so
        if (lost or report.failed) and (report.nodeid, lost) not in self._seen:
            self._seen[report.nodeid, lost] = self._trouble(report, lost=lost)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Annotate when the verdict is known; innermost, so that it stands before pytest's own summary."""
        result = yield
        if self._environ.get("GITHUB_ACTIONS") == "true":
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            say = print if reporter is None else reporter.write_line
            if lines := list(self._commands()):
                say("")  # pytest may have left a line begun, and a command stands at the beginning of one
            for line in lines:
                say(line)
        return result

    def files(self, report: dict[str, Any]) -> Iterator[tuple[Path, Callable[[Path], object]]]:
        """Yield the step's summary, to which it is appended."""
        path = self._environ.get("GITHUB_STEP_SUMMARY")
        if path:
            yield Path(path), lambda path: self._append(path, report)

    def _commands(self) -> Iterator[str]:
        report = self._run.report
        gate = report["gate"]["reason"] if report is not None and report["gate"]["failed"] else None
        annotated = self._run.config.pluginmanager.has_plugin(_ANNOTATES_FAILURES)
        yield from commands((one for one in self._troubles() if one.lost or not annotated), gate)

    def _append(self, path: Path, report: dict[str, Any]) -> None:
        """Append the summary of a run.

        Raises:
            OSError: it cannot be written, or there is no room left in what GitHub shows.
        """
        descriptor = os.open(path, _APPEND, 0o644)
        try:
            check_regular(descriptor)
            before_bytes = os.fstat(descriptor).st_size
            text = self._summary(report, markdown.MOST_BYTES - before_bytes - 2)
            if text is None:
                raise OSError(errno.EFBIG, "with this run's summary it would be larger than GitHub shows, 1 MiB")
            data = memoryview(("\n\n" * bool(before_bytes) + text).encode("utf-8"))
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def _summary(self, report: dict[str, Any], most_bytes: int) -> str | None:
        run = self._run
        folder = shown(run.folder, run.config.invocation_params.dir)
        places = [f"{folder}/report.json", *filter(None, (run.settings.report, run.settings.html))]
        return markdown.render(report, self._troubles(), places=places, most_bytes=most_bytes)

    def _troubles(self) -> list[Trouble]:
        """Return the LM tests that were lost or failed, as all their reports have it; failed ones first."""
        found = []
        for (nodeid, lost), trouble in self._seen.items():
            ending = self._run.gathered.ending(nodeid)
            if ending is None or lost != (ending.outcome == "lm_error"):
                continue
            if ending.concerned or nodeid in self._llm:
                found.append(trouble)
        return sorted(found, key=lambda trouble: trouble.lost)

    def _trouble(self, report: pytest.TestReport, *, lost: bool) -> Trouble:
        path, line, _ = report.location
        reason = str(outcome.facts_of(report).get("lost"))
        crash = getattr(report.longrepr, "reprcrash", None)
        if not lost:
            reason = str(report.longrepr) if crash is None else crash.message
        whole = Path(os.path.normpath(self._run.config.rootpath / path))
        if crash is not None and Path(crash.path) == whole:
            line = crash.lineno - 1
        reason = masked(reason[:_REASON_CHARS], secrets_of(self._environ))
        return Trouble(report.nodeid, lost, reason, self._file(whole), None if line is None else line + 1)

    def _file(self, path: Path) -> str:
        """Return a file as the repository knows it, which need not begin at pytest's root."""
        workspace = Path(self._environ.get("GITHUB_WORKSPACE") or self._run.config.rootpath)
        known = path.relative_to(workspace) if path.is_relative_to(workspace) else path
        return known.as_posix()


class JUnit:
    """Puts the rates of a run into the JUnit XML that pytest writes."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
        """Tell the rates as they are now, since the file is written before the report."""
        run = self._run
        writers = [
            getattr(plugin, "add_global_property", None) for plugin in session.config.pluginmanager.get_plugins()
        ]
        run.close_calls()
        if run.made_calls and any(writers):
            from pytest_lmstudio import closing
            from pytest_lmstudio.report.junit import properties_of_suite

            report = closing.judge(run, int(exitstatus))
            for name, value in properties_of_suite(report) if report is not None else ():
                for write in filter(None, writers):
                    write(name, value)
        return (yield)


def make_harmless(report: pytest.TestReport) -> None:
    """Leave nothing in what pytest shows of a test that a CI system would obey: what models say gets into all of it."""
    report.sections = [(title, without_commands(text)) for title, text in report.sections]
    report.longrepr = _harmless(report.longrepr, type(report.longrepr).__module__)


def _harmless(shown: Any, kind: str) -> Any:
    """Return texts without commands, wherever they are in the parts of what tells an error.

    Args:
        shown: text, or what holds it.
        kind: the module of the objects that are such parts, and are changed in their place.
    """
    if isinstance(shown, str):
        return without_commands(shown)
    if isinstance(shown, (list, tuple)):
        parts = [_harmless(part, kind) for part in shown]
        return parts if isinstance(shown, list) else tuple(parts)
    if type(shown).__module__ == kind:
        for name, part in getattr(shown, "__dict__", {}).items():
            setattr(shown, name, _harmless(part, kind))
    return shown
