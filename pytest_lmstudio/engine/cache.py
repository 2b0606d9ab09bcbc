"""The disk cache of answers: which are kept, and which go."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pytest_lmstudio.engine.database import (
    TRIES,
    TROUBLE,
    Nothing,
    NotWritable,
    ReadOnly,
    open_to_write,
    patiently,
)
from pytest_lmstudio.engine.generation import Mark
from pytest_lmstudio.engine.opening import said, unusable, way_to_read
from pytest_lmstudio.engine.vetting import LARGEST_TAG, LARGEST_VALUE, is_closed_to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_lmstudio.engine.opening import Way


T = TypeVar("T")
#: Made once: `json.loads` looks at its arguments for each text, and `json.dumps` makes an encoder.
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(check_circular=False, separators=(",", ":"))


class Stored(NamedTuple):
    """What became of an answer: whether the cache holds it now, and how many entries went for it."""

    stored: bool
    evicted: int


_STORED, _NOT_STORED = Stored(stored=True, evicted=0), Stored(stored=False, evicted=0)


class AnswerCache:
    """Answers by key, at most `size` of them.

    When it is full, only an entry used neither in a run that is still on nor in the one before may go; else the new
    answer is not stored. So a suite larger than the cache still hits for as many answers as it holds, where "least
    recently used" would hit none. Each entry's tag is the number of the last run that used it.

    Args:
        folder: the cache's folder.
        size: most entries.
        run: the number of this run, from `prepare`.
        on_problem: called with one line when something is wrong with the cache; the run goes on.
        way: how the cache can be used, from `prepare`.
    """

    def __init__(
        self, folder: Path, *, size: int, run: int, on_problem: Callable[[str], None], way: Way = "write"
    ) -> None:
        self._folder = folder
        self._size = size
        self._run = run
        self._on_problem = on_problem
        self._used: set[str] = set()
        self._unmarked: dict[str, None] = {}  # in order: most were stored in the order in which they are used
        self._victims: list[str] | None = None
        self._oldest_run = run
        self._tries = TRIES
        self._mark: Mark | None = None
        self._keepers = {threading.main_thread().ident}
        self._db: Any = self._open(way)
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
        return self.get_all([key], note=note).get(key)

    def get_all(self, keys: Sequence[str], *, note: bool = True) -> dict[str, dict[str, Any]]:
        """Return the entries that are there of these keys, with one look at the database; never raises."""
        try:
            return self._get_all(keys, note=note)
        except TROUBLE as error:
            self._trouble(error)
            return {}
        finally:
            self._give_back()

    def _get_all(self, keys: Sequence[str], *, note: bool) -> dict[str, dict[str, Any]]:
        rows = self._patiently(lambda: self._db.get_all(keys))
        entries = {key: entry for key, (value, _) in rows.items() if (entry := self._read(value)) is not None}
        if note and not self._used.issuperset(entries):
            self._note_use({key: rows[key][1] for key in entries if key not in self._used})
        return entries

    def _read(self, value: str) -> dict[str, Any] | None:
        """Return what a row holds, None when that is no answer."""
        try:
            entry, end = _DECODER.raw_decode(value)  # `decode` looks for space around it with two patterns
        except (ValueError, RecursionError):  # what they say quotes the row
            entry, end = None, -1
        if end != len(value):
            self._on_problem(f"the cache in {self._folder} holds what is no answer; it counts as not there")
            return None
        return entry if isinstance(entry, dict) else None

    def is_used(self, key: str) -> bool:
        """Tell whether this process used or stored an entry, without a look at the database."""
        return key in self._used

    def put(self, key: str, entry: dict[str, Any]) -> Stored:
        """Store one entry, plain data; see `put_all`."""
        return self.put_all([(key, text_of(entry))])[0]

    def put_all(self, rows: Sequence[tuple[str, str]]) -> list[Stored]:
        """Store entries for which there is room, or room can be made, and wait while others write; never raises.

        Args:
            rows: the key of an entry and its `text_of` each.

        Returns:
            what became of each.
        """
        try:
            return self._patiently(lambda: self._put_all(rows))
        except NotWritable:
            return [_NOT_STORED] * len(rows)
        except TROUBLE as error:
            if len(rows) > 1 and "locked" not in str(error):  # one of them may be too large for a disk that is full
                return [stored for row in rows for stored in self.put_all([row])]
            self._trouble(error)
            return [_NOT_STORED] * len(rows)
        finally:
            self._give_back()

    def put_now(self, rows: Sequence[tuple[str, str]]) -> list[Stored] | None:
        """Store entries as `put_all` does, but return None when that would need a wait, or trouble comes of it."""
        try:
            return self._put_all(rows)
        except NotWritable:
            return [_NOT_STORED] * len(rows)
        except TROUBLE:
            return None
        finally:
            self._give_back()

    def _put_all(self, rows: Sequence[tuple[str, str]]) -> list[Stored]:
        if self._add(rows):  # no transaction around it: that one statement is one
            return [_STORED] * len(rows)
        with self._db.transact():
            return [self._put(key, value) for key, value in rows]

    def _put(self, key: str, value: str) -> Stored:
        if self._add([(key, value)]):
            return _STORED
        evicted = self._evict() if len(value) <= LARGEST_VALUE else 0
        return Stored(stored=evicted > 0 and self._add([(key, value)]), evicted=evicted)

    def _add(self, rows: Sequence[tuple[str, str]]) -> bool:
        """Store entries; tell whether there was room for all of them."""
        if any(len(value) > LARGEST_VALUE for _, value in rows) or not self._db.add_all(rows, self._run, self._size):
            return False
        self._used.update(key for key, _ in rows)
        return True

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry that can be read; none of them counts as used."""
        for key in list(self._keys()):
            entry = self.get(key, note=False)
            if entry is not None:
                yield entry

    def release(self) -> None:
        """Close the connection of the thread that calls."""
        self._keepers.discard(threading.get_ident())
        with suppress(*TROUBLE):
            self._db.close()

    def _give_back(self) -> None:
        if threading.get_ident() not in self._keepers:
            self.release()

    def close(self) -> None:
        """Write down which entries this run used, and close the database."""
        if self._unmarked:  # a run is closed more than once
            with suppress(*TROUBLE):
                self._patiently(lambda: self._note(list(self._unmarked)))
            self._unmarked.clear()
        with suppress(*TROUBLE):
            self._db.close()
        if isinstance(self._db, ReadOnly):
            self._db.end()
        if self._mark is not None:
            self._mark.remove()

    def _patiently(self, work: Callable[[], T]) -> T:
        """Wait for another process that writes; not for so long again after it did not end, until it has."""
        try:
            done = patiently(work, self._tries)
        except NotWritable:
            raise
        except TROUBLE:
            self._tries = 1
            raise
        self._tries = TRIES
        return done

    def _note_use(self, tags: dict[str, object]) -> None:
        """Remember that this run used entries, given with their tags; those that might go are marked at once."""
        self._used.update(tags)
        last = self._run - 1
        self._unmarked |= dict.fromkeys([key for key, tag in tags.items() if tag == last])
        aged = [key for key, tag in tags.items() if not (isinstance(tag, int) and tag >= last)]
        if aged:
            with suppress(*TROUBLE):
                self._patiently(lambda: self._note(aged))

    def _note(self, keys: Iterable[str]) -> None:
        """Write down that this run used entries, unless a later one did.

        One that is gone meanwhile stays so, or there would be too many.
        """
        with self._db.transact():
            self._db.mark(keys, self._run, LARGEST_TAG)

    def _evict(self) -> int:
        """Delete one entry that may go, the oldest; return how many were deleted."""
        if self._victims is None:
            self._oldest_run = min(self._run, self._mark.oldest_run()) if self._mark else self._run
            aged = [(self._age(key), key) for key in self._keys()]
            oldest_first = sorted(aged, key=itemgetter(0), reverse=True)
            self._victims = [key for age, key in reversed(oldest_first) if age]
        while self._victims:
            key = self._victims.pop()
            if self._age(key):
                self._db.remove(key)
                return 1
        return 0

    def _age(self, key: str) -> int:
        """Return how many runs ago an entry was used, 0 for one that may not go."""
        value, tag = self._db.get_all([key]).get(key, (None, None))
        if key in self._used:
            return 0
        if value is None or not isinstance(tag, int) or tag > LARGEST_TAG:
            return LARGEST_TAG  # not ours: before all others
        return self._run - tag if tag < self._oldest_run - 1 else 0

    def _keys(self) -> Iterator[str]:
        with suppress(*TROUBLE):
            yield from (key for key in self._db if key is not None)

    def _trouble(self, error: Exception) -> None:
        self._on_problem(f"the cache in {self._folder} is not usable: {said(error)}")
        with suppress(*TROUBLE):  # the next use opens a connection without what this one left half done
            self._db.close()

    def _open(self, way: Way) -> Any:
        """Open the database, in the best way that works."""
        try:
            if way == "write":
                opened = open_to_write(self._folder)
                try:
                    self._mark = Mark(self._folder, self._run)
                except BaseException:
                    opened.close()
                    raise
                return opened
            if way == "read":
                return ReadOnly(self._folder)
        except (*TROUBLE, ValueError, TypeError, KeyError) as error:
            if way == "write" and is_closed_to_us(error):
                return self._open(way_to_read(self._folder, error, self._on_problem))
            self._on_problem(unusable(self._folder, error))
        return Nothing()


def text_of(entry: dict[str, Any]) -> str:
    """Return an entry as its row holds it."""
    return _ENCODER.encode(entry)
