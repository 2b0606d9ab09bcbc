"""A look at a cache's database before it is opened: is it one of ours, and may it be written?"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Characters of a stored entry, at most; an answer of the largest size takes less.
LARGEST_VALUE = 128_000_000
#: Numbers of runs are below it; a larger one is not ours.
LARGEST_TAG = 2**53
_READ_WAIT_S = 0.2
_FILES = ("-journal", "-wal", "-shm", "")
#: How the name of another file to delete ends a rollback journal (SQLite's file format, section 4.2).
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_SETTINGS = {
    "count", "size", "hits", "misses", "statistics", "tag_index", "eviction_policy", "size_limit", "cull_limit",
    "sqlite_auto_vacuum", "sqlite_cache_size", "sqlite_journal_mode", "sqlite_mmap_size", "sqlite_synchronous",
    "disk_min_file_size", "disk_pickle_protocol",
}  # fmt: skip
_TOO_LARGE = "SELECT 1 FROM Cache WHERE length(value) > ? LIMIT 1"
_GREATEST_TAG = "SELECT MAX(tag) FROM Cache WHERE typeof(tag) = 'integer' AND tag BETWEEN 0 AND ?"
_ON_CACHE = "ON Cache FOR EACH ROW BEGIN UPDATE Settings SET value = value"
#: Tables, indexes and triggers as diskcache makes them; others could compute anything.
_MADE = {
    "CREATE TABLE Settings ( key TEXT NOT NULL UNIQUE, value)",
    (
        "CREATE TABLE Cache ( rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL,"
        " access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0,"
        " filename TEXT, value BLOB)"
    ),
    "CREATE UNIQUE INDEX Cache_key_raw ON Cache(key, raw)",
    "CREATE INDEX Cache_expire_time ON Cache (expire_time)",
    f'CREATE TRIGGER Settings_count_insert AFTER INSERT {_ON_CACHE} + 1 WHERE key = "count"; END',
    f'CREATE TRIGGER Settings_count_delete AFTER DELETE {_ON_CACHE} - 1 WHERE key = "count"; END',
    f'CREATE TRIGGER Settings_size_insert AFTER INSERT {_ON_CACHE} + NEW.size WHERE key = "size"; END',
    f'CREATE TRIGGER Settings_size_update AFTER UPDATE {_ON_CACHE} + NEW.size - OLD.size WHERE key = "size"; END',
    f'CREATE TRIGGER Settings_size_delete AFTER DELETE {_ON_CACHE} - OLD.size WHERE key = "size"; END',
}
#: What SQLite itself makes: the index of a UNIQUE column, and the statistics of ANALYZE.
_MADE_BY_SQLITE = {"sqlite_autoindex_Settings_1", "sqlite_stat1", "sqlite_stat4"}


def vet(folder: Path, wait_s: float) -> int:
    """Look a database over before diskcache reads it, since that runs what the table of settings says.

    Returns:
        the greatest number of a run that used one of its entries, 0 when there is none.

    Raises:
        ValueError: it is damaged, is no plain file, counts its rows wrongly, or holds tables, triggers or settings that
            diskcache did not make.
        sqlite3.OperationalError: it cannot be written now; diskcache would wait for a minute.
        sqlite3.Error: it is no database.
    """
    path = folder / "cache.db"
    _check_files(path)
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=wait_s)) as db:
        db.execute("BEGIN IMMEDIATE")
        return _check(db, path)


def open_to_read(folder: Path, *, thorough: bool = True) -> sqlite3.Connection:
    """Open a database that may not be writable, also on a disk where SQLite cannot make its files for locking.

    Args:
        folder: the cache's.
        thorough: whether to look it over; else only whether it has entries.

    Returns:
        a connection for any thread, one at a time.

    Raises:
        ValueError, sqlite3.Error, OSError: it cannot be read, or is none of ours.
    """
    path = folder / "cache.db"
    _check_files(path)
    log = path.with_name(f"{path.name}-wal")
    # Only where nobody wrote what is not in the file yet may SQLite take it as it is, without its log.
    ways = ["mode=ro"] if log.exists() and log.stat().st_size else ["mode=ro", "mode=ro&immutable=1"]
    for way in ways[:-1]:
        try:
            return _open(f"{path.absolute().as_uri()}?{way}", path, thorough=thorough)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
    return _open(f"{path.absolute().as_uri()}?{ways[-1]}", path, thorough=thorough)


def _open(uri: str, path: Path, *, thorough: bool) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=_READ_WAIT_S, check_same_thread=False)
    try:
        if thorough:
            db.execute("BEGIN")  # what a run stores meanwhile must not look like damage
            _check(db, path)
            db.rollback()
        else:
            db.execute("SELECT 1 FROM Cache LIMIT 1")
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> int:
    """Check schema, settings, counts, values and pages; return the greatest tag."""
    db.execute("PRAGMA trusted_schema = OFF")
    made = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, sql in made:
        if name not in _MADE_BY_SQLITE and (not isinstance(sql, str) or " ".join(sql.split()) not in _MADE):
            msg = f"it holds a foreign {kind}"
            raise ValueError(msg)
    names = {name for _, name, _ in made}
    if "Settings" in names:
        _check_settings(db)
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        msg = "its pages do not fit together"
        raise ValueError(msg)
    if "Cache" not in names:
        return 0
    if "Settings" not in names:
        msg = "its settings are missing"
        raise ValueError(msg)
    _check_count(db)
    if _size_bytes(path) > LARGEST_VALUE and db.execute(_TOO_LARGE, (LARGEST_VALUE,)).fetchone():
        msg = "it holds a value that is too large"
        raise ValueError(msg)
    return int(db.execute(_GREATEST_TAG, (LARGEST_TAG,)).fetchone()[0] or 0)


def _size_bytes(path: Path) -> int:
    """Return the size of a database with what is in its log alone."""
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _check_settings(db: sqlite3.Connection) -> None:
    """Refuse settings that diskcache does not have, since it puts them into its SQL."""
    for name, value in db.execute("SELECT key, value FROM Settings"):
        if name not in _SETTINGS or not isinstance(value, int | float | str | None) or str(value).count(";"):
            msg = "it holds a foreign setting"
            raise ValueError(msg)


def _check_count(db: sqlite3.Connection) -> None:
    """Refuse a database whose own count of rows is wrong: the size is kept by it."""
    counts = db.execute("SELECT value FROM Settings WHERE key = 'count'").fetchall()
    rows = db.execute("SELECT COUNT(*) FROM Cache").fetchone()[0]
    # By their spelling, since 5.0 equals 5 but is no length.
    if (counts or rows) and [repr(value) for (value,) in counts] != [repr(rows)]:
        msg = "its count of entries is wrong"
        raise ValueError(msg)


def _check_files(path: Path) -> None:
    """Refuse files that would make SQLite write, truncate or delete others, or wait for ever.

    A second name of a file (a hard link) may be outside of the folder.
    """
    for suffix in _FILES:
        with suppress(FileNotFoundError):
            found = path.with_name(path.name + suffix).lstat()
            if stat.S_ISLNK(found.st_mode):
                msg = "it holds a symbolic link"
                raise ValueError(msg)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                msg = "it holds what is no plain file"
                raise ValueError(msg)
    with suppress(FileNotFoundError), path.with_name(f"{path.name}-journal").open("rb") as journal:
        journal.seek(max(journal.seek(0, os.SEEK_END) - len(_SUPER_JOURNAL), 0))
        if journal.read() == _SUPER_JOURNAL:
            msg = "its journal names another file"
            raise ValueError(msg)


def set_aside(folder: Path) -> str:
    """Rename a damaged database out of the way; return its new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = f"damaged-{stamp}-{os.urandom(3).hex()}.db"
    for suffix in _FILES:
        with suppress(FileNotFoundError):
            (folder / f"cache.db{suffix}").replace(folder / f"{aside}{suffix}")
    return aside


def is_closed_to_us(error: Exception) -> bool:
    """Tell whether a database may be whole, but is somebody else's, or on a disk that takes no writes or locks."""
    closed = ("locked", "locking protocol", "readonly", "unable to open", "disk i/o", "is full")
    if isinstance(error, sqlite3.OperationalError):
        return any(word in str(error).lower() for word in closed)
    return isinstance(error, OSError)


def count(folder: Path) -> int | None:
    """Return how many entries a cache holds, without opening it for writing; None when that cannot be told."""
    try:
        if not (folder / "cache.db").exists():
            return 0
        with closing(open_to_read(folder, thorough=False)) as db:
            return int(db.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])
    except (sqlite3.Error, ValueError, OSError):
        return None
