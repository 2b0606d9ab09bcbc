"""The runs that share a cache: each has a number, and a mark that shows that it is still on."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.locks import ProcessLock
from pytest_lmstudio.engine.vetting import LARGEST_TAG
from pytest_lmstudio.files import read_small, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MARK = re.compile(r"(\d{1,16})-[0-9a-f]{12}\.lock")
_MOST_MARKS = 10_000
_TRIES = 10
#: The file that keeps the number of the newest run.
_COUNT = "runs.txt"


def next_run(folder: Path, greatest: int = 0) -> int:
    """Count one more run of a cache, and return its number; call it once a run.

    Two runs that begin at the same moment may get the same number, which makes them one as far as entries go.

    Args:
        folder: the cache's; a number that cannot be kept there is given again.
        greatest: the greatest number in the cache, for when the one that was kept is lost.
    """
    number = max(last_run(folder), greatest) + 1
    with suppress(OSError):
        replace_file(folder / _COUNT, [f"{number}\n".encode()])
    return number


def last_run(folder: Path) -> int:
    """Return the number of the newest run of a cache, 0 when that is not known."""
    try:
        kept = int(read_small(folder / _COUNT, 100))
    except (OSError, ValueError):
        return 0
    return kept if 0 < kept < LARGEST_TAG else 0


class Mark:
    """Shows other runs that this one is still on: a lock, which the kernel frees when its process dies.

    Where the folder has no locks, a run is known by its number alone.

    Args:
        folder: the cache's.
        number: of this run.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder / "live"
        self._number = number
        self._path = self._folder / f"{number}-{os.urandom(6).hex()}.lock"
        self._lock: ProcessLock | None = None
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            lock = ProcessLock(self._path)
            # One who looks for dead marks holds a lock for a moment.
            if any(lock.try_acquire() for _ in range(_TRIES)):
                self._lock = lock

    def oldest_run(self) -> int:
        """Return the smallest number of a run that is still on; marks of those that are not are deleted."""
        numbers = [self._number]
        for path, number in self._others():
            with suppress(OSError):
                lock = ProcessLock(path)
                if lock.try_acquire():
                    path.unlink(missing_ok=True)
                    lock.release()
                else:
                    numbers.append(number)
        return min(numbers)

    def _others(self) -> Iterator[tuple[Path, int]]:
        with suppress(OSError):
            for path in islice(self._folder.iterdir(), _MOST_MARKS):
                found = _MARK.fullmatch(path.name)
                if found and path != self._path and path.is_file() and not path.is_symlink():
                    yield path, int(found[1])

    def remove(self) -> None:
        """Show that this process does not use the cache any more."""
        if self._lock is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
