"""Runs on disk, made without running anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.report.json import write_report
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import event, goods, report_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_lmstudio.record.events import Event

RUN_ID = "20261122-120000-0a1b2c3d"


def start(settings: Settings | None = None, **fields: Any) -> Event:
    known = {"started_at": "2026-11-22T11:59:58.000Z", "plugin_version": "0.1.0", "url": "http://127.0.0.1:1234"}
    return event("run_start", run_id=RUN_ID, settings=(settings or Settings()).as_dict(), **{**known, **fields})


def ended(nodeid: str, outcome: str = "passed", at_ms: float = 0, **fields: Any) -> Event:
    return event("test_end", at_ms, nodeid=nodeid, outcome=outcome, **{"llm": True, "ran": True, **fields})


def end(at_ms: float = 60_000, **fields: Any) -> Event:
    tests = tally({"a": {"passed"}})
    known = {"exit_status": 0, "duration_s": 61.5, "tests": tests, "cache_entries": 3, "interrupted": False}
    return event("run_end", at_ms, **{**known, "problems": [], **fields})


def write_log(folder: Path, events: Iterable[Event]) -> Path:
    """Write a log into a run's folder, which is made, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(one, separators=(",", ":")) for one in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def write_run(
    home: Path, run_id: str = RUN_ID, *, log: Iterable[Event] = (), report: dict[str, Any] | None = None
) -> Path:
    """Write a run with a report, and a log if there are events; return its folder."""
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    write_report({**(report or report_of(goods(2))), "run_id": run_id}, folder / "report.json")
    if log:
        write_log(folder, log)
    (home / "runs" / "latest").write_text(f"{run_id}\n", encoding="ascii")
    return folder
