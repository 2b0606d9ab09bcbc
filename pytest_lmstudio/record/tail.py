"""The end of a log that others are writing: what is new in it since the last look."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from pytest_lmstudio.record.events import Event

_NAME = b'"event":"'
#: What one look reads at most, bytes; a log that grows faster than that is read on by the next ones.
_MOST_BYTES = 4_000_000


class Tail:
    """Reads on in a log; lines that are torn or no events are passed over, and one that is not whole yet is waited for.

    Args:
        path: the log, which need not be there yet.
        names: the events wanted; any other costs no more than the reading.
    """

    def __init__(self, path: Path, names: Collection[str]) -> None:
        self.path = path
        self._names = frozenset(name.encode() for name in names)
        self._read_bytes = 0
        self._rest = b""

    def new(self) -> list[Event]:
        """Return the wanted events that were written since the last time, none when the log cannot be read."""
        try:
            if self.path.stat().st_size <= self._read_bytes:
                return []
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read(_MOST_BYTES)
        except OSError:
            return []
        self._read_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [event for line in lines if self._is_wanted(line) and (event := _parsed(line)) is not None]

    def _is_wanted(self, line: bytes) -> bool:
        """Look at the name before the whole line is read: it stands behind the time."""
        return line.partition(_NAME)[2].partition(b'"')[0] in self._names


def _parsed(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
