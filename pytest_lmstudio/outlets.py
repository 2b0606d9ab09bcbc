"""Where a run's result goes besides terminal and its own folder: CI systems and metrics, each only when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_lmstudio import texts
from pytest_lmstudio.home import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_lmstudio.records import Call
    from pytest_lmstudio.report.terminal import Line
    from pytest_lmstudio.report.texts import Parts
    from pytest_lmstudio.session import Run
    from pytest_lmstudio.settings import Settings

_GITHUB, _JUNIT, _METRICS = "lmstudio-github", "lmstudio-junit", "lmstudio-metrics"
_FAMILY = "junit_family"
#: One of these is set in a job of most CI systems; of those that obey their output, in each.
_CI_VARIABLES = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "TEAMCITY_VERSION")


def attach(config: pytest.Config, run: Run, environ: Mapping[str, str] = os.environ) -> None:
    """Let pytest call the hooks of what is wanted, in the process that sees all reports."""
    register = config.pluginmanager.register
    if environ.get("GITHUB_ACTIONS") == "true" or environ.get("GITHUB_STEP_SUMMARY"):
        from pytest_lmstudio.ci import GitHub

        register(GitHub(run, environ), _GITHUB)
    if config.getoption("xmlpath", None):
        from pytest_lmstudio.ci import JUnit

        register(JUnit(run), _JUNIT)
    if texts.wanted(run.settings):
        register(texts.Texts(run.gathered), texts.NAME)
    if run.settings.metrics_port is not None or run.settings.metrics_file:
        from pytest_lmstudio.metrics_server import Metrics

        register(Metrics(run), _METRICS)


def files(run: Run, report: dict[str, Any]) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """Yield what is to be written at the end of a run that made calls: the file, and what writes it."""
    for name in (_GITHUB, _METRICS):
        outlet = run.config.pluginmanager.get_plugin(name)
        if outlet is not None:
            yield from outlet.files(report)


def unwritten(run: Run) -> Iterator[Line]:
    """Yield what is said at the end of a run that made no call: which files the command line asked for in vain."""
    if files := run.resolved.wanted_files:
        from pytest_lmstudio.report.terminal import Line

        start_dir = run.config.invocation_params.dir
        yield from (Line(f"no call was made: {shown(Path(file), start_dir)} is not written") for file in files)


def texts_of(run: Run) -> Mapping[str, Parts]:
    """Return what calls asked and were answered, by call id; nothing when nobody wants to see it."""
    outlet = run.config.pluginmanager.get_plugin(texts.NAME)
    return outlet.by_call if outlet is not None else {}


def tell_calls(report: pytest.TestReport, item: pytest.Item, calls: list[Call], settings: Settings) -> None:
    """Put the calls of a test on its report: as a section when it did not pass, as properties for JUnit XML."""
    if texts.wanted(settings):
        texts.put(report, calls)
    if report.outcome != "passed":
        from pytest_lmstudio.report import section

        report.sections.append((section.TITLE, section.render(calls)))
    xml = getattr(item.config.option, "xmlpath", None)
    if xml and not _is_strict(item.config) and (own := _untold(report, item, calls)):
        from pytest_lmstudio.report.junit import properties_of_test

        report.user_properties += properties_of_test(own)
    if (report.sections or report.longrepr) and any(map(os.environ.get, _CI_VARIABLES)):
        from pytest_lmstudio.ci import make_harmless

        make_harmless(report)


class _Told(NamedTuple):
    """How many of a test's calls its former reports told: those of former reruns, and that of a call that failed."""

    calls: list[Call]
    before: int = 0
    at_failure: int | None = None


_TOLD = pytest.StashKey[_Told]()


def _untold(report: pytest.TestReport, item: pytest.Item, calls: list[Call]) -> list[Call]:
    """Return the calls that this report's test case in the XML is to tell.

    Each rerun is a test case of its own, made from its last report; so is a teardown that fails after its test did, and
    then the test's own comes from the report of its call.
    """
    known = item.config.stash  # of the test under way alone, so that no calls are kept
    told = known.get(_TOLD, None)
    if told is None or told.calls is not calls:
        told = _Told(calls)
    if report.when == "teardown":
        known[_TOLD] = _Told(calls, len(calls))
        return calls[told.before if told.at_failure is None or not report.failed else told.at_failure :]
    if report.when == "call" and report.failed:
        known[_TOLD] = told._replace(at_failure=len(calls))
        return calls[told.before :]
    return []


def _is_strict(config: pytest.Config) -> bool:
    """Tell whether the user asked for the schema of Jenkins' xUnit plugin, which knows no properties of tests.

    It is pytest's default too; but what else reads the file takes them, so only who names it wants it to the letter.
    """
    # pytest has no public name for what an ini file holds; where it is kept elsewhere, nothing is asked for.
    in_file = vars(config).get("_inicfg") or vars(config).get("inicfg") or {}
    overrides = config.getoption("override_ini", None) or ()
    named = _FAMILY in in_file or any(given.startswith(f"{_FAMILY}=") for given in overrides)
    return named and config.getini(_FAMILY) == "xunit2"
