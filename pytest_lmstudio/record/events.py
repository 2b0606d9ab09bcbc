"""The event log: one JSON object a line, one file for all processes of a run."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pytest_lmstudio.files import check_regular, open_to_read
from pytest_lmstudio.record.line import members, quoted
from pytest_lmstudio.record.liveness import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Event = dict[str, Any]

#: The log's name in the folder of its run.
LOG = "events.jsonl"

# Where a line begins, also behind the rest of a torn one: inside a JSON string its quotes would be escaped.
LINE_START = '{"ts":"'
#: Bytes; no line of ours is nearly as long, and a foreign one must not fill the memory.
_LONGEST_LINE = 16_000_000

_OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

#: What a problem begins with when the log does not hold all that happened.
EVENTS_LOST = "events are missing from the log"
#: Stands for a log that is not open.
_NONE = -1

#: Made once: `json.loads` makes one for each line.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)

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
    nothing it wrote. A disk that is full, or a folder that went away, does not disturb the tests: from the first event
    that the log does not take, all go to a spare folder, and a log that somebody deleted is saved there at the end.

    Attributes:
        path: the log.
        failed: the first reason why an event could not be written anywhere, or None.
    """

    def __init__(
        self,
        path: str | Path,
        common: Mapping[str, object] | None = None,
        *,
        locked: bool = os.name == "nt",
        now_s: Callable[[], float] = time.time,
        spare: Callable[[], Path] | None = None,
    ) -> None:
        """Open the log for appending.

        Args:
            path: the file; it is made, and its folder too.
            common: fields that every event carries, such as ``run_id`` and ``worker``.
            locked: whether writes take a file lock beside the log, where appending is not atomic over processes.
            now_s: the time, Unix seconds; that of the run, where the wall's must not disturb the order.
            spare: makes and returns the spare folder; None when there is none.
        """
        self.path = Path(path)
        self.failed: str | None = None
        # Encoded once; fields that an event carries itself come later in its line, and win.
        self._common = members(common or {})
        self._now_s = now_s
        self._spare = spare
        self._moved = False
        self._moving = threading.Lock()
        self._lock = _lock_of(self.path) if locked else nullcontext()
        self._torn = False
        self._fd = _NONE
        self._opened: dict[int, Path] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(self.path)
        except OSError as error:
            self._trouble(error, self._fd)

    def write(self, event: str, **fields: object) -> None:
        """Write one event with the time of now; never raises, see `failed`."""
        line = self._line(event, fields)
        fd = self._fd
        if fd == _NONE:
            self.failed = self.failed or f"{self.path} is closed"
            return
        try:
            with self._lock:
                self._append(fd, line)
        except OSError as error:
            if self._trouble(error, fd):
                self._write_spare(line)

    def close(self) -> None:
        """Close the log; events that come later are lost, and `failed` says so."""
        with self._moving:
            opened, self._opened, self._fd = self._opened, {}, _NONE
        for fd, path in opened.items():
            if self._spare is not None and not _is_at(fd, path):
                self._save(fd)
            os.close(fd)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the log."""
        self.close()

    def _open(self, path: Path) -> None:
        """Write to a file from now on; one that was open stays so, since a thread may be writing there."""
        fd = os.open(path, _OPEN_FLAGS, 0o600)
        self._opened[fd] = path
        check_regular(fd)
        hold(fd)
        self._torn, self._fd = not _ends_whole(fd), fd

    def _line(self, event: str, fields: Mapping[str, object]) -> bytes:
        head = f'{LINE_START}{iso_of(self._now_s())}","event":{quoted(event)}'
        return f"{head}{self._common}{members(fields)}}}\n".encode("ascii")

    def _append(self, fd: int, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        written = os.write(fd, whole)
        self._torn = written < len(whole)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_spare(self, line: bytes) -> None:
        try:
            with self._lock:
                self._append(self._fd, line)
        except OSError as error:
            self.failed = self.failed or str(error)

    def _trouble(self, error: OSError, fd: int) -> bool:
        """Go on in the spare folder; tell whether an event can be tried there."""
        with self._moving:
            if self._fd != fd:  # another thread was here
                return True
            try:
                if self._spare is None or self._moved:
                    raise error
                self._open(self._spare() / LOG)
            except OSError:
                self.failed = self.failed or str(error)
                return False
            self._moved = True
        why = f"{self.path} could not be written to ({error.strerror or error}); the events after that were kept"
        self._write_spare(self._line("note", {"message": why}))
        return True

    def _save(self, fd: int) -> None:
        """Copy what was written to a log that somebody deleted or moved meanwhile."""
        assert self._spare is not None  # noqa: S101  # checked by the caller
        why = f"{self.path} was deleted or moved while the run wrote to it; its events were kept"
        try:
            copy = self._spare() / f"gone-{os.fstat(fd).st_ino}-{os.getpid()}.jsonl"
            os.lseek(fd, 0, os.SEEK_SET)
            with copy.open("wb") as file:
                while data := os.read(fd, 1_000_000):
                    file.write(data)
                file.write(b"\n" + self._line("note", {"message": why}))
        except OSError as error:
            self.failed = self.failed or f"{self.path} is gone ({error})"


def _ends_whole(fd: int) -> bool:
    """Tell whether a log ends with a whole line; a writer that was killed may have left a torn one."""
    if not os.fstat(fd).st_size:
        return True
    os.lseek(fd, -1, os.SEEK_END)
    return os.read(fd, 1) == b"\n"


def _is_at(fd: int, path: Path) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


class _ProcessLock:
    """A file lock that also keeps the threads of this process apart."""

    def __init__(self, path: Path) -> None:
        # Not needed where appends are atomic, so not paid for there.
        from filelock import FileLock

        self._threads = threading.RLock()
        self._processes = FileLock(path, timeout=10, thread_local=False)

    def __enter__(self) -> None:
        self._threads.acquire()
        # A line that may be torn is better than one that is lost, where the folder has no locks.
        with suppress(OSError, NotImplementedError):
            self._processes.acquire()

    def __exit__(self, *exc: object) -> None:
        self._processes.release()
        self._threads.release()


def read_events(path: str | Path) -> Events:
    """Read a log back, skipping and counting lines that are torn or foreign; a missing log is an empty one."""
    events: list[Event] = []
    damaged = 0
    for line in raw_lines(Path(path)):
        event, whole = _decoded(line.decode("utf-8", "replace").strip())
        damaged += not whole
        if event is not None:
            events.append(event)
    return Events(events, damaged)


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a log that hold something; one that is far too long, in pieces; none of what is no log."""
    try:
        with open_to_read(path) as file:
            while line := file.readline(_LONGEST_LINE):
                if line.strip():
                    yield line
    except OSError:
        if path.is_file():
            raise


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


def _decoded(line: str) -> tuple[Event | None, bool]:
    """Return the event of a line, None when it holds none, and whether the line was whole."""
    event = _parsed(line)
    if event is not None:
        return event, True
    # A torn line has no end of its own: the next one follows in the same line, and is whole.
    start = line.rfind(LINE_START)
    return (_parsed(line[start:]) if start > 0 else None), False


def _parsed(line: str) -> Event | None:
    try:
        found, end = _DECODER.raw_decode(line)  # `decode` looks for space around it with two patterns
    except (ValueError, RecursionError):
        return None
    if end < len(line) or not isinstance(found, dict):
        return None
    return found if isinstance(found.get("event"), str) and isinstance(found.get("ts"), str) else None
