"""``pytest-lmstudio report``: runs as they showed themselves, also those that could not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.cli import runs, screen
from pytest_lmstudio.cli.screen import Failure, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pytest_lmstudio.cli.runs import StoredRun
    from pytest_lmstudio.report.terminal import Line

HELP = "show the report of a run, of shards as one, or what changed between two"
DESCRIPTION = "Shows the report of runs, as at the end of each."
EXAMPLES = """\
examples:
  pytest-lmstudio report                                 the newest run
  pytest-lmstudio report 20261122-123456-1a2b3c4d        the run with this id
  pytest-lmstudio report ci/run-7 old/report.json        a folder, and a file
  pytest-lmstudio report --html page.html                as a page as well
  pytest-lmstudio report --json | jq .rates              for a program
  pytest-lmstudio report --rebuild latest                anew, from the log
  pytest-lmstudio report --merge shards/*/ -o all.json   shards as one run
  pytest-lmstudio report --compare main/ feature/        what changed
  pytest-lmstudio report --schema                        what report.json holds

A run that was killed has no report: it is rebuilt from its log, and kept. One
in progress is shown as of now.

--merge takes shards of one pipeline version and model, each with its
events.jsonl. Percentiles and rates are of the calls of all, and the gate is
judged on the whole. A test that asks the model counts once, by its worst
outcome.

--compare has a regression when, of the tests in both runs that were lost in
neither, more fail than before; when calls are lost, attempts disconnected or
first attempts failed more often, and the whole 95% interval of the change is
above zero (Newcombe's, from Wilson intervals); or when the median or the 95th
percentile of the latency is longer by a tenth or more, and the whole interval
of the change is above zero (from order statistics: a median takes 6 answers in
each run, a 95th percentile 72). The other rows are shown, not judged.

"""
STATUSES = {
    0: "done; the gate of each run shown passed, or was not judged",
    1: "a run was shown whose gate failed; with --fail-on-regression, the second run is worse than the first",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=screen.filled,
        help="a run's id or folder, a report.json, a folder of runs, or latest (the default)",
    )
    parser.add_argument(
        "--html", metavar="PATH", type=screen.filled, help="write the report of one run as an HTML page as well"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, in ASCII, one document a run")
    parser.add_argument("--rebuild", action="store_true", help="make the report anew from the run's log, and keep it")
    parser.add_argument("--merge", action="store_true", help="show the runs as the shards of one")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=screen.filled, help="with --merge: write the merged report.json"
    )
    parser.add_argument(
        "--max-error-rate", metavar="P", type=_rate, help="with --merge: the limit of the gate; by default the shards'"
    )
    parser.add_argument("--compare", action="store_true", help="show what changed from the first run to the second")
    parser.add_argument(
        "--fail-on-regression", action="store_true", help="with --compare: exit 1 when the second run is worse"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of report.json, and nothing else")


def _rate(text: str) -> float:
    """Read a share; argparse shows what is wrong with one."""
    import argparse

    from pytest_lmstudio import values

    try:
        return values.rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(chosen: argparse.Namespace) -> int:
    """Show the runs that were asked for; return the exit status."""
    _check(chosen)
    if chosen.schema:
        from pytest_lmstudio.report.json import schema_text

        screen.say(schema_text())
        return 0
    if chosen.compare:
        from pytest_lmstudio.cli import compare

        return compare.run(chosen)
    if chosen.merge:
        return _merged(chosen)
    names = chosen.runs or [runs.LATEST]
    if chosen.html and len(names) > 1:
        msg = "--html makes the page of one run: name one"
        raise Failure(msg)
    return max(_one(name, chosen) for name in names)


def _check(chosen: argparse.Namespace) -> None:
    """Refuse options that say nothing together, rather than to leave one out."""
    modes = [name for name in ("schema", "compare", "merge", "rebuild") if getattr(chosen, name)]
    if len(modes) > 1:
        msg = f"--{modes[0]} and --{modes[1]} cannot be asked for at once"
        raise Failure(msg)
    for name, mode in (("output", "merge"), ("max_error_rate", "merge"), ("fail_on_regression", "compare")):
        said = getattr(chosen, name)
        if said is not None and said is not False and not getattr(chosen, mode):
            msg = f"--{name.replace('_', '-')} goes with --{mode}"
            raise Failure(msg)
    if chosen.schema and (chosen.runs or chosen.html or chosen.json):
        msg = "--schema prints the schema of every report: leave the rest out"
        raise Failure(msg)
    if chosen.merge and not chosen.runs:
        msg = "--merge takes the runs of the shards: name them"
        raise Failure(msg)
    if chosen.compare and len(chosen.runs) != 2:  # noqa: PLR2004  # before and after
        msg = f"--compare takes two runs, the one before first, not {len(chosen.runs)}"
        raise Failure(msg)
    if chosen.compare and chosen.html:
        msg = "--html makes the page of one run, not of two: leave --compare out"
        raise Failure(msg)


def _merged(chosen: argparse.Namespace) -> int:
    from pytest_lmstudio.cli.merge import merged
    from pytest_lmstudio.report.json import report_text

    stored = merged(chosen.runs, runs.home_of(chosen.dir), max_error_rate=chosen.max_error_rate)
    rendered = _rendered(stored, as_json=chosen.json, as_page=bool(chosen.html))
    screen.say(rendered.json)
    screen.show(rendered.section)
    if chosen.html:
        _write(Path(chosen.html), rendered.page)
    if chosen.output:
        _write(Path(chosen.output), report_text(stored.report).encode("utf-8"))
    return int(rendered.gate_failed)


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
    screen.say(rendered.json)
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
        yield from lost_lines(lost_tests(stored.events), "--html PATH")


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
    from pytest_lmstudio.report.html import OfTests, render
    from pytest_lmstudio.report.html_tests import outcomes_of

    calls = calls_of(stored.events) if stored.calls is None else stored.calls
    return render(stored.report, calls, OfTests(outcomes_of(stored.events))).encode("utf-8")


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


def _write(path: Path, data: bytes) -> None:
    from pytest_lmstudio.report.files import write_whole

    try:
        write_whole(path, [data])
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
