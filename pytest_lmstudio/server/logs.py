"""The server's own log, where it is on this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Server logs can grow to hundreds of gigabytes, so only the end is ever read.
TAIL_BYTES = 256 * 1024
_HOMES = (".lmstudio", ".cache/lm-studio")
_POINTER = ".lmstudio-home-pointer"


def tail_of(path: Path, size: int = TAIL_BYTES) -> str | None:
    """Return the last bytes of a log as text, from the start of a line; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            data = file.read(size)
    except OSError:
        return None
    return (data.partition(b"\n")[2] if start else data).decode("utf-8", "replace")


def find_log(user_home: Path, written_since_s: float) -> Path | None:
    """Return LM Studio's newest server log, None when there is none that was written to since a Unix time.

    They are ``server-logs/YYYY-MM/YYYY-MM-DD.N.log`` in LM Studio's home, which a pointer file may have moved.
    """
    newest, newest_s = None, written_since_s
    for home in _homes(user_home):
        for path in (home / "server-logs").glob("*/*.log"):
            with suppress(OSError):
                written_s = path.stat().st_mtime
                if written_s >= newest_s:
                    newest, newest_s = path, written_s
    return newest


def _homes(user_home: Path) -> Iterator[Path]:
    with suppress(OSError, UnicodeDecodeError):
        pointed = (user_home / _POINTER).read_text(encoding="utf-8").strip()
        if pointed:
            yield Path(pointed)
    yield from (user_home / name for name in _HOMES)
