"""A look at a cache's database before it is opened: is it one of ours, and may it be written?"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TABLES = {"Cache", "Settings", "sqlite_sequence", "sqlite_stat1", "sqlite_stat4"}
_FILES = ("-journal", "-wal", "-shm", "")
#: How the name of another file to delete ends a rollback journal (SQLite's file format, section 4.2).
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_SETTINGS = {
    "count", "size", "hits", "misses", "statistics", "tag_index", "eviction_policy", "size_limit", "cull_limit",
    "sqlite_auto_vacuum", "sqlite_cache_size", "sqlite_journal_mode", "sqlite_mmap_size", "sqlite_synchronous",
    "disk_min_file_size", "disk_pickle_protocol",
}  # fmt: skip
_COUNTER = re.compile(
    r"CREATE TRIGGER Settings_\w+ AFTER (?:INSERT|UPDATE|DELETE) ON Cache FOR EACH ROW"
    r" BEGIN UPDATE Settings SET value = value (?:[+-] (?:1|NEW\.size|OLD\.size) ){1,2}"
    r"WHERE key = \"(?:count|size)\"; END"
)


def vet(folder: Path, wait_s: float) -> None:
    """Look a database over before diskcache reads it, since that runs what the table of settings says.

    Raises:
        ValueError: it is damaged, points outside of its folder, counts its rows wrongly, or holds tables, triggers or
            settings that diskcache did not make.
        sqlite3.OperationalError: it cannot be written now; diskcache would wait for a minute.
        sqlite3.Error: it is no database.
    """
    path = folder / "cache.db"
    _check_files(path)
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=wait_s)) as db:
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("BEGIN IMMEDIATE")
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master"):
            if (
                kind == "view"
                or (kind == "table" and name not in _TABLES)
                or (kind == "trigger" and not _is_counter(name, sql))
            ):
                msg = f"it holds a foreign {kind}"
                raise ValueError(msg)
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
            for name, value in db.execute("SELECT key, value FROM Settings"):
                if name not in _SETTINGS or not isinstance(value, int | float | str | None) or str(value).count(";"):
                    msg = "it holds a foreign setting"
                    raise ValueError(msg)
            _check_count(db)
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            msg = "its pages do not fit together"
            raise ValueError(msg)


def _check_files(path: Path) -> None:
    """Refuse files that would make SQLite write or delete others."""
    if any(path.with_name(path.name + suffix).is_symlink() for suffix in _FILES):
        msg = "it holds a symbolic link"
        raise ValueError(msg)
    with suppress(FileNotFoundError):
        if path.with_name(f"{path.name}-journal").read_bytes().endswith(_SUPER_JOURNAL):
            msg = "its journal names another file"
            raise ValueError(msg)


def _check_count(db: sqlite3.Connection) -> None:
    """Refuse a database whose own count of rows is wrong: the size is kept by it."""
    counts = db.execute("SELECT value FROM Settings WHERE key = 'count'").fetchall()
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone():
        return
    rows = db.execute("SELECT COUNT(*) FROM Cache").fetchone()[0]
    # By their spelling, since 5.0 equals 5 but is no length.
    if (counts or rows) and [repr(value) for (value,) in counts] != [repr(rows)]:
        msg = "its count of entries is wrong"
        raise ValueError(msg)


def _is_counter(name: object, sql: object) -> bool:
    """Tell whether a trigger is one of diskcache's, which do nothing but count rows and bytes."""
    return isinstance(name, str) and isinstance(sql, str) and _COUNTER.fullmatch(" ".join(sql.split())) is not None


def set_aside(folder: Path) -> str:
    """Rename a damaged database out of the way; return its new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = f"damaged-{stamp}-{os.getpid()}.db"
    for suffix in _FILES:
        with suppress(FileNotFoundError):
            (folder / f"cache.db{suffix}").replace(folder / f"{aside}{suffix}")
    return aside


def is_closed_to_us(error: Exception) -> bool:
    """Tell whether a database may be whole, but is somebody else's, or on a disk that takes no writes."""
    closed = ("locked", "readonly", "unable to open", "disk i/o", "is full")
    return isinstance(error, PermissionError) or (
        isinstance(error, sqlite3.OperationalError) and any(word in str(error).lower() for word in closed)
    )
