"""A cache that is damaged, locked or out of reach costs its answers, never the run."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import diskcache
import pytest

from pytest_lmstudio.engine import cache as room
from pytest_lmstudio.engine import database, opening
from pytest_lmstudio.engine.cache import AnswerCache, Stored
from pytest_lmstudio.engine.database import LOCK_WAIT_S, TRIES, TextCache
from pytest_lmstudio.engine.vetting import count
from tests.unit.engine.caches import Run, a_run, query, suite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)


UNSTORED = Stored(stored=False, evicted=0)
NETWORK = "if that is a network file system, name a folder on a local disk with --lmstudio-dir"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of forty entries, all of them in the database file itself."""
    with a_run(tmp_path, 50) as run:
        run.ask(suite("a", 40))
    query(tmp_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    return tmp_path


@pytest.fixture
def writer(folder: Path) -> Iterator[sqlite3.Connection]:
    """Another process that writes and does not end."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield db


def damages(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith("damaged") and path.suffix == ".db"]


@pytest.mark.parametrize("data", [b"no database at all", b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_is_set_aside_once_and_the_run_goes_on(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cache.db").write_bytes(data)
    with a_run(tmp_path) as run:
        assert run.ask(["a"]) == []
        assert run.ask(["a"]) == ["a"]
    [aside] = damages(tmp_path)
    assert aside.read_bytes() == data
    said = f"the cache was damaged (DatabaseError: file is not a database) and was set aside as {aside.name}"
    assert run.problems == [said]


def test_an_empty_file_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "cache.db").touch()
    with a_run(tmp_path) as run:
        assert run.ask(["a", "a"]) == ["a"]
    assert run.problems == []


@pytest.mark.parametrize("part", [0.05, 0.3, 0.5, 0.75, 0.99])
def test_a_database_cut_short_is_set_aside(folder: Path, part: float) -> None:
    path = folder / "cache.db"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with a_run(folder, 50) as run:
        assert run.ask(["a-0"]) == []
        assert run.ask(["a-0"]) == ["a-0"]
    assert len(run.problems) == len(damages(folder)) == 1
    assert run.problems[0].startswith("the cache was damaged (")


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_cost_answers_and_no_more(folder: Path, seed: int) -> None:
    path, dice = folder / "cache.db", random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 5, 50])):
        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
    path.write_bytes(data)
    with a_run(folder, 50) as run:
        run.ask(suite("a", 40))
        assert run.ask(["new"]) == []
        list(run.cache.entries())
    with a_run(folder, 50) as run:
        run.ask(suite("a", 40))
    assert len(damages(folder)) <= 1


def test_an_answer_is_not_stored_while_another_process_writes_and_writes(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.execute("COMMIT")
    monkeypatch.setattr(room, "TRIES", 2)
    run = Run(folder, 50)
    writer.execute("BEGIN EXCLUSIVE")
    assert run.cache.get("a-0") == {"answer": "a-0"}  # readers go on
    assert run.cache.put_now([("b", "{}")]) is None
    assert run.problems == []
    assert run.cache.put("b", {"answer": "b"}) == Stored(stored=False, evicted=0)
    assert run.problems == [f"the cache in {folder} is not usable: OperationalError: database is locked; {NETWORK}"]
    writer.execute("COMMIT")
    assert run.cache.put("b", {"answer": "b"}) == Stored(stored=True, evicted=0)
    writer.execute("BEGIN EXCLUSIVE")
    run.cache.close()  # what was used cannot be written down, and that is all


def test_a_look_up_in_a_locked_database_is_a_miss_after_some_tries(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def locked(_: object, keys: list[str]) -> None:
        tries.extend(keys)
        msg = "database is locked"
        raise sqlite3.OperationalError(msg)

    monkeypatch.setattr(room, "TRIES", 3)
    with a_run(folder, 50) as run:
        monkeypatch.setattr(TextCache, "get_all", locked)
        assert run.cache.get("a-0") is None
    assert tries == ["a-0"] * 3
    assert run.problems == [f"the cache in {folder} is not usable: OperationalError: database is locked; {NETWORK}"]


def test_the_longest_wait_for_a_lock_is_about_five_seconds() -> None:
    assert LOCK_WAIT_S * TRIES == 5.0


def test_a_database_locked_from_the_start_is_left_alone(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TRIES", 2)
    monkeypatch.setattr(opening, "TRIES", 2)
    with a_run(folder, 50) as run:
        assert run.ask(["a-0", "a-0"]) == []
        assert list(run.cache.entries()) == []
    why = f"OperationalError: database is locked; {NETWORK}"
    assert run.problems == [f"the cache in {folder} cannot be opened, and nothing is cached: {why}"]
    writer.execute("COMMIT")
    with a_run(folder, 50) as run:
        assert run.ask(["a-0"]) == ["a-0"]
    assert damages(folder) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("attempt to write a readonly database"), "OperationalError: attempt to write"),
        (sqlite3.OperationalError("disk I/O error"), f"OperationalError: disk I/O error; {NETWORK}"),
        (sqlite3.OperationalError("locking protocol"), f"OperationalError: locking protocol; {NETWORK}"),
        (sqlite3.OperationalError("database or disk is full"), "OperationalError: database or disk is full"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
    ids=["read-only", "disk", "locks", "full", "permission"],
)
def test_a_cache_that_cannot_be_written_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    before = (folder / "cache.db").read_bytes()
    monkeypatch.setattr(opening, "vet", refuse)
    with a_run(folder, 50) as run:
        assert run.ask(["a-0", "new", "new"]) == ["a-0"]
        assert run.stored == 0
        assert [entry["answer"] for entry in run.cache.entries()] == suite("a", 40)
    assert damages(folder) == []
    assert (folder / "cache.db").read_bytes() == before
    (told,) = run.problems
    assert told.startswith(f"the cache in {folder} cannot be written to ({said}")
    assert told.endswith("): its answers are used, and none is stored")


def test_a_damaged_database_that_cannot_be_moved_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cache.db").write_bytes(b"no database at all")

    def in_use(*_: object) -> None:
        raise PermissionError(32, "in use")

    monkeypatch.setattr(opening, "set_aside", in_use)
    with a_run(folder, 5) as run:
        assert (run.cache.get("a-0"), run.cache.put("a-0", {}), list(run.cache.entries())) == (None, UNSTORED, [])
    why = "DatabaseError: file is not a database"
    assert run.problems == [f"the cache in {folder} cannot be opened, and nothing is cached: {why}"]
    assert (folder / "cache.db").read_bytes() == b"no database at all"


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "second name"])
def test_what_is_no_plain_file_is_set_aside_unread(tmp_path: Path, folder: Path, kind: str, suffix: str) -> None:
    place, outside = folder / f"cache.db{suffix}", tmp_path / "outside"
    outside.write_bytes(b"x" * 5000)
    place.unlink(missing_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "second name":
        place.hardlink_to(outside)
    elif hasattr(os, "mkfifo"):
        os.mkfifo(place)
    else:
        pytest.skip("there are no pipes in folders here")
    with a_run(folder, 50) as run:
        assert run.ask(["a-0", "a-0"]) == ["a-0"]  # anew
    assert len(run.problems) == 1
    assert run.problems[0].startswith("the cache was damaged (ValueError: it holds what is no plain file)")
    assert outside.read_bytes() == b"x" * 5000


def test_a_database_that_cannot_be_opened_leaves_no_connection(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []
    real = sqlite3.connect

    def connect(*args: Any, **named: Any) -> sqlite3.Connection:
        made.append(real(*args, **named))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(database, "TRIES", 2)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        database.open_to_write(folder)
    assert writer.in_transaction
    for connection in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    assert made


def test_a_cache_that_cannot_mark_its_run_closes_what_it_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[TextCache] = []
    real = database.open_to_write

    def noted(where: Path) -> TextCache:
        opened.append(real(where))
        return opened[0]

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "open_to_write", noted)
    monkeypatch.setattr(room, "Mark", cut)
    with pytest.raises(KeyboardInterrupt):
        AnswerCache(folder, size=5, run=2, on_problem=pytest.fail)
    assert not hasattr(opened[0]._local, "con")


def test_after_one_wait_in_vain_the_next_uses_do_not_wait(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that keeps the database locked must not cost each call of a run five seconds."""
    tries: list[str] = []
    real = TextCache.add_all

    def counted(cache: TextCache, rows: Sequence[tuple[str, str]], tag: int, most: int) -> bool:
        tries.extend(key for key, _ in rows)
        return real(cache, rows, tag, most)

    def tries_of_a_store(key: str) -> int:
        tries.clear()
        run.cache.put(key, {"answer": key})
        return len(tries)

    writer.execute("COMMIT")
    monkeypatch.setattr(room, "TRIES", 7)
    monkeypatch.setattr(TextCache, "add_all", counted)
    run = Run(folder, 50)
    assert tries_of_a_store("b") == 1
    writer.execute("BEGIN EXCLUSIVE")
    assert [tries_of_a_store("c"), tries_of_a_store("d"), tries_of_a_store("e")] == [7, 1, 1]
    writer.execute("COMMIT")
    assert tries_of_a_store("f") == 1
    writer.execute("BEGIN EXCLUSIVE")
    assert [tries_of_a_store("g"), tries_of_a_store("h")] == [7, 1]
    writer.execute("COMMIT")
    run.cache.close()


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in the database's files, but for the one that SQLite keeps for locks."""
    found = {path.name: path.read_bytes() for path in folder.glob("cache.db*") if not path.name.endswith("-shm")}
    return {name: data for name, data in found.items() if data}


@pytest.mark.parametrize("log", [False, True], ids=["file alone", "with its log"])
def test_a_database_that_is_read_alone_is_not_touched(folder: Path, log: bool) -> None:
    other = Run(folder, 50) if log else None
    if other is not None:
        other.ask(["in the log"])
    before = files(folder)
    problems: list[str] = []
    cache = AnswerCache(folder, size=50, run=9, on_problem=problems.append, way="read")
    assert cache.get("a-7") == {"answer": "a-7"}
    assert (cache.get("in the log") is not None) is log
    assert len(list(cache.entries())) == 40 + log
    assert cache.put("new", {"answer": "new"}) == UNSTORED
    cache.close()
    assert problems == []
    assert files(folder) == before
    if other is not None:
        other.cache.close()


@pytest.mark.parametrize("log", [False, True], ids=["file alone", "with its log"])
def test_only_a_file_that_holds_all_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch, log: bool) -> None:
    """Where SQLite cannot make its files for locking, it would not look into the log."""
    real = sqlite3.connect

    def connect(database: str, *args: Any, **named: Any) -> Any:
        if str(database).endswith("mode=ro"):
            msg = "unable to open database file"
            raise sqlite3.OperationalError(msg)
        return real(database, *args, **named)

    other = Run(folder, 50) if log else None
    if other is not None:
        other.ask(["in the log"])
    monkeypatch.setattr(sqlite3, "connect", connect)
    problems: list[str] = []
    cache = AnswerCache(folder, size=50, run=9, on_problem=problems.append, way="read")
    monkeypatch.undo()
    assert (cache.get("a-7") is None) is log
    assert len(problems) == log
    cache.close()
    if other is not None:
        other.cache.close()


def test_a_file_without_a_table_is_nothing_to_read(tmp_path: Path) -> None:
    """It is what a disk that was full from the start leaves."""
    (tmp_path / "cache.db").touch()
    problems: list[str] = []
    cache = AnswerCache(tmp_path, size=50, run=9, on_problem=problems.append, way="read")
    assert cache.get("a") is None
    cache.close()
    why = "OperationalError: no such table: Cache"
    assert problems == [f"the cache in {tmp_path} cannot be opened, and nothing is cached: {why}"]


def test_entries_that_somebody_writes_right_now_are_not_counted(folder: Path, writer: sqlite3.Connection) -> None:
    assert count(folder) == 40  # readers go on beside a writer
    writer.execute("COMMIT")
    writer.execute("PRAGMA locking_mode = EXCLUSIVE")
    writer.execute("BEGIN EXCLUSIVE")
    assert count(folder) is None


def test_a_cache_that_cannot_be_made_or_read_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with a_run(tmp_path / "file" / "cache") as run:
        assert run.ask(["a", "a"]) == []
        assert list(run.cache.entries()) == []
    (told,) = run.problems
    folder = tmp_path / "file" / "cache"
    assert told == f"the cache in {folder} cannot be opened, and nothing is cached: {os.strerror(errno.ENOTDIR)}"


def test_two_caches_set_aside_in_one_second_are_both_kept(folder: Path) -> None:
    for number in range(3):
        (folder / "cache.db").write_bytes(b"no database %d" % number)
        with a_run(folder, 5):
            pass
    assert sorted(path.read_bytes() for path in damages(folder)) == [b"no database %d" % number for number in range(3)]


def put_three(run: Run) -> list[Stored]:
    return run.cache.put_all([(key, "{}") for key in "abc"])


def test_answers_stored_together_are_one_transaction(tmp_path: Path) -> None:
    with a_run(tmp_path, 50) as run:
        statements: list[str] = []
        run.cache._db._con.set_trace_callback(statements.append)
        assert put_three(run) == [Stored(stored=True, evicted=0)] * 3
        run.cache._db._con.set_trace_callback(None)
    (told,) = set(statements)  # SQLite repeats it for each step of the triggers that count the rows
    assert told.startswith("INSERT INTO Cache")


def test_answers_that_a_full_cache_has_room_for_one_by_one_are_one_transaction(tmp_path: Path) -> None:
    with a_run(tmp_path, 4) as run:
        assert run.cache.put_all([(key, "{}") for key in "abc"]) == [Stored(stored=True, evicted=0)] * 3
        statements: list[str] = []
        run.cache._db._con.set_trace_callback(statements.append)
        assert [one.stored for one in run.cache.put_all([(key, "{}") for key in "cdef"])] == [True, True, False, False]
        run.cache._db._con.set_trace_callback(None)
    told = [text for text in statements if text.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]
    assert told == ["BEGIN IMMEDIATE", "COMMIT"]


def test_of_answers_with_one_key_stored_together_the_last_stays(tmp_path: Path) -> None:
    with a_run(tmp_path, 50) as run:
        rows = [("a", '{"n": 1}'), ("b", "{}"), ("a", '{"n": 2}')]
        assert run.cache.put_all(rows) == [Stored(stored=True, evicted=0)] * 3
        assert run.cache.get("a") == {"n": 2}
    assert query(tmp_path, "SELECT value FROM Settings WHERE key = 'count'") == [(2,)]


@pytest.mark.parametrize("count", [249, 250, 251, 600])
def test_more_answers_than_one_statement_takes_are_all_stored(count: int, tmp_path: Path) -> None:
    with a_run(tmp_path, 600) as run:
        rows = [(f"key-{n}", "{}") for n in range(count)]
        assert run.cache.put_all(rows) == [Stored(stored=True, evicted=0)] * count
        assert len(run.cache.get_all([key for key, _ in rows])) == count


def test_of_answers_stored_together_one_that_the_disk_has_no_room_for_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TextCache.add_all

    def full(cache: TextCache, rows: Sequence[tuple[str, str]], tag: int, most: int) -> bool:
        if "b" in dict(rows):
            msg = "database or disk is full"
            raise sqlite3.OperationalError(msg)
        return real(cache, rows, tag, most)

    monkeypatch.setattr(TextCache, "add_all", full)
    with a_run(tmp_path, 50) as run:
        assert [one.stored for one in put_three(run)] == [True, False, True]
        assert run.problems == [f"the cache in {tmp_path} is not usable: OperationalError: database or disk is full"]
    assert sorted(key for (key,) in query(tmp_path, "SELECT key FROM Cache")) == ["a", "c"]


def test_of_answers_stored_together_one_that_is_too_large_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LARGEST_VALUE", 100)
    with a_run(tmp_path, 50) as run:
        stored = run.cache.put_all([("a", "{}"), ("b", "b" * 200), ("c", "{}")])
    assert [one.stored for one in stored] == [True, False, True]
    assert run.problems == []


def test_of_answers_stored_together_a_full_cache_takes_those_that_have_room(tmp_path: Path) -> None:
    with a_run(tmp_path, 2) as run:
        assert [one.stored for one in put_three(run)] == [True, True, False]


def test_answers_stored_together_wait_once_for_another_process(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.execute("COMMIT")
    monkeypatch.setattr(room, "TRIES", 2)
    with a_run(folder, 50) as run:
        writer.execute("BEGIN EXCLUSIVE")
        assert put_three(run) == [Stored(stored=False, evicted=0)] * 3
        writer.execute("COMMIT")
        assert put_three(run) == [Stored(stored=True, evicted=0)] * 3
    assert run.problems == [f"the cache in {folder} is not usable: OperationalError: database is locked; {NETWORK}"]


def test_a_transaction_that_fails_leaves_nothing(folder: Path) -> None:
    def add_and_break() -> None:
        with db.transact():
            db.add("new", "{}", 1, 100)
            raise KeyError

    db = database.open_to_write(folder)
    with pytest.raises(KeyError):
        add_and_break()
    assert db.get_all(["new"]) == {}
    assert db.add("new", "{}", 1, 100)
    db.close()


def test_a_value_that_the_next_run_would_take_for_damage_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LARGEST_VALUE", 10)
    db = database.open_to_write(folder)
    with pytest.raises(database.Refused):
        db.add("new", "x" * 11, 1, 100)
    db.close()


def test_a_transaction_that_the_disk_has_ended_says_why(folder: Path) -> None:
    def add_too_much() -> None:
        with db.transact():
            db._sql("ROLLBACK")  # as SQLite does when it runs out of room
            msg = "database or disk is full"
            raise sqlite3.OperationalError(msg)

    db = database.open_to_write(folder)
    with pytest.raises(sqlite3.OperationalError, match=r"^database or disk is full$"):
        add_too_much()
    assert db.add("new", "{}", 1, 100)
    db.close()


def test_without_a_cache_nothing_is_stored_however_many_answers_come_at_once(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TRIES", 2)
    monkeypatch.setattr(opening, "TRIES", 2)
    assert writer.in_transaction
    with a_run(folder, 50) as run:
        assert put_three(run) == [Stored(stored=False, evicted=0)] * 3
    assert len(run.problems) == 1


def test_what_diskcache_itself_does_is_tried_again_while_the_database_is_locked() -> None:
    answers = [diskcache.Timeout(), sqlite3.OperationalError("database is locked"), None]

    def work() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "done"

    assert database.patiently(work, 3) == "done"
