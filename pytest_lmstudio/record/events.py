"""The event log: one JSON object a line, one file for all processes of a run."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

Event = dict[str, Any]

# Where a line begins, also behind the rest of a torn one: inside a JSON string its quotes would be escaped.
_LINE_START = '{"ts":"'

_ENCODER = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"), default=str
)
_OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# The last second formatted and its text; replaced as one object, so that threads never see half of it.
_second: tuple[int, str] = (-1, "")


class Events(NamedTuple):
    """A log read back.

    Attributes:
        events: in the order of the file, which is the order of writing.
        damaged_lines: lines that were torn or are no events.
    """

    events: list[Event]
    damaged_lines: int


class EventWriter:
    """Appends events to a log that any number of processes and threads write at once.

    Each event is one ``os.write`` of a whole line to an ``O_APPEND`` descriptor, so a process that is killed loses
    nothing it wrote. A disk that is full, or a folder that went away, does not disturb the tests.

    Attributes:
        path: the log.
        failed: the first reason why an event could not be written, or None.
    """

    def __init__(
        self, path: str | Path, common: Mapping[str, object] | None = None, *, locked: bool = os.name == "nt"
    ) -> None:
        """Open the log for appending.

        Args:
            path: the file; it is made, and its folder too.
            common: fields that every event carries, such as ``run_id`` and ``worker``.
            locked: whether writes take a file lock beside the log, where appending is not atomic over processes.
        """
        self.path = Path(path)
        self.failed: str | None = None
        # Encoded once; fields that an event carries itself come later in its line, and win.
        self._common = _encoded(common or {})[1:-1]
        self._lock = _lock_of(self.path) if locked else nullcontext()
        self._torn = False
        self._fd: int | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, _OPEN_FLAGS, 0o600)
        except OSError as error:
            self.failed = str(error)

    def write(self, event: str, **fields: object) -> None:
        """Write one event with the time of now; never raises, see `failed`."""
        parts = (f'"event":{_ENCODER.encode(event)}', self._common, _encoded(fields)[1:-1])
        line = f'{_LINE_START}{now_iso()}",{",".join(filter(None, parts))}}}\n'.encode("ascii")
        fd = self._fd
        if fd is None:
            self.failed = self.failed or f"{self.path} is closed"
            return
        try:
            with self._lock:
                self._append(fd, line)
        except OSError as error:
            self.failed = self.failed or str(error)

    def close(self) -> None:
        """Close the log; events that come later are lost, and `failed` says so."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the log."""
        self.close()

    def _append(self, fd: int, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        written = os.write(fd, whole)
        self._torn = written < len(whole)
        if self._torn:
            self.failed = self.failed or f"only {written} of {len(whole)} bytes fitted into {self.path}"


class _ProcessLock:
    """A file lock that also keeps the threads of this process apart."""

    def __init__(self, path: Path) -> None:
        # Not needed where appends are atomic, so not paid for there.
        from filelock import FileLock

        self._threads = threading.RLock()
        self._processes = FileLock(path, timeout=10, thread_local=False)

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            self._processes.acquire()
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *exc: object) -> None:
        self._processes.release()
        self._threads.release()


def read_events(path: str | Path) -> Events:
    """Read a log back, skipping and counting lines that are torn or foreign; a missing log is an empty one."""
    events: list[Event] = []
    damaged = 0
    try:
        with Path(path).open("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                event, whole = _decoded(line.decode("utf-8", "replace"))
                damaged += not whole
                if event is not None:
                    events.append(event)
    except FileNotFoundError:
        pass
    return Events(events, damaged)


def now_iso() -> str:
    """Return the time as UTC ISO 8601 with milliseconds, such as ``2026-11-22T12:34:56.789Z``."""
    return iso_of(time.time())


def iso_of(time_s: float) -> str:
    """Return a Unix time in seconds as `now_iso` writes it, cut to milliseconds."""
    global _second  # noqa: PLW0603  # formatting the second costs more than the rest of an event
    second, ms = divmod(int(time_s * 1000), 1000)
    known, text = _second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _second = (second, text)
    return f"{text}{ms:03d}Z"


def seconds_of(ts: object) -> float | None:
    """Return a timestamp as Unix time in seconds, None when it is none."""
    try:
        return datetime.fromisoformat(ts).timestamp() if isinstance(ts, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _lock_of(path: Path) -> AbstractContextManager[None]:
    return _ProcessLock(path.with_name(path.name + ".lock"))


def _encoded(fields: Mapping[str, object]) -> str:
    try:
        return _ENCODER.encode(fields)
    except (ValueError, TypeError, RecursionError):
        # Numbers that JSON does not have, or keys that are no strings.
        return _ENCODER.encode({key: _plain(value) for key, value in fields.items()})


def _plain(value: object) -> object:
    """Return what JSON surely takes: not finite is null, everything but scalars goes by its repr if it must."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    try:
        return json.loads(_ENCODER.encode(value))
    except (ValueError, TypeError, RecursionError):
        return f"<{type(value).__name__}>"


def _decoded(line: str) -> tuple[Event | None, bool]:
    """Return the event of a line, None when it holds none, and whether the line was whole."""
    event = _parsed(line)
    if event is not None:
        return event, True
    # A torn line has no end of its own: the next one follows in the same line, and is whole.
    start = line.rfind(_LINE_START)
    return (_parsed(line[start:]) if start > 0 else None), False


def _parsed(line: str) -> Event | None:
    try:
        found = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    is_event = isinstance(found, dict) and isinstance(found.get("event"), str) and isinstance(found.get("ts"), str)
    return found if is_event else None
