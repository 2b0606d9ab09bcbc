"""Runs on disk: found by their names, and read with distrust, since anybody may have written them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.files import read_small
from pytest_lmstudio.home import KEPT_RUNS, Home, spare_folder
from pytest_lmstudio.record.spare import gather, has_spare
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event, Events
    from pytest_lmstudio.record.facts import CallFacts

LATEST = "latest"
REPORT, LOG = "report.json", "events.jsonl"
#: A report has some ten KB, and a log about 1 KB and three lines for each call: what is larger would fill the memory.
MOST_REPORT_BYTES = 32 * 1024**2
MOST_LOG_BYTES = 512 * 1024**2
MOST_LOG_LINES = 1_000_000
_CHUNK_BYTES = 1024**2

_RUN_ID = re.compile(r"(?!\.)[\w.-]{1,200}", re.ASCII)
#: How the id of a run begins: with its time.
_BEGUN = re.compile(r"\d{8}-\d{6}-", re.ASCII)
#: What code that trusts its input raises when it should not have.
MISFIT = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


@dataclass
class StoredRun:
    """A run as it lies on disk.

    Attributes:
        report: its report.
        origin: whether the report was ``written`` before, is ``rebuilt`` from the log of a run that is over, or from
            that of a run still ``going on``, or ``merged`` from those of shards.
        folder: the run's folder, None for a report that lies alone.
        log: the run's log, if it was read already.
        calls: those in the log, if they are known already.
    """

    report: dict[str, Any]
    origin: Literal["written", "rebuilt", "going on", "merged"]
    folder: Path | None
    log: Events | None = None
    calls: tuple[CallFacts, ...] | None = None

    @cached_property
    def events(self) -> list[Event]:
        """The run's events, none when its log is not there.

        Raises:
            Failure: the log cannot be read.
        """
        if self.log is not None:
            return self.log.events
        log = self.folder / LOG if self.folder is not None else None
        return read_log(log).events if log is not None and log.exists() else []


class OpenedLog(NamedTuple):
    """A run's log, and whether the run still writes it."""

    log: Events
    going_on: bool


def home_of(folder: str) -> Path:
    """Return the folder of the runs as it was typed, also in the environment, where no shell makes sense of ``~``."""
    return Path(os.path.expanduser(folder))  # noqa: PTH111  # leaves an unknown user's ~ as it is


def find(name: str, home: Path) -> Path:
    """Return the folder of a run, or the file of a report.

    Args:
        name: ``latest``, a run's folder, a run's id, the path of a report, or a folder of runs, whose newest is meant.
        home: the folder `.lmstudio`.

    Raises:
        Failure: there is none.
    """
    runs = home / "runs"
    if name == LATEST:
        return _latest(runs)
    try:
        if Path(name).exists():
            return _newest_in(Path(name)) or Path(name)
        if _RUN_ID.fullmatch(name) and (folder := Home(str(home)).run(name)).is_dir():
            return folder
    except OSError as error:
        msg = f"{name} cannot be reached: {error.strerror}"
        raise Failure(msg) from None
    newest = _newest(runs)
    known = f"; the newest there is {newest.name}, and {KEPT_RUNS} are kept" if newest else ""
    msg = f"{name} is neither a folder nor a file, nor a run in {runs}{known}"
    raise Failure(msg)


def load(path: Path, *, again: bool = False) -> StoredRun:
    """Return the run of a folder or of a report's file.

    Args:
        path: see `find`.
        again: whether to rebuild the report even though there is one.

    Raises:
        Failure: there is nothing to read, or it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    written = folder / REPORT if path.is_dir() or path.name == LOG else path
    if written.exists() and not again:
        at_home = written.name == REPORT
        return StoredRun(read_report(written), "written", folder if at_home else None)
    if not (folder / LOG).exists():
        missing = f"no {LOG}, so nothing can be rebuilt" if again else f"neither {REPORT} nor {LOG}: it is no run"
        msg = f"{folder} holds {missing}"
        raise Failure(msg)
    return _rebuilt(folder)


def read_report(path: Path) -> dict[str, Any]:
    """Return a report from its file; what it holds is looked at only as it is shown.

    Raises:
        Failure: it is no report, or one of a later version.
    """
    import json

    from pytest_lmstudio.record.build import SCHEMA_VERSION

    try:
        report = json.loads(read_small(path, MOST_REPORT_BYTES), parse_constant=lambda _: None)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise Failure(msg) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    version = report.get("schema_version") if isinstance(report, dict) else None
    if not isinstance(version, int) or version < 1:
        msg = f"{path} is no report of pytest-lmstudio: it has no schema_version"
        raise Failure(msg)
    if version > SCHEMA_VERSION:
        msg = f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}: upgrade pytest-lmstudio"
        raise Failure(msg)
    return dict(report)


def read_log(path: Path) -> Events:
    """Return what a log holds.

    Raises:
        Failure: it is no log, or too large.
    """
    from pytest_lmstudio.record.events import read_events
    from pytest_lmstudio.record.rebuild import is_ours

    try:
        if not path.is_file():
            msg = f"{path} is no file"
            raise Failure(msg)
        if path.stat().st_size > MOST_LOG_BYTES or _lines_in(path) > MOST_LOG_LINES:
            msg = f"{path} is larger than {MOST_LOG_BYTES / 1024**2:.0f} MiB or {MOST_LOG_LINES:,} lines"
            raise Failure(msg)
        log = read_events(path)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise Failure(msg) from None
    if not is_ours(log.events):
        msg = f"{path} is no log of pytest-lmstudio"
        raise Failure(msg)
    return log


def _lines_in(path: Path) -> int:
    with path.open("rb") as log:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(_CHUNK_BYTES), b""))


def damaged(path: Path, error: BaseException) -> Failure:
    """Return the complaint about a file that is not what its name says."""
    missing = "no " if isinstance(error, KeyError) else ""
    what = f"{missing}{printable(error, limit=120)}" if str(error) else type(error).__name__
    way_out = f"; --rebuild makes a new one from {LOG}" if path.name == REPORT and path.with_name(LOG).exists() else ""
    return Failure(f"{path} is damaged ({what}){way_out}")


def open_log(folder: Path) -> OpenedLog:
    """Return the log of a run's folder, whole as far as it can be.

    Raises:
        Failure: it is no log, or too large.
    """
    from pytest_lmstudio.record.liveness import is_held
    from pytest_lmstudio.record.rebuild import has_ended

    path = folder / LOG
    # In this order: a run that ends in between is told by its log.
    held = is_held(path)
    if not held:
        _gather(folder)
    log = read_log(path)
    return OpenedLog(log, going_on=held and not has_ended(log.events))


def _rebuilt(folder: Path) -> StoredRun:
    from pytest_lmstudio.record.rebuild import rebuild

    log, going_on = open_log(folder)
    try:
        report = rebuild(log, run_id=folder.resolve().name, going_on=going_on)
    except MISFIT as error:
        raise damaged(folder / LOG, error) from None
    return StoredRun(report, "going on" if going_on else "rebuilt", folder, log)


def _gather(folder: Path) -> None:
    """Bring back the events of a run that was killed before it could, after its disk had been full for a while."""
    spare = spare_folder(folder.resolve().name)
    if spare != folder and has_spare(spare):
        with suppress(OSError):
            gather(folder / LOG, spare, into=folder / LOG)
            spare.rmdir()


def _latest(runs: Path) -> Path:
    """Return the run that last made its first call; should nothing name it, the newest by its id."""
    try:
        run_id = read_small(runs / LATEST).strip()
    except (OSError, UnicodeDecodeError):
        run_id = ""
    if _RUN_ID.fullmatch(run_id) and (runs / run_id).is_dir():
        return runs / run_id
    newest = _newest(runs)
    if newest is None:
        msg = f"{runs.parent} holds no runs: name the folder that pytest had with --dir"
        raise Failure(msg)
    return newest


def _newest_in(folder: Path) -> Path | None:
    """Return the newest run of a folder of runs, or of a folder `.lmstudio`; None when the folder is neither."""
    if not folder.is_dir() or (folder / LOG).exists() or (folder / REPORT).exists():
        return None
    if _newest(folder / "runs"):
        return _latest(folder / "runs")
    newest = _newest(folder)
    return newest if newest and _BEGUN.match(newest.name) else None


def _newest(runs: Path) -> Path | None:
    try:
        names = sorted(os.listdir(runs), reverse=True)  # noqa: PTH208  # ids begin with their time
    except OSError:
        return None
    return next(
        (runs / name for name in names if (runs / name / LOG).exists() or (runs / name / REPORT).exists()), None
    )
