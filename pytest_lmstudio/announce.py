"""What the run tells on the terminal while it is on, whichever of its processes it happened in."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

#: How often the log is looked at, seconds.
_LOOK_S = 0.5
#: How long the end of a run waits for a terminal that takes nothing, seconds.
_PATIENCE_S = 1.0


class Line:
    """Writes whole lines to the terminal from any thread, past pytest's capture.

    While a test runs, standard output leads into its captured output, and only pytest's own thread may change that.
    A duplicate made while no test runs still leads to the terminal.

    Args:
        reporter: pytest's terminal reporter, whose own line must not be broken.
        file: its file.
    """

    def __init__(self, reporter: Any, file: TextIO) -> None:
        self._writer: Any = getattr(reporter, "_tw", None)  # pytest has no public name for it
        self._reporter = reporter
        self._file = file
        self._fd: int | None = None
        with suppress(OSError, ValueError, AttributeError):  # a file in memory, which nobody leads elsewhere
            self._fd = os.dup(file.fileno())

    def say(self, text: str) -> None:
        """Write a line of its own; a terminal that is gone is not written to."""
        begun = getattr(self._writer, "width_of_current_line", 0) > 0
        with suppress(OSError, ValueError):
            self._write(f"\n{text}\n" if begun else f"{text}\n")
        # Then pytest repeats the name of the file or test under way, and knows where its line begins.
        self._reporter.currentfspath = None
        if begun:
            self._writer._current_line = ""  # noqa: SLF001  # it has no public name either

    def close(self) -> None:
        """Give the duplicate back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, text: str) -> None:
        if self._fd is None:
            self._file.write(text)
            self._file.flush()
            return
        data = text.replace("\n", os.linesep).encode(self._file.encoding or "ascii", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]


class Announcer:
    """Hooks of the process that has the terminal: a thread of it follows the log that all processes write.

    Args:
        log: returns where the log lies by now.
    """

    def __init__(self, log: Callable[[], Path]) -> None:
        self._log = log
        self._line: Line | None = None
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Be ready while tests run; outermost, since pytest ends its own last line inside."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and sys.stdout is not None and not session.config.option.collectonly:
            self._line = Line(reporter, sys.stdout)
        if session.config.getoption("dist", "no") != "no":
            self.start()
        try:
            return (yield)
        finally:
            self.stop()

    def start(self) -> None:
        """Follow the log from now on; the process that makes the run's calls asks for it at the first one."""
        if self._line is not None and self._thread is None:
            self._thread = threading.Thread(target=self._follow, args=(self._line,), name="lmstudio-tell", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Tell what is left, and end."""
        line, self._line = self._line, None
        self._end.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)
        if line is not None and (self._thread is None or not self._thread.is_alive()):
            line.close()

    def _follow(self, line: Line) -> None:
        from pytest_lmstudio.record.tail import Tail
        from pytest_lmstudio.report.narrator import Narrator

        narrator = Narrator()
        tail = Tail(self._log(), narrator.EVENTS)
        ended = False
        while not ended:
            ended = self._end.wait(_LOOK_S)
            if tail.path != self._log():
                tail = Tail(self._log(), narrator.EVENTS)
            for event in tail.new():
                for text in narrator.take(event, time.monotonic()):
                    line.say(text)
            for text in narrator.due(time.monotonic()):
                line.say(text)
