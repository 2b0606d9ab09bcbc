"""What the command shows: lines with colour where there is a terminal, complaints, and what its statuses mean.

A reader who has gone, such as ``head``, is no trouble: what he does not read is left out, and the status stays.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    from pytest_lmstudio.report.terminal import Line

_CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33}
_NARROWEST, _USUAL, _WIDEST = 40, 80, 500
#: What a subcommand returns besides its own.
_STATUSES = {2: "wrong use, or something could not be read, shown or written", 130: "interrupted by Ctrl-C"}
_STATUS_COLUMN = 7


class Failure(Exception):
    """What was asked cannot be done; one line that says why, and what to do."""


def complain(text: str) -> None:
    """Say something beside the output."""
    note(f"pytest-lmstudio: {printable(text)}")


def note(line: str) -> None:
    """Write a line beside the output, as it is."""
    _write(sys.stderr, f"{line}\n")


def say(text: str) -> None:
    """Write to the output, as it is."""
    _write(sys.stdout, text)


def flush() -> None:
    """Send what was written on its way."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _let_go(sys.stdout, error)


def silence(stream: TextIO) -> None:
    """Let nothing reach a stream any more, neither now nor as the interpreter ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return


def filled(text: str) -> str:
    """Return a name that was typed, for argparse; an empty one comes from a variable that is not set."""
    import argparse

    if not text:
        msg = "expected a name, not an empty text"
        raise argparse.ArgumentTypeError(msg)
    return text


def statuses(own: Mapping[int, str]) -> str:
    """Return the paragraph of a help that tells what each exit status means; `own` are those of the subcommand."""
    lines = ["exit status:"]
    for status, meaning in sorted({**_STATUSES, **own}.items()):
        lines += textwrap.wrap(meaning, _USUAL, initial_indent=f"  {status:<5}", subsequent_indent=" " * _STATUS_COLUMN)
    return "\n".join(lines) + "\n"


def width() -> int:
    """Return the columns to fill: the terminal's, 80 where there is none."""
    columns = shutil.get_terminal_size((_USUAL, 24)).columns
    return min(columns, _WIDEST) if columns >= _NARROWEST else _USUAL


def title(text: str) -> Line:
    """Return a line that parts what is above it from what is below."""
    from pytest_lmstudio.report.terminal import Line

    return Line(f" {text} ".center(width(), "="))


def show(lines: Iterable[Line]) -> None:
    """Print lines, with colour if the output is a terminal that wants it."""
    colour = wants_colour(sys.stdout, os.environ)
    for line in lines:
        codes = [str(_CODES[name]) for name, on in line.markup.items() if on and name in _CODES]
        text = f"\x1b[{';'.join(codes)}m{line.text}\x1b[0m" if colour and codes else line.text
        say(f"{text}\n")


def wants_colour(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether colour codes may be sent: to a terminal, and not where NO_COLOR is set (https://no-color.org)."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not out.isatty():
        return False
    # Windows' old console shows the codes instead of obeying them.
    return sys.platform != "win32" or bool(environ.get("WT_SESSION") or environ.get("TERM"))


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except OSError as error:
        _let_go(stream, error)


def _let_go(stream: TextIO, error: OSError) -> None:
    """Write no more to a stream whose reader has gone, which Windows tells in its own way; raise any other error."""
    gone = isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)
    if not gone:
        raise error
    silence(stream)
