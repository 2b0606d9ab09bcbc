"""The cache looked after by hand: counted, thinned out, emptied and filled, also while runs use it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.engine.database import LOCK_WAIT_S, TRIES, TROUBLE, open_to_write, patiently
from pytest_lmstudio.engine.generation import last_run
from pytest_lmstudio.engine.vetting import LARGEST_TAG, is_closed_to_us, open_to_read, set_aside, vet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pytest_lmstudio.engine.archive import Entry

_READ = "SELECT key, value, tag FROM Cache WHERE raw = 1 AND mode = 1 AND filename IS NULL AND typeof(key) = 'text'"
#: What is written at once, entries and characters: a run that stores an answer meanwhile waits for no more.
_MOST_AT_ONCE, _MOST_CHARS = 100, 10_000_000


class CacheError(Exception):
    """A cache cannot be used; one line that says why."""


class DamagedError(CacheError):
    """A cache was damaged, and was set aside: there is none now."""


class Row(NamedTuple):
    """One entry of a cache.

    Attributes:
        size_bytes: of its text.
        run: the number of the last run that used it, None when that is not known.
        value: what it holds, None when it is none of ours.
    """

    key: str
    size_bytes: int
    run: int | None
    value: dict[str, Any] | None


class Added(NamedTuple):
    """What became of entries: stored, kept as they were there already, and left out for want of room."""

    stored: int
    kept: int
    left_out: int


def look_over(folder: Path) -> bool:
    """Look a cache over before it is used, as a run does; return whether there is one.

    Raises:
        DamagedError: it was damaged, and is set aside now.
    """
    try:
        vet(folder, LOCK_WAIT_S * TRIES)
    except (*TROUBLE, ValueError, TypeError, KeyError) as error:
        if is_closed_to_us(error):
            return True
        with _told(folder):
            msg = f"the cache was damaged ({type(error).__name__}: {error}) and was set aside as {set_aside(folder)}"
        raise DamagedError(msg) from None
    return (folder / "cache.db").exists()


def rows(folder: Path, keys: Iterable[str] | None = None) -> Iterator[Row]:
    """Yield the entries of a cache that was looked over, all of them or those of some keys.

    Raises:
        CacheError: it cannot be read.
    """
    with _told(folder), closing(open_to_read(folder)) as db:
        if keys is None:
            yield from (_row(*found) for found in db.execute(_READ))
        for key in keys or ():
            yield from (_row(*found) for found in db.execute(f"{_READ} AND key = ?", (key,)))


def newest_run(folder: Path) -> int:
    """Return the number of the newest run of a cache, 0 when there was none."""
    return last_run(folder)


def add(folder: Path, entries: Iterable[Entry], *, size: int, overwrite: bool) -> Added:
    """Store entries as if the newest run had used them; nothing is evicted for them.

    Args:
        folder: the cache's; it is made.
        entries: what to store.
        size: most entries of the cache.
        overwrite: whether an entry that is there already is replaced.

    Raises:
        CacheError: it cannot be written to.
    """
    total = Added(0, 0, 0)
    with _writing(folder) as db:
        for batch in _batches(entries):
            work = partial(_store, db, batch, last_run(folder), size, overwrite=overwrite)
            done: Added = patiently(work, TRIES)
            total = Added(*map(sum, zip(total, done, strict=True)))
    return total


def delete(folder: Path, keys: Iterable[str]) -> int:
    """Delete entries; return how many were there.

    Raises:
        CacheError: it cannot be written to.
    """
    with _writing(folder) as db:
        return sum(bool(patiently(partial(db.remove, key), TRIES)) for key in keys)


def clear(folder: Path) -> int:
    """Delete all entries, also what is none of ours; return how many there were.

    Raises:
        CacheError: it cannot be written to.
    """
    with _writing(folder) as db:
        return int(patiently(db.clear, TRIES))


def _row(key: str, value: object, tag: object) -> Row:
    text = value if isinstance(value, str) else ""
    known = isinstance(tag, int) and 0 <= tag <= LARGEST_TAG
    return Row(key, len(text.encode("utf-8", "surrogatepass")), tag if known else None, _read(text))  # type: ignore[arg-type]  # known to be one


def _read(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _batches(entries: Iterable[Entry]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for entry in entries:
        batch.append((entry.key, json.dumps(entry.value, separators=(",", ":"))))
        if len(batch) >= _MOST_AT_ONCE or sum(len(text) for _, text in batch) > _MOST_CHARS:
            yield batch
            batch = []
    yield batch


def _store(db: Any, batch: list[tuple[str, str]], run: int, size: int, *, overwrite: bool) -> Added:
    stored = kept = left_out = 0
    with db.transact():
        for key, text in batch:
            if not overwrite and db.get_all([key]):
                kept += 1
            elif db.add(key, text, run, size):
                stored += 1
            else:
                left_out += 1
    return Added(stored, kept, left_out)


@contextmanager
def _writing(folder: Path) -> Iterator[Any]:
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = open_to_write(folder)
        try:
            yield db
        finally:
            with suppress(*TROUBLE):
                db.close()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what may go wrong with a database into one line."""
    try:
        yield
    except (*TROUBLE, ValueError) as error:
        locked = isinstance(error, sqlite3.Error) and "locked" in str(error)
        advice = ": try again when no run uses it" if locked else ""
        msg = f"the cache in {folder} cannot be used ({type(error).__name__}: {error}){advice}"
        raise CacheError(msg) from error
