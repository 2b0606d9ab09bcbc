"""Events that went to a run's spare folder, since its log did not take them, are brought back into one log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.files import replace_file
from pytest_lmstudio.record.events import LINE_START, raw_lines

if TYPE_CHECKING:
    from pathlib import Path

_START = LINE_START.encode()
_TIME_END = len(LINE_START) + len("2026-11-22T12:34:56.789Z")


def has_spare(spare: Path) -> bool:
    """Tell whether events of a run lie in its spare folder."""
    return spare.is_dir() and any(spare.glob("*.jsonl"))


def gather(log: Path, spare: Path, *, into: Path) -> None:
    """Write all events of a run into one log, by their times; a line that is there several times is kept once.

    Args:
        log: the run's log.
        spare: its spare folder, from which all other logs go.
        into: the log to write, whole or not at all.

    Raises:
        OSError: it cannot be written, and nothing was changed.
    """
    parts = sorted(spare.glob("*.jsonl"))
    lines = dict.fromkeys(event for part in (log, *parts) for line in raw_lines(part) for event in _apart(line))
    for torn in [line for line in lines if not line.endswith(b"}")]:
        if any(line.startswith(torn) and line != torn for line in lines):  # it was written again, whole
            del lines[torn]
    replace_file(into, (line + b"\n" for line in sorted(lines, key=_time_in)))
    for part in parts:
        if part != into:
            part.unlink(missing_ok=True)


def _apart(line: bytes) -> list[bytes]:
    """Return the parts of a line that holds several, since the first ones are torn."""
    start, *others = line.rstrip(b"\n").split(_START)
    return [part for part in (start, *(_START + other for other in others)) if part]


def _time_in(line: bytes) -> bytes:
    """Return the time that a line begins with, as text that sorts as times do; a foreign line comes first."""
    return line[:_TIME_END] if line.startswith(_START) else b""
