"""The disk cache of answers. The only module that knows diskcache, and only a part of what that can do.

diskcache unpickles what it finds (CVE-2025-69872), and follows the file names in its rows. A cache folder may come from
somebody else, so here a key is text, a value is JSON text in its own row, and everything else is refused on every path.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing, suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import diskcache

from pytest_lmstudio.engine.vetting import is_closed_to_us, set_aside, vet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

#: How long a locked database is waited for at once, and how often that is tried again. Then a look-up is a miss, and an
#: answer is not stored. diskcache's own `retry=True` would try for ever, on a full disk too.
_LOCK_WAIT_S = 0.05
_TRIES = 100
#: The last comes from a row whose number is the largest there is.
_TROUBLE = (diskcache.Timeout, sqlite3.Error, OSError, OverflowError)
_RAW = 1

T = TypeVar("T")


class Refused(OSError):
    """A row that we did not write; an OSError, since diskcache takes that for a miss."""


class TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys, and text values in the row itself; no pickle, no files."""

    def hash(self, key: object) -> int:
        """Refuse: only sharded caches ask for it."""
        del key
        raise Refused

    def put(self, key: object) -> tuple[str, bool]:
        """Return a key as its row holds it."""
        if not isinstance(key, str):
            raise Refused
        return key, True

    def get(self, key: object, raw: object) -> str | None:
        """Return a row's key, or None for one that is no text."""
        return key if raw and isinstance(key, str) else None

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, str]:
        """Return a value as its row holds it."""
        del key
        if read or not isinstance(value, str):
            raise Refused
        return 0, _RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: object) -> str:
        """Return a row's value."""
        if read or mode != _RAW or filename is not None or not isinstance(value, str):
            raise Refused
        return value

    def filename(self, key: object = None, value: object = None) -> tuple[str, str]:
        """Refuse: values never go into files."""
        del key, value
        raise Refused

    def remove(self, file_path: object) -> None:
        """Delete nothing: no row of ours names a file."""


class Stored(NamedTuple):
    """What became of an answer: whether the cache holds it now, and how many entries went for it."""

    stored: bool
    evicted: int


class AnswerCache:
    """Answers by key, at most `size` of them.

    When it is full, only an entry used neither in this run nor in the last one may go; else the new answer is not
    stored. So a suite larger than the cache still hits for as many answers as it holds, where "least recently used"
    would hit none. Each entry's tag is the number of the last run that used it.

    Args:
        folder: the cache's folder, made by the caller.
        size: most entries.
        run: the number of this run, from `next_run`.
        on_problem: called with one line when something is wrong with the cache; the run goes on.
    """

    def __init__(self, folder: Path, *, size: int, run: int, on_problem: Callable[[str], None]) -> None:
        self._folder = folder
        self._size = size
        self._run = run
        self._on_problem = on_problem
        self._used: set[str] = set()
        self._unmarked: set[str] = set()
        self._victims: list[str] | None = None
        self._keepers = {threading.main_thread().ident}
        self._db: Any = self._open()
        self._give_back()

    def keep(self) -> None:
        """Let the thread that calls keep its connection until it calls `release`.

        Each thread has one of its own, and only that thread can close it. Threads that a test starts are not told when
        the run ends, so any but the main thread closes its own after each use.
        """
        self._keepers.add(threading.get_ident())

    def get(self, key: str, *, note: bool = True) -> dict[str, Any] | None:
        """Return an entry, or None; never raises.

        Args:
            key: of the entry.
            note: whether this counts as a use of the entry.
        """
        try:
            return self._get(key, note=note)
        finally:
            self._give_back()

    def _get(self, key: str, *, note: bool) -> dict[str, Any] | None:
        try:
            value, tag = _patiently(lambda: self._db.get(key, default=None, tag=True))
            entry = json.loads(value) if value is not None else None
        except (*_TROUBLE, ValueError, RecursionError, TypeError) as error:
            self._trouble(error)
            return None
        if not isinstance(entry, dict):
            return None
        if note and key not in self._used:
            self._note_use(key, tag)
        return entry

    def put(self, key: str, entry: dict[str, Any], *, patient: bool = True) -> Stored | None:
        """Store an entry if there is room, or room can be made; never raises.

        Args:
            key: of the entry.
            entry: plain data.
            patient: whether to wait while another process writes; else None is returned soon.
        """
        value = json.dumps(entry, separators=(",", ":"))
        try:
            return _patiently(lambda: self._put(key, value)) if patient else self._put(key, value)
        except _NotOpen:
            return Stored(stored=False, evicted=0)
        except _TROUBLE as error:
            if not patient:
                return None
            self._trouble(error)
            return Stored(stored=False, evicted=0)
        finally:
            self._give_back()

    def _put(self, key: str, value: str) -> Stored:
        with self._db.transact():
            evicted = 0
            if len(self._db) >= self._size and key not in self._db:
                evicted = self._evict()
                if len(self._db) >= self._size:
                    return Stored(stored=False, evicted=evicted)
            self._db.set(key, value, tag=self._run)
        self._used.add(key)
        return Stored(stored=True, evicted=evicted)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry that can be read; none of them counts as used."""
        for key in list(self._keys()):
            entry = self.get(key, note=False)
            if entry is not None:
                yield entry

    def release(self) -> None:
        """Close the connection of the thread that calls."""
        self._keepers.discard(threading.get_ident())
        with suppress(*_TROUBLE):
            self._db.close()

    def _give_back(self) -> None:
        if threading.get_ident() not in self._keepers:
            self.release()

    def close(self) -> None:
        """Write down which entries this run used, and close the database."""
        with suppress(*_TROUBLE):
            _patiently(lambda: self._mark(self._unmarked))
        with suppress(*_TROUBLE):
            self._db.close()

    def _note_use(self, key: str, tag: object) -> None:
        """Remember that this run used an entry; one that might be chosen to go is marked at once."""
        self._used.add(key)
        if isinstance(tag, int) and tag >= self._run - 1:
            if tag < self._run:
                self._unmarked.add(key)
            return
        with suppress(*_TROUBLE):
            _patiently(lambda: self._mark({key}))

    def _mark(self, keys: set[str]) -> None:
        """Write down that this run used entries; one that is gone meanwhile stays so, or there would be too many."""
        with self._db.transact():
            for key in keys:
                value = self._db.get(key, default=None)
                if value is not None:
                    self._db.set(key, value, tag=self._run)

    def _evict(self) -> int:
        """Delete one entry used neither in this run nor in the last one, the oldest; return how many were deleted."""
        if self._victims is None:
            aged = [(self._age(key), key) for key in self._keys()]
            oldest_first = sorted(aged, key=itemgetter(0), reverse=True)
            self._victims = [key for age, key in reversed(oldest_first) if age]
        while self._victims:
            key = self._victims.pop()
            if self._age(key):
                self._db.delete(key)
                return 1
        return 0

    def _age(self, key: str) -> int:
        """Return how many runs ago an entry was used, 0 for one that may not go."""
        value, tag = self._db.get(key, default=None, tag=True)
        if key in self._used:
            return 0
        if value is None or not isinstance(tag, int):
            return self._run + 1  # not ours: before all others
        return self._run - tag if tag < self._run - 1 else 0

    def _keys(self) -> Iterator[str]:
        with suppress(*_TROUBLE):
            yield from (key for key in self._db if key is not None)

    def _trouble(self, error: Exception) -> None:
        self._on_problem(f"the cache in {self._folder} is not usable: {type(error).__name__}: {error}")

    def _open(self) -> Any:
        try:
            vet(self._folder, _LOCK_WAIT_S * _TRIES)
            return _open(self._folder)
        except (*_TROUBLE, ValueError, TypeError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
            if is_closed_to_us(error):
                return self._nothing(problem)
        try:
            aside = set_aside(self._folder)
            opened = _open(self._folder)
        except _TROUBLE:
            return self._nothing(problem)
        self._on_problem(f"the cache was damaged ({problem}) and was set aside as {aside}")
        return opened

    def _nothing(self, problem: str) -> _Nothing:
        self._on_problem(f"the cache in {self._folder} cannot be opened, and nothing is cached: {problem}")
        return _Nothing()


class _Nothing:
    """Stands for a database that could not be opened: every look-up is a miss, nothing is stored."""

    def get(self, *_: object, **__: object) -> tuple[None, None]:
        """Find nothing."""
        return None, None

    def transact(self) -> AbstractContextManager[None]:
        """Refuse."""
        raise _NotOpen

    def __iter__(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())

    def close(self) -> None:
        """Do nothing."""


class _NotOpen(OSError):
    """There is no database; that was told when it could not be opened."""


def _patiently(work: Callable[[], T]) -> T:
    """Do work on the database, again while it is locked; at most about five seconds."""
    for _ in range(_TRIES - 1):
        try:
            return work()
        except diskcache.Timeout:
            continue
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
    return work()


def _open(folder: Path) -> Any:
    return diskcache.Cache(
        str(folder),
        timeout=_LOCK_WAIT_S,
        disk=TextDisk,
        eviction_policy="none",
        cull_limit=0,
        statistics=0,
        tag_index=0,
        size_limit=2**62,
        sqlite_journal_mode="wal",
        sqlite_synchronous=1,
        sqlite_auto_vacuum=1,
        sqlite_cache_size=8192,
        sqlite_mmap_size=0,  # measured: half the time of a look-up after another thread's store
    )


def next_run(folder: Path) -> int:
    """Count one more run of this cache, and return its number; call it once a run, under a lock."""
    path = folder / "runs.txt"
    try:
        number = int(path.read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        number = 1
    number = number if 0 < number < 2**62 else 1
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(f"{number}\n", encoding="ascii")
    temporary.replace(path)
    return number


def count(folder: Path) -> int | None:
    """Return how many entries a cache holds, without opening it for writing; None when that cannot be told."""
    path = folder / "cache.db"
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            return int(db.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])
    except (sqlite3.Error, ValueError):
        return None
