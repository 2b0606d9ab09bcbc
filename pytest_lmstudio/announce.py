"""What the run tells on the terminal while it is on, whichever of its processes it happened in."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator
    from pathlib import Path

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.tail import Tail
    from pytest_lmstudio.report.heartbeat import Heartbeat, Known

#: What the thread uses.
_LOADED = ("pytest_lmstudio.record.tail", "pytest_lmstudio.report.heartbeat", "pytest_lmstudio.report.narrator")
#: How often the log is looked at, seconds.
_LOOK_S = 0.5
#: After how long without a word, while calls are in flight, the run shows that it is alive, seconds.
_SILENCE_S = 30.0
#: How long the end of a run waits for a terminal that takes nothing, seconds.
_PATIENCE_S = 1.0
#: ``-qq``: nobody wants to hear how a run stands.
_TOO_QUIET = -2
_ERASE, _UP = "\r\x1b[K", "\x1b[A\x1b[{}G"


class Line:
    """Writes whole lines to the terminal from any thread, past pytest's capture, and one that comes and goes.

    While a test runs, standard output leads into its captured output, and only pytest's own thread may change that.
    A duplicate made while no test runs still leads to the terminal. What pytest writes itself goes through here as
    long as this is open, so that the two never write at once, and it is known when either did.

    Args:
        reporter: pytest's terminal reporter, whose own line must not be broken.
        file: its file.
        in_place: whether a line may come and go, where the file is a terminal that obeys, and nobody else's.
    """

    def __init__(self, reporter: Any, file: TextIO, *, in_place: bool = False) -> None:
        self._writer: Any = getattr(reporter, "_tw", None)  # pytest has no public name for it
        self._reporter = reporter
        self._file = file
        self._fd: int | None = None
        with suppress(OSError, ValueError, AttributeError):  # a file in memory, which nobody leads elsewhere
            self._fd = os.dup(file.fileno())
        self.in_place = in_place and self._fd is not None and _obeys(self._fd)
        self._shown = ""
        self._begun = 0
        self._written_s = time.monotonic()
        with suppress(OSError, ValueError):
            file.flush()
        self._lock = threading.RLock()  # a signal handler may write while its thread does
        self._watched = self._watch()

    @property
    def width(self) -> int:
        """Return the columns of the terminal; pytest asks standard output, which leads elsewhere during a test."""
        with suppress(OSError, TypeError):
            return os.get_terminal_size(self._fd).columns  # type: ignore[arg-type]  # None is a TypeError
        return int(getattr(self._writer, "fullwidth", 80))

    def silent_s(self) -> float:
        """Return for how long no line came from pytest or from here, seconds; one that comes and goes is none."""
        return time.monotonic() - self._written_s

    def say(self, text: str) -> None:
        """Write a line of its own; a terminal that is gone is not written to."""
        with self._lock:
            self._erase()
            begun = self._columns() > 0
            self._put(f"\n{text}\n" if begun else f"{text}\n")
            self._written_s = time.monotonic()
            # Then pytest repeats the name of the file or test under way, and knows where its line begins.
            self._reporter.currentfspath = None
            if begun:
                self._writer._current_line = ""  # noqa: SLF001  # it has no public name either

    def show(self, text: str) -> None:
        """Write a line that stands below pytest's until either writes the next one."""
        with self._lock:
            if text == self._shown:
                return
            if not self._shown:
                self._begun = self._columns()
            if self._begun and self._begun % self.width == 0:
                self.say(text)  # no terminal can be told to wait behind its last column again
                return
            self._put(f"{_ERASE}{text}" if self._shown or not self._begun else f"\n{text}")
            self._shown = text

    def erase(self) -> None:
        """Take the line away that comes and goes, and leave the terminal as it was."""
        with self._lock:
            self._erase()

    def close(self) -> None:
        """Give the duplicate back, and let pytest write as before."""
        self.erase()
        if self._watched is not None and vars(self._writer).get("write") is self._watched:
            del self._writer.write
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _watch(self) -> Callable[..., None] | None:
        """Be told before pytest writes; return what stands in for its own method, None where there is none."""
        write = getattr(self._writer, "write", None)
        if write is None:
            return None

        def noted(*args: Any, **kwargs: Any) -> None:
            with self._lock:
                if self._shown:
                    self._erase()
                self._written_s = time.monotonic()
                write(*args, **{**kwargs, "flush": True})  # else it comes behind what is written past its buffer

        self._writer.write = noted
        return noted

    def _erase(self) -> None:
        if self._shown:
            self._shown = ""
            # A line longer than the terminal is wide goes on in rows below.
            back = _UP.format(self._begun % self.width + 1) if self._begun else ""
            self._put(f"{_ERASE}{back}")

    def _columns(self) -> int:
        return int(getattr(self._writer, "width_of_current_line", 0))

    def _put(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._write(text)

    def _write(self, text: str) -> None:
        if self._fd is None:
            self._file.write(text)
            self._file.flush()
            return
        data = text.replace("\n", os.linesep).encode(self._file.encoding or "ascii", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]


def _obeys(fd: int) -> bool:
    """Tell whether a descriptor leads to a terminal that can erase a line and go up."""
    return os.name != "nt" and os.isatty(fd) and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


class Announcer:
    """Hooks of the process that has the terminal: a thread of it follows the log that all processes write.

    Args:
        log: returns where the log lies by now.
    """

    def __init__(self, log: Callable[[], Path]) -> None:
        self._log = log
        self._line: Line | None = None
        self._session: pytest.Session | None = None
        self._thread: threading.Thread | None = None
        self._drain_s: float | None = None
        self._end = threading.Event()
        self._held = threading.Event()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Be ready while tests run; outermost, since pytest ends its own last line inside."""
        reporter, option = session.config.pluginmanager.get_plugin("terminalreporter"), session.config.option
        if reporter is not None and sys.stdout is not None and not option.collectonly:
            self._session = session
            # With any other capture, tests write to the terminal as well.
            self._line = Line(reporter, sys.stdout, in_place=getattr(option, "capture", None) == "fd")
        if session.config.getoption("dist", "no") != "no":
            self.start()
        try:
            return (yield)
        finally:
            self.stop()

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        self._held.set()
        if self._line is not None:
            self._line.erase()

    def pytest_leave_pdb(self) -> None:
        """Take the terminal back."""
        self._held.clear()

    def start(self) -> None:
        """Follow the log from now on; the process that makes the run's calls asks for it at the first one."""
        if self._line is not None and self._thread is None:
            for name in _LOADED:  # not by the thread: CPython 3.11 may break where two compile modules at once
                import_module(name)
            self._thread = threading.Thread(target=self._follow, args=(self._line,), name="lmstudio-tell", daemon=True)
            self._thread.start()

    def interrupted(self, drain_s: float) -> None:
        """Let the last thing that is told be the requests in flight, which have so many seconds to end."""
        self._drain_s = drain_s

    def stop(self) -> None:
        """Tell what is left, and end."""
        line, self._line = self._line, None
        self._end.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)
        if line is not None and (self._thread is None or not self._thread.is_alive()):
            line.close()

    def _follow(self, line: Line) -> None:
        from pytest_lmstudio.report.heartbeat import Heartbeat
        from pytest_lmstudio.report.narrator import Narrator

        narrator, heartbeat = Narrator(), Heartbeat()
        news, counts = _News(self._log, Narrator.EVENTS), _News(self._log, Heartbeat.EVENTS)
        ended = False
        while not ended:
            ended = self._end.wait(_LOOK_S)
            for event in news.new():
                for text in narrator.take(event, time.monotonic()):
                    line.say(text)
            for text in narrator.due(time.monotonic()):
                line.say(text)
            # Most of the log is of no interest before it has been quiet for long, and costs nothing until then.
            if line.silent_s() >= _SILENCE_S and not (ended or self._held.is_set() or self._is_too_quiet()):
                counts.tell(heartbeat)
                self._beat(line, heartbeat)
        if self._drain_s is not None:
            counts.tell(heartbeat)
            if heartbeat.in_flight:
                line.say(narrator.interrupted(heartbeat.in_flight, self._drain_s))

    def _beat(self, line: Line, heartbeat: Heartbeat) -> None:
        text = heartbeat.line(time.monotonic(), self._known(), line.width - 1 if line.in_place else None)
        if text is None:
            line.erase()
        elif line.in_place:
            line.show(text)
        else:
            line.say(text)

    def _is_too_quiet(self) -> bool:
        assert self._session is not None  # noqa: S101  # there is a line
        return int(self._session.config.getoption("verbose", 0)) <= _TOO_QUIET

    def _known(self) -> Known:
        """Return which tests the run has: here their marks tell, while of workers' tests the number is known."""
        from pytest_lmstudio.marks import is_llm
        from pytest_lmstudio.report.heartbeat import Known

        items = getattr(self._session, "items", None)
        if items:
            return Known(sum(map(is_llm, items)), all_ask=True)
        return Known(int(getattr(self._session, "testscollected", 0)))


class _News:
    """What is new in the run's log, wherever it lies by now."""

    def __init__(self, log: Callable[[], Path], names: Collection[str]) -> None:
        self._log, self._names = log, names
        self._tail = self._opened()

    def new(self) -> Iterator[Event]:
        """Yield the wanted events that were written since the last time."""
        if self._tail.path != self._log():
            self._tail = self._opened()
        while events := self._tail.new():
            yield from events

    def tell(self, heartbeat: Heartbeat) -> None:
        """Let a heartbeat count what is new."""
        for event in self.new():
            heartbeat.take(event, time.monotonic())

    def _opened(self) -> Tail:
        from pytest_lmstudio.record.tail import Tail

        return Tail(self._log(), self._names)
