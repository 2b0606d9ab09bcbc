"""The database of the cache. The only module that knows diskcache, and only a part of what that can do.

diskcache unpickles what it finds (CVE-2025-69872), and follows the file names in its rows. A cache folder may come from
somebody else, so here a key is text, a value is JSON text in its own row, and everything else is refused on every path.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import diskcache

from pytest_lmstudio.engine.vetting import LARGEST_VALUE, open_to_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

#: How long a locked database is waited for at once, and how often that is tried again. Then a look-up is a miss, and an
#: answer is not stored. diskcache's own `retry=True` would try for ever, on a full disk too.
LOCK_WAIT_S = 0.05
TRIES = 100
#: What may go wrong with a database; the last comes from a row whose number is the largest there is.
TROUBLE = (diskcache.Timeout, sqlite3.Error, OSError, OverflowError)
#: How often a locked database is tried while it is opened, when diskcache lets SQLite itself not wait.
_LOOK_S = 0.005
_RAW = 1

T = TypeVar("T")


class Refused(OSError):
    """A row that we did not write; an OSError, since diskcache takes that for a miss."""


class NotWritable(OSError):
    """The database is not written to; that was told when it was opened."""


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
        if read or not isinstance(value, str) or len(value) > LARGEST_VALUE:
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


#: Answers by their keys, of rows that are ours. One statement, where diskcache makes two calls and a check of times.
_READ = "SELECT key, value, tag FROM Cache WHERE key IN ({}) AND raw = 1 AND mode = 1 AND filename IS NULL"
_READ_ONE = _READ.format("?")
#: SQLite of some age takes no more parameters than 999; a key is one, and a row to be stored two.
_MOST_KEYS = 500
_MOST_ROWS = 250

#: Stores answers where there is room for all of them, else those whose keys are there. One statement is a transaction
#: of its own, where diskcache makes six for each; the number of entries is diskcache's, kept by its triggers.
_ADD = (
    "INSERT INTO Cache (key, raw, store_time, access_time, access_count, tag, size, mode, filename, value)"
    " SELECT column1, 1, ?1, ?1, 0, ?2, 0, 1, NULL, column2 FROM (VALUES {})"
    " WHERE (SELECT value FROM Settings WHERE key = 'count') <= ?3"
    " OR EXISTS (SELECT 1 FROM Cache WHERE key = column1 AND raw = 1)"
    " ON CONFLICT (key, raw) DO UPDATE SET store_time = ?1, expire_time = NULL, access_time = ?1, access_count = 0,"
    " tag = ?2, size = 0, mode = 1, filename = NULL, value = excluded.value"
)
_MARK = (
    "UPDATE Cache SET tag = ? WHERE key = ? AND raw = 1 AND mode = 1 AND filename IS NULL"
    " AND NOT (typeof(tag) = 'integer' AND tag BETWEEN ? AND ?)"
)


#: The value and the tag of each key that is there.
Rows = dict[str, tuple[str, object]]


def _rows(execute: Callable[..., Iterable[tuple[str, object, object]]], keys: Sequence[str]) -> Rows:
    if len(keys) == 1:
        found = execute(_READ_ONE, keys)
    else:
        parts = [keys[at : at + _MOST_KEYS] for at in range(0, len(keys), _MOST_KEYS)]
        found = [row for part in parts for row in execute(_READ.format(",".join("?" * len(part))), part)]
    return {key: (value, tag) for key, value, tag in found if isinstance(value, str)}


@lru_cache(64)
def _adding(rows: int) -> str:
    """Return the statement that stores so many rows."""
    return _ADD.format(", ".join([f"(?{n}, ?{n + 1})" for n in range(4, 4 + 2 * rows, 2)]))


class TextCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A cache of texts, read and written without the detours of diskcache: most of what a call cost beside them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Open the database; when that fails, the connection is closed, where diskcache leaves it open."""
        try:
            super().__init__(*args, **settings)
        except BaseException:
            self.close()
            raise

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        """Wait for a process that writes as long as all else does here; diskcache would wait a minute."""
        sql = self._sql

        def again(*statement: Any) -> Any:
            until_s = time.monotonic() + TRIES * LOCK_WAIT_S
            while True:
                try:
                    return sql(*statement)
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > until_s:
                        raise
                    time.sleep(_LOOK_S)

        return again

    def get_all(self, keys: Sequence[str]) -> Rows:
        """Return values and tags of the keys that are there."""
        return _rows(self._sql, keys)

    def add(self, key: str, value: str, tag: int, most: int) -> bool:
        """Store a value, unless it would be one more than `most`; tell whether it was stored."""
        return self.add_all([(key, value)], tag, most)

    def add_all(self, rows: Sequence[tuple[str, str]], tag: int, most: int) -> bool:
        """Store values by key, unless there would be more than `most`; tell whether all of them were stored."""
        if any(len(value) > LARGEST_VALUE for _, value in rows):
            raise Refused
        stored = 0
        for at in range(0, len(rows), _MOST_ROWS):
            part = rows[at : at + _MOST_ROWS]
            given = [time.time(), tag, most - len(part), *chain.from_iterable(part)]
            stored += self._sql(_adding(len(part)), given).rowcount
        return stored == len(rows)

    def remove(self, key: str) -> bool:
        """Delete a row; tell whether it was there."""
        return bool(self._sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,)).rowcount)

    @contextmanager
    def transact(self) -> Iterator[None]:
        """Let what is done inside be one transaction. diskcache's own hides why it could not begin."""
        self._sql("BEGIN IMMEDIATE")
        try:
            yield
            self._sql("COMMIT")
        except BaseException:
            if self._con.in_transaction:  # a full disk has ended it already
                self._sql("ROLLBACK")
            raise

    def mark(self, keys: Iterable[str], tag: int, most: int) -> None:
        """Set the tag of rows that are there; one that is no number, or not from `tag` up to `most`, gives way."""
        self._con.executemany(_MARK, [(tag, key, tag, most) for key in keys])


class ReadOnly:
    """A database that is read alone, as far as `AnswerCache` asks for more of `diskcache.Cache`.

    Raises:
        sqlite3.Error: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._db = open_to_read(folder)
        try:
            self._db.execute("SELECT 1 FROM Cache LIMIT 1")
        except sqlite3.Error:  # there was no room for a table
            self._db.close()
            raise

    def get_all(self, keys: Sequence[str]) -> Rows:
        """Return values and tags of the keys that are there."""
        with self._lock:
            return _rows(self._db.execute, keys)

    def __iter__(self) -> Iterator[str]:
        """Return the keys."""
        with self._lock:
            rows = self._db.execute("SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'text' ORDER BY rowid")
            return iter([key for (key,) in rows])

    def add_all(self, *_: object) -> bool:
        """Refuse."""
        raise NotWritable

    def transact(self) -> AbstractContextManager[None]:
        """Refuse."""
        raise NotWritable

    def close(self) -> None:
        """Keep what other threads use; `end` closes it."""

    def end(self) -> None:
        """Close the database."""
        self._db.close()


class Nothing:
    """Stands for a database that could not be opened: every look-up is a miss, nothing is stored."""

    def get_all(self, _: Sequence[str]) -> Rows:
        """Find nothing."""
        return {}

    def __iter__(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())

    def add_all(self, *_: object) -> bool:
        """Refuse."""
        raise NotWritable

    def transact(self) -> AbstractContextManager[None]:
        """Refuse."""
        raise NotWritable

    def close(self) -> None:
        """Do nothing."""


def patiently(work: Callable[[], T], tries: int) -> T:
    """Do work on the database, again while it is locked."""
    for _ in range(tries - 1):
        try:
            return work()
        except diskcache.Timeout:
            continue
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
    return work()


def open_to_write(folder: Path) -> Any:
    """Open or make a database; one that is there was vetted before.

    Raises:
        diskcache.Timeout, sqlite3.Error, OSError: it cannot be written to.
    """
    if os.path.expandvars(folder) != str(folder):
        msg = "its path holds the name of a variable, which diskcache would put the value of in its place"
        raise OSError(msg)
    return TextCache(
        str(folder),
        timeout=LOCK_WAIT_S,
        disk=TextDisk,
        eviction_policy="none",
        cull_limit=0,
        statistics=0,
        tag_index=0,
        size_limit=2**62,
        sqlite_journal_mode="wal",
        sqlite_synchronous=1,
        sqlite_auto_vacuum=1,
        sqlite_cache_size=512,  # pages; measured: more make room anew for each, which costs more than to read it again
        sqlite_mmap_size=0,  # measured: half the time of a look-up after another thread's store
    )
