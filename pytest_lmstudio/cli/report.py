"""``pytest-lmstudio report``: runs as they showed themselves, also those that could not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.cli import runs, screen
from pytest_lmstudio.cli.screen import Failure, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pytest_lmstudio.cli.runs import StoredRun
    from pytest_lmstudio.report.terminal import Line

HELP = "show the report of a run"
DESCRIPTION = "Shows the report of runs, as at the end of each."
EXAMPLES = """\
examples:
  pytest-lmstudio report                                the newest run
  pytest-lmstudio report 20261122-123456-1a2b3c4d       the run with this id
  pytest-lmstudio report ci/run-7 ci/report.json        a run's folder, and a report that lies somewhere
  pytest-lmstudio report --html page.html               the newest run as a page as well
  pytest-lmstudio report --json | jq .rates             the report itself
  pytest-lmstudio report --rebuild latest               the report made anew from the log

A run that was killed has no report: it is rebuilt from its log, and kept. One in progress is shown as of now.

"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", help="a run's id or folder, a report.json, or latest (the default)"
    )
    parser.add_argument("--html", metavar="PATH", help="write the report of one run as an HTML page as well")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, in ASCII, one document a run")
    parser.add_argument("--rebuild", action="store_true", help="make the report anew from the run's log, and keep it")


def run(chosen: argparse.Namespace) -> int:
    """Show the runs that were asked for; return the exit status."""
    names = chosen.runs or [runs.LATEST]
    if chosen.html and len(names) > 1:
        msg = "--html makes the page of one run: name one"
        raise Failure(msg)
    return max(_one(name, chosen) for name in names)


def _one(name: str, chosen: argparse.Namespace) -> int:
    """Show one run; those that follow one that cannot be shown are shown all the same."""
    try:
        path = runs.find(name, runs.home_of(chosen.dir))
        stored = runs.load(path, again=chosen.rebuild)
        try:
            rendered = _rendered(stored, as_json=chosen.json, as_page=bool(chosen.html))
        except runs.MISFIT as error:
            raise runs.damaged(_source(stored, path), error) from None
    except Failure as failure:
        complain(str(failure))
        return 2
    _keep(stored)
    sys.stdout.write(rendered.json)
    screen.show(rendered.section)
    if rendered.hint:
        complain(rendered.hint)
    if chosen.html:
        _write(Path(chosen.html), rendered.page)
    return int(rendered.gate_failed)


class _Rendered(NamedTuple):
    """A report in the forms that were asked for; empty in the others."""

    gate_failed: bool
    json: str = ""
    section: Sequence[Line] = ()
    page: bytes = b""
    hint: str = ""


def _rendered(stored: StoredRun, *, as_json: bool, as_page: bool) -> _Rendered:
    """Render a report, before any of it is shown: only then is it known to be whole."""
    failed = stored.report["gate"]["failed"] is True
    page = _page(stored) if as_page else b""
    if as_json:
        return _Rendered(failed, json=_json(stored), page=page)
    return _Rendered(failed, section=list(_section(stored)), page=page, hint=_missing_bundle(stored))


def _section(stored: StoredRun) -> Iterator[Line]:
    """Yield the section of a run's end, with what the run showed below it."""
    from pytest_lmstudio.record.rebuild import lost_tests
    from pytest_lmstudio.report.terminal import Line, lines, lost_lines

    yield screen.title("LM Studio")
    shown = list(lines(stored.report, width=screen.width(), run_dir=stored.folder and _relative(stored.folder)))
    yield from shown or [Line("the run made no call")]
    if shown and stored.report["tests"]["lm_error"]:
        yield from lost_lines(lost_tests(stored.events))


def _missing_bundle(stored: StoredRun) -> str:
    """Return how to get the bundle that the section names, should it not be there."""
    if not stored.report["escalation"]["reasons"] or stored.folder is None:
        return ""
    from pytest_lmstudio.report.bundle import BUNDLE_NAME

    run = _relative(stored.folder)
    made = (run / BUNDLE_NAME).exists()
    return "" if made else f"{run / BUNDLE_NAME} is not there: `pytest-lmstudio bundle {run}` makes it"


def _json(stored: StoredRun) -> str:
    """Return the report in ASCII, which no terminal takes for a command."""
    import json

    from pytest_lmstudio.report.files import plain

    return json.dumps(plain(stored.report), ensure_ascii=True, allow_nan=False, indent=2) + "\n"


def _page(stored: StoredRun) -> bytes:
    from pytest_lmstudio.record.history import calls_of
    from pytest_lmstudio.report.html import render

    return render(stored.report, calls_of(stored.events)).encode("utf-8")


def _keep(stored: StoredRun) -> None:
    """Say how a report came about that its run did not write, and keep it for the next time."""
    if stored.origin == "written" or stored.folder is None:
        return
    log = _relative(stored.folder) / runs.LOG
    if stored.origin == "going on":
        complain(f"the run is still in progress: this is what {log} tells as of now, nothing is written")
    elif stored.report["calls"]["total"]:
        path = stored.folder / runs.REPORT
        from pytest_lmstudio.files import replace_file
        from pytest_lmstudio.report.json import report_text

        try:
            replace_file(path, [report_text(stored.report).encode("utf-8")])
        except OSError as error:
            complain(f"rebuilt from {log}; {_relative(path)} cannot be written: {error.strerror}")
        else:
            complain(f"rebuilt from {log}, and written to {_relative(path)}")


def _write(path: Path, page: bytes) -> None:
    from pytest_lmstudio.report.files import write_whole

    try:
        write_whole(path, [page])
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise Failure(msg) from None


def _source(stored: StoredRun, path: Path) -> Path:
    """Return the file that a report was read from."""
    return path / (runs.REPORT if stored.origin == "written" else runs.LOG) if path.is_dir() else path


def _relative(path: Path) -> Path:
    """Return a path as somebody here would type it."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()  # noqa: PTH100  # links stay as they were named
    return whole.relative_to(here) if whole.is_relative_to(here) else whole
