"""A cache that is damaged, locked or out of reach costs its answers, never the run."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import diskcache
import pytest

from pytest_lmstudio.engine import cache as room
from pytest_lmstudio.engine.cache import Stored
from tests.unit.engine.caches import Run, a_run, query, suite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)


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
    monkeypatch.setattr(room, "_TRIES", 2)
    run = Run(folder, 50)
    writer.execute("BEGIN EXCLUSIVE")
    assert run.cache.get("a-0") == {"answer": "a-0"}  # readers go on
    assert run.cache.put("b", {"answer": "b"}, patient=False) is None
    assert run.problems == []
    assert run.cache.put("b", {"answer": "b"}) == Stored(stored=False, evicted=0)
    assert run.problems == [f"the cache in {folder} is not usable: Timeout: "]
    writer.execute("COMMIT")
    assert run.cache.put("b", {"answer": "b"}) == Stored(stored=True, evicted=0)
    writer.execute("BEGIN EXCLUSIVE")
    run.cache.close()  # what was used cannot be written down, and that is all


def test_a_look_up_in_a_locked_database_is_a_miss_after_some_tries(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def locked(_: object, key: str, **__: object) -> None:
        tries.append(key)
        msg = "database is locked"
        raise sqlite3.OperationalError(msg)

    monkeypatch.setattr(room, "_TRIES", 3)
    with a_run(folder, 50) as run:
        monkeypatch.setattr(diskcache.Cache, "get", locked)
        assert run.cache.get("a-0") is None
    assert tries == ["a-0"] * 3
    assert run.problems == [f"the cache in {folder} is not usable: OperationalError: database is locked"]


def test_the_longest_wait_for_a_lock_is_about_five_seconds() -> None:
    assert room._LOCK_WAIT_S * room._TRIES == 5.0


def test_a_database_locked_from_the_start_is_left_alone(
    folder: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_TRIES", 2)
    with a_run(folder, 50) as run:
        assert run.ask(["a-0", "a-0"]) == []
        assert list(run.cache.entries()) == []
    why = "OperationalError: database is locked"
    assert run.problems == [f"the cache in {folder} cannot be opened, and nothing is cached: {why}"]
    writer.execute("COMMIT")
    with a_run(folder, 50) as run:
        assert run.ask(["a-0"]) == ["a-0"]
    assert damages(folder) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("attempt to write a readonly database"), "OperationalError: attempt to write"),
        (sqlite3.OperationalError("disk I/O error"), "OperationalError: disk I/O error"),
        (PermissionError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
    ],
    ids=["read-only", "disk", "permission"],
)
def test_a_cache_that_cannot_be_written_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(room, "vet", refuse)
    with a_run(folder, 50) as run:
        assert run.ask(["a-0"]) == []
    assert damages(folder) == []
    assert run.problems[0].startswith(f"the cache in {folder} cannot be opened, and nothing is cached: {said}")


def test_a_damaged_database_that_cannot_be_moved_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cache.db").write_bytes(b"no database at all")
    run_number = (folder / "runs.txt").read_text(encoding="ascii")

    def in_use(*_: object) -> None:
        raise PermissionError(32, "in use")

    monkeypatch.setattr(room, "set_aside", in_use)
    problems: list[str] = []
    cache = room.AnswerCache(folder, size=5, run=int(run_number) + 1, on_problem=problems.append)
    assert (cache.get("a-0"), cache.put("a-0", {}), list(cache.entries())) == (None, Stored(False, 0), [])  # noqa: FBT003
    cache.close()
    why = "DatabaseError: file is not a database"
    assert problems == [f"the cache in {folder} cannot be opened, and nothing is cached: {why}"]


def test_a_folder_where_the_database_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache.db").mkdir()
    with a_run(tmp_path) as run:
        assert run.ask(["a", "a"]) == []
    why = "OperationalError: unable to open database file"
    assert run.problems == [f"the cache in {tmp_path} cannot be opened, and nothing is cached: {why}"]
