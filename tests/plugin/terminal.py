"""A terminal of a program's own, and what stands on its screen."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

#: What the program is told of the terminal.
TERM = "xterm"
_DEADLINE_S = 90.0
_SEQUENCE = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


class Screen:
    """What a terminal shows: enough of one for lines that are written, erased and gone back to.

    Args:
        columns: its width.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        """The rows, without what is blank at their ends."""
        return ["".join(row).rstrip() for row in self._rows]

    def write(self, text: str) -> None:
        """Show text; sequences that move nothing, such as colours, are passed over.

        Raises:
            AssertionError: a sequence that this terminal does not know.
        """
        at = 0
        while at < len(text):
            sequence = _SEQUENCE.match(text, at)
            if sequence is None:
                self._put(text[at])
                at += 1
                continue
            self._obey(sequence[2], int(sequence[1] or 1) if (sequence[1] or "").isdigit() else 1, sequence[1])
            at = sequence.end()

    def _put(self, char: str) -> None:
        if char == "\n":
            self._down()
        elif char == "\r":
            self._column = 0
        else:
            if self._column == self._columns:  # only what comes behind the last column breaks the line
                self._column = 0
                self._down()
            row = self._rows[self._row]
            row += " " * (self._column + 1 - len(row))
            row[self._column] = char
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])

    def _obey(self, name: str | None, count: int, given: str | None) -> None:
        if name == "K":
            assert not given
            del self._rows[self._row][self._column :]
        elif name == "A":
            self._row = max(self._row - count, 0)
        elif name == "G":
            self._column = count - 1
        else:
            assert name in {"m", None}, f"what is {name}?"


def run(
    command: Sequence[str],
    *,
    columns: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
    seen: Callable[[str], object] = lambda _: None,
) -> tuple[int, str]:
    """Run a program on a terminal of its own; return its exit status and what it wrote.

    Args:
        command: the program.
        columns: the terminal's width.
        folder: where it runs.
        env: variables besides those of this process.
        seen: is told all that was written so far, whenever there is more.

    Raises:
        AssertionError: it does not end.
    """
    import fcntl  # POSIX has terminals of this kind
    import pty  # the same
    import termios  # the same

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": TERM} | dict(env or {}),
    )  # fmt: skip
    os.close(theirs)
    written, until_s = b"", time.monotonic() + _DEADLINE_S
    try:
        while data := _read(ours):
            written += data
            seen(written.decode("utf-8", "replace"))
            assert time.monotonic() < until_s, written.decode("utf-8", "replace")
        return process.wait(_DEADLINE_S), written.decode("utf-8")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(fd: int) -> bytes:
    """Return what came, nothing when the other side is closed."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
