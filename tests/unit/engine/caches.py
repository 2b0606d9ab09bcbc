"""Caches for tests: runs one after the other over a folder, and databases that somebody else wrote."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.opening import prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Run:
    """One run over a cache: what it is asked is looked up, and stored on a miss."""

    def __init__(self, folder: Path, size: int) -> None:
        self.problems: list[str] = []
        number, way = prepare(folder, self.problems.append)
        self.cache = AnswerCache(folder, size=size, run=number, on_problem=self.problems.append, way=way)
        self.stored = self.evicted = 0

    def ask(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that hit."""
        return [key for key in keys if self._ask(key)]

    def _ask(self, key: str) -> bool:
        if self.cache.get(key) == {"answer": key}:
            return True
        done = self.cache.put(key, {"answer": key})
        assert done is not None
        self.stored += done.stored
        self.evicted += done.evicted
        return False


@contextmanager
def a_run(folder: Path, size: int = 10) -> Iterator[Run]:
    """Open a cache for one run, which closes it at its end."""
    run = Run(folder, size)
    yield run
    run.cache.close()


def suite(name: str, n: int) -> list[str]:
    """Return the keys of a suite."""
    return [f"{name}-{number}" for number in range(n)]


def held(folder: Path) -> list[str]:
    """Return the keys in the database, in the order they came in."""
    return [key for (key,) in query(folder, "SELECT key FROM Cache ORDER BY rowid")]


def query(folder: Path, sql: str, *values: Any) -> list[Any]:
    """Run SQL on the database as somebody else would."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as db:
        return db.execute(sql, values).fetchall()
