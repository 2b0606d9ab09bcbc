"""The end of a run: its report, the copies of it, and what pytest remembers of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.cache import count
from pytest_lmstudio.record.build import RunFacts, build_report
from pytest_lmstudio.record.events import EventWriter, iso_of, read_events
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.report.bundle import write_bundle
from pytest_lmstudio.report.json import write_report
from pytest_lmstudio.server.logs import find_log, tail_of
from pytest_lmstudio.text import printable
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.session import Run


def judge(run: Run, exit_status: int | None) -> dict[str, Any] | None:
    """Return the report as of now, None when the run made no call."""
    log = read_events(run.folder / "events.jsonl")
    settings, gathered = run.own_server.settings(), run.gathered
    facts = RunFacts(
        run_id=run.run_id,
        started_at=iso_of(run.started_s),
        duration_s=round(time.time() - run.started_s, 3),
        pipeline_version=settings.pipeline_version,
        plugin_version=run.plugin_version,
        exit_status=exit_status,
        settings=settings,
        outcomes=tally(gathered.outcomes),
        llm_tests=len(gathered.llm_tests),
        llm_tests_lost=len(gathered.llm_tests.intersection(gathered.lost())),
        workers_crashed=gathered.workers_crashed,
        interrupted=run.interrupted,
        cache_entries=None if settings.cache == "off" else count(Path(settings.dir, "cache")),
        damaged_lines=log.damaged_lines,
        problems=tuple(run.problems),
    )
    report = build_report(log.events, run=facts)
    return report if report["calls"]["total"] else None


def write(run: Run, exit_status: int) -> dict[str, Any] | None:
    """Write the report into the run's folder, and where else it is wanted; return it."""
    report = judge(run, exit_status)
    if report is None:
        return None
    common = {"run_id": run.run_id, "worker": "main", "pipeline_version": run.settings.pipeline_version}
    with EventWriter(run.folder / "events.jsonl", common) as events:
        events.write("run_end", exit_status=exit_status, tests=report["tests"])
    _put(run, run.folder / "report.json", lambda path: write_report(report, path))
    if run.settings.report:
        _put(run, Path(run.settings.report), lambda path: write_report(report, path))
    if run.settings.html:
        _put(run, Path(run.settings.html), lambda path: _write_page(run, report, path))
    if report["escalation"]["escalate"]:
        _put(run, run.folder, lambda folder: write_bundle(folder, report, os.environ, _server_log(run)))
    return report


def _put(run: Run, path: Path, write: Callable[[Path], object]) -> None:
    """Write one file; one that cannot be written is told, and does not take the summary with it."""
    try:
        write(path)
    except OSError as error:
        run.unwritten.append(f"{printable(path)} cannot be written: {error.strerror}")


def _write_page(run: Run, report: dict[str, Any], path: Path) -> None:
    from pytest_lmstudio.record.history import calls_of
    from pytest_lmstudio.report.html import write_page

    write_page(report, calls_of(read_events(run.folder / "events.jsonl").events), path)


def _server_log(run: Run) -> str | None:
    """Return the end of the server's log, where it is on this machine."""
    if run.own_server.running is not None:
        return tail_of(run.own_server.running.log_path)
    path = find_log(Path.home(), run.started_s) if is_loopback(run.settings.url) else None
    return tail_of(path) if path else None


def remember_lost(run: Run) -> None:
    """Let ``--lf`` and ``--ff`` run lost tests again."""
    cache = getattr(run.config, "cache", None)
    lost = run.gathered.lost()
    if cache is not None and lost:
        cache.set("cache/lastfailed", {**cache.get("cache/lastfailed", {}), **dict.fromkeys(lost, True)})
