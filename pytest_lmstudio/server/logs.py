"""The server's own log, where it is on this machine: found, read from its end, never for longer than a moment."""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.server.log_lines import Told, entries, told_by_llama_cpp, told_by_lmstudio, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Server logs can grow to hundreds of gigabytes, so only the end is ever read.
READ_BYTES = 4 * 2**20
#: What of it goes into a bundle.
TAIL_BYTES = 256 * 1024
#: A disk that is slower, or a share that hangs, is not waited for.
PATIENCE_S = 3.0
#: The log's times have whole seconds, and a server writes of an end a moment later.
_AROUND_S = 2.0
_HOMES = (".lmstudio", ".cache/lm-studio")
_POINTER = ".lmstudio-home-pointer"
_MOST_POINTER_BYTES = 4096
_NEWEST_MONTHS = 3
_NUMBERS = re.compile(r"\d{1,9}")


class Span(NamedTuple):
    """A time of interest, Unix seconds."""

    since_s: float
    until_s: float


class ServerLog(NamedTuple):
    """A server's log for the time of a run.

    Attributes:
        source: ``lmstudio`` or ``embedded``.
        text: its end, at most `TAIL_BYTES`; it may hold prompts and answers.
        told: counts and times of what it tells.
        complete: whether all of the time was read.
    """

    source: str
    text: str
    told: Told
    complete: bool

    def fields(self) -> dict[str, Any]:
        """Return what may be written down anywhere: counts, exit codes and times, no text."""
        return {
            "source": self.source,
            "complete": self.complete,
            "counts": dict(self.told.counts),
            "exit_codes": self.told.exit_codes,
            "hung_up_s": self.told.hung_up_s,
        }


def lmstudio_log(user_home: Path, port: int | None, span: Span) -> ServerLog | None:
    """Return LM Studio's log for a time, None when there is none, or it is that of a server on another port.

    Log files are ``server-logs/YYYY-MM/YYYY-MM-DD.N.log`` in LM Studio's home, which a pointer file may have moved.
    """
    for home in _homes(user_home):
        if port is not None and _port_of(home) not in {None, port}:
            continue
        files = _files_since(home / "server-logs", span.since_s)
        if files:
            around = Span(span.since_s - _AROUND_S, span.until_s + _AROUND_S)
            text, whole = _ends_of(files)
            first = next((e.at for e in entries(text)), None)
            complete = whole or (first is not None and within(first, 0.0, around.since_s) is not None)
            return ServerLog("lmstudio", _tail(text), told_by_lmstudio(text, *around), complete)
    return None


def lmstudio_ports(user_home: Path) -> list[int]:
    """Return the ports that LM Studio last listened to on this machine, as its own files tell."""
    return [port for home in _homes(user_home) if (port := _port_of(home)) is not None]


def embedded_log(path: Path) -> ServerLog | None:
    """Return the log of the run's own llama.cpp server, None when it cannot be read."""
    read = _end_of(path, READ_BYTES)
    if read is None:
        return None
    text, whole = read
    return ServerLog("embedded", _tail(text), told_by_llama_cpp(text), whole)


def in_time(read: Callable[[], ServerLog | None], patience_s: float = PATIENCE_S) -> ServerLog | None:
    """Return what `read` returns, None when it fails or takes too long: a log is never worth a run that hangs."""
    found: list[ServerLog | None] = []

    def run() -> None:
        with suppress(Exception):  # whatever a disk or a log of another program has in store
            found.append(read())

    reader = threading.Thread(target=run, name="lmstudio-server-log", daemon=True)
    reader.start()
    reader.join(patience_s)
    return found[0] if found else None


def _homes(user_home: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError):
        pointer = user_home / _POINTER
        if _is_file(pointer):
            with pointer.open("rb") as file:
                pointed = file.read(_MOST_POINTER_BYTES).decode().strip()
            if pointed and "\0" not in pointed:
                yield Path(pointed)
    yield from (user_home / name for name in _HOMES)


def _port_of(home: Path) -> int | None:
    """Return the port that LM Studio was last told to listen on, None when it does not say."""
    with suppress(OSError, ValueError, RecursionError):
        path = home / ".internal" / "http-server-config.json"
        if _is_file(path):
            found = json.loads(path.read_bytes()[:READ_BYTES])
            port = found.get("port") if isinstance(found, dict) else None
            return port if isinstance(port, int) else None
    return None


def _files_since(folder: Path, since_s: float) -> list[Path]:
    """Return the log files that were written to since then, the newest first."""
    found: list[tuple[float, list[int], Path]] = []
    with suppress(OSError):
        months = sorted((month for month in folder.iterdir() if month.is_dir()), reverse=True)[:_NEWEST_MONTHS]
        for path in (path for month in months for path in month.glob("*.log")):
            with suppress(OSError):
                written = path.stat()
                if S_ISREG(written.st_mode) and written.st_mtime >= since_s - _AROUND_S:
                    # Names are a day and the number of the file: 10 comes after 9.
                    found.append((written.st_mtime, [int(n) for n in _NUMBERS.findall(path.name)], path))
    return [path for _, _, path in sorted(found, reverse=True)]


def _ends_of(files: Sequence[Path]) -> tuple[str, bool]:
    """Return the end of files that follow one another, oldest text first, and whether that is all of them."""
    texts: list[str] = []
    left = READ_BYTES
    for path in files:
        read = _end_of(path, left)
        if read is None:
            continue
        text, whole = read
        texts.append(text if text.endswith("\n") or not text else f"{text}\n")
        left -= len(text)
        if not whole or left <= 0:
            return "".join(reversed(texts)), False
    return "".join(reversed(texts)), True


def _end_of(path: Path, size: int) -> tuple[str, bool] | None:
    """Return the last bytes of a file from the start of a line, and whether that is all; None if it cannot be read."""
    try:
        if not _is_file(path):
            return None
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            data = file.read(size)
    except OSError:
        return None
    return (data.partition(b"\n")[2] if start else data).decode("utf-8", "replace"), not start


def _is_file(path: Path) -> bool:
    """Tell whether a path is a plain file: opening a pipe would wait for somebody to write."""
    return S_ISREG(path.stat().st_mode)


def _tail(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= TAIL_BYTES else data[-TAIL_BYTES:].partition(b"\n")[2].decode("utf-8", "replace")
