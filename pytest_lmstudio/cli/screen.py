"""What the command shows: lines with colour where there is a terminal, and complaints."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    from pytest_lmstudio.report.terminal import Line

_CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33}
_NARROWEST, _USUAL, _WIDEST = 40, 80, 500


class Failure(Exception):
    """What was asked cannot be done; one line that says why, and what to do."""


def complain(text: str) -> None:
    """Say something beside the output."""
    sys.stderr.write(f"pytest-lmstudio: {printable(text)}\n")


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
        sys.stdout.write(f"{text}\n")


def wants_colour(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether colour codes may be sent: to a terminal, and not where NO_COLOR is set (https://no-color.org)."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not out.isatty():
        return False
    # Windows' old console shows the codes instead of obeying them.
    return sys.platform != "win32" or bool(environ.get("WT_SESSION") or environ.get("TERM"))
