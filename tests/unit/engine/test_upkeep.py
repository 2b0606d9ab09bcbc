"""The cache looked after by hand, also while runs use it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import database, upkeep, vetting
from pytest_lmstudio.engine.archive import Entry
from pytest_lmstudio.engine.upkeep import (
    Added,
    CacheError,
    DamagedError,
    add,
    clear,
    delete,
    look_over,
    newest_run,
    rows,
)
from tests.unit.engine.caches import a_run, held, query

if TYPE_CHECKING:
    from pathlib import Path


def entries(count: int, name: str = "k", **fields: Any) -> list[Entry]:
    return [Entry(f"{name}{n}", {"answer": f"{name}{n}", **fields}) for n in range(count)]


def added(folder: Path, some: list[Entry], size: int = 10, *, overwrite: bool = False) -> Added:
    look_over(folder)
    return add(folder, some, size=size, overwrite=overwrite)


def test_what_is_added_is_what_the_next_run_finds(tmp_path: Path) -> None:
    assert added(tmp_path / "cache", entries(3)) == Added(3, 0, 0)
    with a_run(tmp_path / "cache") as run:
        assert run.ask(["k0", "k1", "k2", "k3"]) == ["k0", "k1", "k2"]
        assert run.problems == []


def test_no_folder_is_no_cache(tmp_path: Path) -> None:
    assert look_over(tmp_path / "cache") is False
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_evicted_to_make_room(tmp_path: Path) -> None:
    with a_run(tmp_path, size=10) as run:
        run.ask([f"old{n}" for n in range(7)])
    for _ in range(5):
        with a_run(tmp_path, size=10):
            pass
    assert added(tmp_path, entries(5), size=10) == Added(3, 0, 2)
    assert len(held(tmp_path)) == 10
    assert added(tmp_path, entries(5), size=2) == Added(0, 3, 2)
    assert len(held(tmp_path)) == 10


def test_what_was_added_stays_through_the_next_run_and_may_go_later(tmp_path: Path) -> None:
    for _ in range(4):
        with a_run(tmp_path, size=3):
            pass
    added(tmp_path, entries(3), size=3)
    with a_run(tmp_path, size=3) as run:
        run.ask(["x"])
        assert run.evicted == 0
    with a_run(tmp_path, size=3) as run:
        run.ask(["x"])
        assert run.evicted == 1


def test_an_entry_that_is_there_stays_unless_told(tmp_path: Path) -> None:
    added(tmp_path, [Entry("k", {"answer": "old"})])
    assert added(tmp_path, [Entry("k", {"answer": "new"})], size=1) == Added(0, 1, 0)
    assert [row.value for row in rows(tmp_path)] == [{"answer": "old"}]
    assert added(tmp_path, [Entry("k", {"answer": "new"})], size=1, overwrite=True) == Added(1, 0, 0)
    assert [row.value for row in rows(tmp_path)] == [{"answer": "new"}]


def test_many_are_stored_in_several_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_MOST_AT_ONCE", 7)
    assert added(tmp_path, entries(50), size=40) == Added(40, 0, 10)


def test_rows_tell_size_and_last_use(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(["a", "b"])
    with a_run(tmp_path) as run:
        run.ask(["b"])
    assert [(row.key, row.run, row.size_bytes) for row in rows(tmp_path)] == [("a", 1, 14), ("b", 2, 14)]
    assert newest_run(tmp_path) == 2
    assert [row.key for row in rows(tmp_path, ["b", "gone"])] == ["b"]


def test_looking_after_a_cache_is_no_run_of_it(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(["a"])
    look_over(tmp_path)
    list(rows(tmp_path))
    added(tmp_path, entries(1))
    delete(tmp_path, ["k0"])
    assert newest_run(tmp_path) == 1


def test_deleted_entries_are_gone_and_those_that_were_not_there_do_not_count(tmp_path: Path) -> None:
    added(tmp_path, entries(3))
    assert delete(tmp_path, ["k0", "k2", "nope"]) == 2
    assert held(tmp_path) == ["k1"]


def test_clear_deletes_what_is_none_of_ours_too(tmp_path: Path) -> None:
    added(tmp_path, entries(2))
    query(
        tmp_path, "INSERT INTO Cache(key, raw, mode, filename, value) VALUES (?, 0, 4, '../x', ?)", b"pickled", b"evil"
    )
    (tmp_path.parent / "x").write_text("stays", encoding="ascii")
    clear(tmp_path)
    assert query(tmp_path, "SELECT COUNT(*) FROM Cache") == [(0,)]
    assert (tmp_path.parent / "x").read_text("ascii") == "stays"


def test_rows_that_name_files_or_hold_pickles_are_not_read(tmp_path: Path) -> None:
    added(tmp_path, entries(1))
    for number, (raw, mode, name, value) in enumerate([(0, 1, None, "{}"), (1, 4, None, b"x"), (1, 3, "../f", None)]):
        sql = "INSERT INTO Cache(key, raw, mode, filename, value) VALUES (?, ?, ?, ?, ?)"
        query(tmp_path, sql, f"odd{number}", raw, mode, name, value)
    assert [row.key for row in rows(tmp_path)] == ["k0"]


@pytest.mark.parametrize("value", ["[1]", "{", "[" * 200_000, "7", b"bytes", None])
def test_a_value_that_is_no_entry_is_none(tmp_path: Path, value: object) -> None:
    added(tmp_path, entries(1))
    query(tmp_path, "UPDATE Cache SET value = ?, tag = 'x'", value)
    assert [(row.key, row.run, row.value) for row in rows(tmp_path)] == [("k0", None, None)]


def test_a_damaged_cache_is_set_aside_with_one_line(tmp_path: Path) -> None:
    added(tmp_path, entries(1))
    (tmp_path / "cache.db").write_bytes(b"this is no database, and long enough to be looked at" * 100)
    with pytest.raises(
        DamagedError, match=r"^the cache was damaged \(DatabaseError: .*\) and was set aside as damaged-"
    ):
        look_over(tmp_path)
    assert look_over(tmp_path) is False
    assert added(tmp_path, entries(2)) == Added(2, 0, 0)


def test_a_cache_that_another_process_holds_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TRIES", 2)
    monkeypatch.setattr(database, "TRIES", 2)
    added(tmp_path, entries(1))
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert look_over(tmp_path) is True
        assert [row.key for row in rows(tmp_path)] == ["k0"]
        with pytest.raises(CacheError, match="cannot be used"):
            add(tmp_path, entries(1, "new"), size=10, overwrite=False)
        other.execute("ROLLBACK")
    assert held(tmp_path) == ["k0"]


def test_what_a_run_writes_while_the_cache_is_looked_at_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(tmp_path, entries(2))
    check = vetting._check_settings

    def meanwhile(db: sqlite3.Connection) -> None:
        check(db)
        query(tmp_path, "UPDATE Settings SET value = 99 WHERE key = 'count'")  # half of a change, as if it fell between

    monkeypatch.setattr(vetting, "_check_settings", meanwhile)
    assert [row.key for row in rows(tmp_path)] == ["k0", "k1"]


def test_a_run_in_progress_goes_on_while_its_cache_is_emptied_and_filled(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(["a", "b"])
        assert look_over(tmp_path) is True
        clear(tmp_path)
        assert run.ask(["a"]) == []
        added(tmp_path, entries(2))
        assert run.ask(["k0", "a"]) == ["k0", "a"]
        delete(tmp_path, ["k0"])
        assert run.problems == []
    assert sorted(held(tmp_path)) == ["a", "k1"]
    assert query(tmp_path, "SELECT value FROM Settings WHERE key = 'count'") == [(2,)]
