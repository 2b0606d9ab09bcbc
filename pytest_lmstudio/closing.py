"""The end of a run: its report, the copies of it, and what pytest remembers of it."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_lmstudio import __version__, outlets
from pytest_lmstudio.engine.vetting import count
from pytest_lmstudio.home import shown
from pytest_lmstudio.record.build import RunFacts, build_report
from pytest_lmstudio.record.events import LOG, iso_of, raw_lines, read_events
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.report.files import write_whole
from pytest_lmstudio.report.json import write_report
from pytest_lmstudio.report.terminal import Line, lines, lost_lines
from pytest_lmstudio.text import printable
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_lmstudio.record.events import Event, Events
    from pytest_lmstudio.server.embedded import EmbeddedServer
    from pytest_lmstudio.server.logs import ServerLog
    from pytest_lmstudio.session import Run

_MARKS = {name: f'"event":"{name}"'.encode() for name in ("gen_error", "gen_request", "gen_success", "gen_abandoned")}
#: Lines of a log that are looked through at once.
_LINES_AT_ONCE = 1000
#: pytest's exit status of a run that was interrupted.
_INTERRUPTED = 2


def judge(run: Run, exit_status: int | None) -> dict[str, Any] | None:
    """Return the report as of now, None when the run made no call."""
    return _report(run, read_events(run.folder / LOG), exit_status)


def gate_failed(run: Run) -> bool:
    """Tell whether more was lost than may be, as of now."""
    if not _problems(run) and not run.gathered.lost() and _all_answered(run.folder / LOG):
        return False
    report = judge(run, None)
    return report is not None and bool(report["gate"]["failed"])


def _all_answered(log: Path) -> bool:
    """Tell whether each request in a log has its answer, without reading the events: a long log takes seconds."""
    seen: Counter[str] = Counter()
    lines = raw_lines(log)
    while block := b"".join(islice(lines, _LINES_AT_ONCE)):
        for name, mark in _MARKS.items():
            seen[name] += block.count(mark)
    return not seen["gen_error"] and seen["gen_request"] == seen["gen_success"] + seen["gen_abandoned"]


def _report(run: Run, log: Events, exit_status: int | None) -> dict[str, Any] | None:
    settings, gathered = run.own_server.settings(), run.gathered
    if run.interrupted and exit_status == 0:  # pytest was broken off before it noted the interrupt
        exit_status = _INTERRUPTED
    facts = RunFacts(
        run_id=run.run_id,
        started_at=iso_of(run.started_s),
        duration_s=round(run.clock.now_s() - run.started_s, 3),
        pipeline_version=settings.pipeline_version,
        plugin_version=__version__,
        exit_status=exit_status,
        settings=settings,
        outcomes=tally(gathered.outcomes),
        llm_tests=len(gathered.llm_tests),
        llm_tests_lost=len(gathered.llm_tests.intersection(gathered.lost())),
        workers_crashed=gathered.workers_crashed,
        interrupted=run.interrupted,
        cache_entries=None if settings.cache == "off" else count(Path(settings.dir, "cache")),
        damaged_lines=log.damaged_lines,
        problems=_problems(run),
    )
    report = build_report(log.events, run=facts)
    return report if report["calls"]["total"] else None


def write(run: Run, exit_status: int) -> dict[str, Any] | None:
    """Write the report into the run's folder, and where else it is wanted; return it."""
    run.endings.settle_all()
    log = read_events(run.folder / LOG)
    server_log = _server_log(run, log.events)
    if server_log is not None:
        run.endings.server_log({**server_log.fields(), "exited": _is_dead(run.own_server.running)})
        log = read_events(run.folder / LOG)
    report = _report(run, log, exit_status)
    if report is None:
        return None
    if report["gate"]["failed"] and exit_status == 0:
        report["exit_status"] = 1  # as the session will end: nobody watched the loop of a test that got `lm` late
    run.endings.finish(report, interrupted=run.interrupted, problems=_problems(run))
    run.settle()
    _put(run, run.folder / "report.json", lambda path: write_report(report, path))
    if run.settings.report:
        _put(run, Path(run.settings.report), lambda path: write_report(report, path))
    if run.settings.html:
        _put(run, Path(run.settings.html), lambda path: _write_page(run, report, path))
    for path, write_it in outlets.files(run, report):
        _put(run, path, write_it)
    if server_log is not None and _is_dead(run.own_server.running):
        dead = server_log.text.encode("utf-8", "replace")
        _put(run, run.folder / "embedded.log", lambda path: write_whole(path, [dead]))
    if report["escalation"]["escalate"]:
        from pytest_lmstudio.report.bundle import write_bundle

        tail = server_log.text if server_log else None
        _put(run, run.folder, lambda folder: write_bundle(folder, report, os.environ, tail))
    return report


def _problems(run: Run) -> tuple[str, ...]:
    """Return what the run met besides calls, a line each."""
    failed = run.endings.failed
    return (*run.problems, *([f"tests are missing from the log: {failed}"] if failed else ()))


def _put(run: Run, path: Path, write: Callable[[Path], object]) -> None:
    """Write one file; one that cannot be written is told, and does not take the summary with it."""
    try:
        write(path)
    except OSError as error:
        run.unwritten.append(f"{printable(path)} cannot be written: {error.strerror}")


def _write_page(run: Run, report: dict[str, Any], path: Path) -> None:
    from pytest_lmstudio.record.history import calls_of
    from pytest_lmstudio.report.html import OfTests, write_page
    from pytest_lmstudio.report.html_tests import outcomes_of

    events = read_events(run.folder / LOG).events
    write_page(report, calls_of(events), path, OfTests(outcomes_of(events), outlets.texts_of(run)))


def _server_log(run: Run, events: Sequence[Event]) -> ServerLog | None:
    """Return the server's log where it is on this machine and something went wrong; else it is nobody's business."""
    if not any(event["event"] == "gen_error" for event in events) and not run.gathered.workers_crashed:
        return None
    from pytest_lmstudio.server.logs import Span, embedded_log, in_time, lmstudio_log

    own, url = run.own_server.running, run.settings.url
    if own is not None:
        return in_time(lambda: embedded_log(own.log_path))
    if not is_loopback(url) or not _may_be_lmstudio(events):
        return None
    span = Span(run.started_s, run.clock.now_s())
    return in_time(lambda: lmstudio_log(Path.home(), urlsplit(url).port, span))


def _may_be_lmstudio(events: Sequence[Event]) -> bool:
    """Tell whether the server said that it is LM Studio, or did not say what it is."""
    seen = [event.get("server") for event in events if event["event"] == "preflight"]
    return all(server.get("kind") in ("lmstudio", None) for server in seen if isinstance(server, dict))


def _is_dead(own: EmbeddedServer | None) -> bool:
    return own is not None and not own.is_alive()


def section(run: Run, report: Mapping[str, Any], width: int) -> Iterator[Line]:
    """Yield the section at the end of the session."""
    start_dir = run.config.invocation_params.dir
    yield from lines(report, width=width, run_dir=shown(run.folder, start_dir))
    yield from lost_lines(run.endings.lost())
    if run.settings.html and not run.unwritten:
        yield Line(f"page          {shown(Path(run.settings.html), start_dir)}")
    yield from (Line(text, {"red": True}) for text in run.unwritten)


def remember_lost(run: Run) -> None:
    """Let ``--lf`` and ``--ff`` run lost tests again."""
    cache = getattr(run.config, "cache", None)
    lost = run.gathered.lost()
    if cache is not None and lost:
        cache.set("cache/lastfailed", {**cache.get("cache/lastfailed", {}), **dict.fromkeys(lost, True)})
