"""A cache folder that somebody else wrote gives a wrong answer or a miss; no code runs, no outside file is touched."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine import cache, vetting
from pytest_lmstudio.engine.cache import AnswerCache, Stored
from pytest_lmstudio.engine.database import TextDisk
from tests.unit.engine.caches import a_run, held, query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = '{"answer":"k"}'
MODES = {"none": 0, "raw": 1, "binary": 2, "text": 3, "pickle": 4}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file beside the cache's folder; its text would do as an answer."""
    canary = tmp_path / "canary.json"
    canary.write_text(GOOD, encoding="ascii")
    return canary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two good entries."""
    folder = tmp_path / "cache"
    folder.mkdir()
    with a_run(folder) as run:
        run.ask(["first", "last"])
    return folder


def rows(payload: bytes, outside: str) -> dict[str, tuple[Any, int, Any, Any, Any]]:
    """Return bad rows by name: key, raw, mode, filename, value."""
    return {
        "pickled key": (payload, 0, 1, None, GOOD),
        "pickled key said to be raw": (payload, 1, 1, None, GOOD),
        "text key said to be pickled": ("k", 0, 1, None, GOOD),
        "number as key": (7, 1, 1, None, GOOD),
        "no key": (None, 1, 1, None, GOOD),
        "pickled value": ("k", 1, MODES["pickle"], None, payload),
        "pickled value said to be raw": ("k", 1, MODES["raw"], None, payload),
        "pickle in a file": ("k", 1, MODES["pickle"], "../payload.pickle", None),
        "text in a file": ("k", 1, MODES["text"], "../canary.json", None),
        "text in a file, absolute": ("k", 1, MODES["text"], outside, None),
        "bytes in a file": ("k", 1, MODES["binary"], outside, None),
        "a value and a file": ("k", 1, MODES["raw"], outside, GOOD),
        "no mode": ("k", 1, MODES["none"], outside, GOOD),
        "mode as text": ("k", 1, "raw", outside, GOOD),
        "number as value": ("k", 1, MODES["raw"], None, 12),
        "no value": ("k", 1, MODES["raw"], None, None),
        "list as value": ("k", 1, MODES["raw"], None, "[1]"),
        "no JSON": ("k", 1, MODES["raw"], None, "{"),
        "deep JSON": ("k", 1, MODES["raw"], None, "[" * 200_000),
        "long number": ("k", 1, MODES["raw"], None, "9" * 5000),
    }


def insert(folder: Path, row: tuple[Any, ...], rowid: int | None = None, tag: Any = -5) -> None:
    sql = (
        "INSERT INTO Cache(rowid, key, raw, store_time, access_time, tag, mode, filename, value)"
        " VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?)"
    )
    key, raw, mode, filename, value = row
    query(folder, sql, rowid, key, raw, tag, mode, filename, value)


@pytest.mark.parametrize("name", rows(b"", "").keys())
@pytest.mark.parametrize("tag", [-5, "old", 10**18], ids=["old", "text tag", "far ahead"])
def test_a_bad_row_is_a_miss_on_every_path(tmp_path: Path, folder: Path, canary: Path, name: str, tag: Any) -> None:
    ran = tmp_path / "code ran"
    payload = pickle.dumps(Payload(ran))
    (tmp_path / "payload.pickle").write_bytes(payload)
    insert(folder, rows(payload, str(canary))[name], tag=tag)
    with a_run(folder, 3) as run:
        assert run.cache.get("k") is None
        assert [entry["answer"] for entry in run.cache.entries()] == ["first", "last"]
        assert run.ask(["n"]) == []  # one has to go, or there is no room
        known = query(folder, "SELECT 1 FROM Cache WHERE key = 'k' AND raw = 1") == [(1,)]
        assert run.cache.put("k", {"answer": "k"}) == Stored(stored=known, evicted=0)
    with a_run(folder, 10) as run:
        assert run.ask(["first", "last", "k"])[:2] == ["first", "last"]
        assert run.ask(["k"]) == ["k"]
        run.cache._db.delete("k")
        assert run.cache.get("k") is None
    assert not ran.exists()
    assert canary.read_text(encoding="ascii") == GOOD
    assert (tmp_path / "payload.pickle").read_bytes() == payload
    assert [path for path in folder.iterdir() if path.name.startswith("damaged")] == []


def test_the_payload_of_these_tests_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "code ran")))  # noqa: S301  # the test's own
    assert (tmp_path / "code ran").is_dir()


def test_the_largest_row_number_breaks_nothing(folder: Path) -> None:
    insert(folder, ("k", 1, 1, None, GOOD), rowid=2**63 - 1)
    with a_run(folder, 3) as run:
        assert list(run.cache.entries()) == []  # its iteration cannot count that far
        assert run.ask(["k", "first", "n"]) == ["k", "first"]
    assert sorted(held(folder)) == ["first", "k", "last"]


def test_text_that_is_no_utf8_is_a_miss(folder: Path) -> None:
    insert(folder, ("k", 1, 1, None, None))
    query(folder, "UPDATE Cache SET value = CAST(x'ff22' AS TEXT) WHERE key = 'k'")
    query(folder, "UPDATE Cache SET key = CAST(x'ff' AS TEXT) WHERE key = 'last'")
    with a_run(folder, 3) as run:
        assert run.cache.get("k") is None
        assert list(run.cache.entries()) == []  # such a key ends the iteration
        assert run.ask(["first", "n"]) == ["first"]


FOREIGN = {
    "CREATE TABLE Other(a)": "a foreign table",
    "CREATE VIRTUAL TABLE Other USING fts5(a)": "a foreign table",
    "CREATE VIEW Other AS SELECT 1": "a foreign view",
    "CREATE TRIGGER t AFTER INSERT ON Cache BEGIN UPDATE Settings SET value = value + 1; END": "a foreign trigger",
    "CREATE TRIGGER Settings_t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END": "a foreign trigger",
    (
        "CREATE TRIGGER Settings_t AFTER INSERT ON Cache WHEN 'BEGIN UPDATE Settings SET value = value ' <> ''"
        " BEGIN DELETE FROM Cache; END"
    ): "a foreign trigger",
    "ALTER TABLE Cache ADD COLUMN more AS (zeroblob(1000))": "a foreign table",
    "ALTER TABLE Settings ADD COLUMN more": "a foreign table",
    "CREATE INDEX Other ON Cache(zeroblob(1000))": "a foreign index",
    "CREATE UNIQUE INDEX Other ON Cache(key, tag)": "a foreign index",
    "CREATE TRIGGER Settings_count_insert_2 AFTER INSERT ON Cache FOR EACH ROW BEGIN"
    ' UPDATE Settings SET value = value + 1 WHERE key = "count"; END': "a foreign trigger",
    "INSERT INTO Settings VALUES ('directory', '/tmp')": "a foreign setting",
    "INSERT INTO Settings VALUES ('disk_remove', '1')": "a foreign setting",
    "INSERT INTO Settings VALUES ('sqlite_writable_schema', '1')": "a foreign setting",
    "UPDATE Settings SET value = 'wal; ATTACH x AS y' WHERE key = 'sqlite_journal_mode'": "a foreign setting",
    "UPDATE Settings SET value = x'00' WHERE key = 'hits'": "a foreign setting",
    "UPDATE Settings SET value = -500 WHERE key = 'count'": "its count of entries is wrong",
    "UPDATE Settings SET value = 'many' WHERE key = 'count'": "its count of entries is wrong",
    "UPDATE Settings SET value = 2.0 WHERE key = 'count'": "its count of entries is wrong",
    "UPDATE Settings SET value = NULL WHERE key = 'count'": "its count of entries is wrong",
    "DELETE FROM Settings WHERE key = 'count'": "its count of entries is wrong",
}


@pytest.mark.parametrize(("sql", "why"), FOREIGN.items(), ids=str)
def test_a_database_that_diskcache_did_not_make_is_set_aside(folder: Path, sql: str, why: str) -> None:
    query(folder, sql)
    with a_run(folder) as run:
        assert run.ask(["first"]) == []
    [problem] = run.problems
    [aside] = [path.name for path in folder.iterdir() if path.name.startswith("damaged")]
    found = why if why.startswith("its") else f"it holds {why}"
    assert problem == f"the cache was damaged (ValueError: {found}) and was set aside as {aside}"
    with a_run(folder) as run:
        assert run.ask(["first"]) == ["first"]
    assert run.problems == []


def test_tables_of_our_names_that_are_others_are_set_aside(tmp_path: Path) -> None:
    query(tmp_path, "CREATE TABLE Cache(key, raw, tag, mode, filename, value CHECK (value <> zeroblob(1000000000)))")
    with a_run(tmp_path) as run:
        assert run.ask(["a", "a"]) == ["a"]
    assert "ValueError: it holds a foreign table" in run.problems[0]


def test_a_view_that_never_ends_is_not_looked_into(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM n"
    query(tmp_path, f"CREATE VIEW Settings AS {endless}")
    query(tmp_path, f"CREATE VIEW Cache AS {endless}")
    with a_run(tmp_path) as run:
        assert run.ask(["a", "a"]) == ["a"]
    assert "ValueError: it holds a foreign view" in run.problems[0]


def test_what_diskcache_makes_is_what_is_let_through(tmp_path: Path) -> None:
    """A diskcache of another layout would have every cache set aside."""
    with a_run(tmp_path):
        pass
    made = query(tmp_path, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    assert {sql for (sql,) in made} == vetting._MADE


def test_statistics_of_sqlite_are_no_damage(folder: Path) -> None:
    query(folder, "ANALYZE")
    query(folder, "VACUUM")
    with a_run(folder) as run:
        assert run.ask(["first", "last"]) == ["first", "last"]
    assert run.problems == []


@pytest.mark.parametrize("length", [51_000, 500_000])
def test_a_value_that_is_too_large_is_set_aside(folder: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(vetting, "LARGEST_VALUE", 50_000)
    insert(folder, ("k", 1, 1, None, "x" * 49_000))
    with a_run(folder) as run:
        assert run.ask(["first"]) == ["first"]
    insert(folder, ("l", 1, 1, None, "x" * length))
    with a_run(folder) as run:
        assert run.ask(["first"]) == []
    assert "ValueError: it holds a value that is too large" in run.problems[0]


def test_an_answer_that_is_too_large_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGEST_VALUE", 1000)
    with a_run(folder) as run:
        assert run.cache.put("k", {"answer": "x" * 1000}) == Stored(stored=False, evicted=0)
        assert run.cache.put("l", {"answer": "x" * 900}) == Stored(stored=True, evicted=0)
    assert run.problems == []


@pytest.mark.parametrize("name", rows(b"", "").keys())
def test_a_bad_row_is_a_miss_also_where_nothing_can_be_written(
    tmp_path: Path, folder: Path, canary: Path, name: str
) -> None:
    ran = tmp_path / "code ran"
    insert(folder, rows(pickle.dumps(Payload(ran)), str(canary))[name])
    problems: list[str] = []
    reader = AnswerCache(folder, size=5, run=9, on_problem=problems.append, way="read")
    assert reader.get("k") is None
    assert [entry["answer"] for entry in reader.entries()] == ["first", "last"]
    assert reader.put("k", {"answer": "k"}) == Stored(stored=False, evicted=0)
    reader.close()
    assert not ran.exists()
    assert not any(GOOD in problem for problem in problems)


def test_no_part_of_a_row_is_told(folder: Path) -> None:
    """Notes go into the log, which holds no answers."""
    secret = "the answer itself"
    insert(folder, ("k", 1, 1, None, f'{{"a": {secret}'))
    query(folder, "UPDATE Cache SET value = CAST(x'ff' || 'the answer itself' AS TEXT) WHERE key = 'last'")
    with a_run(folder) as run:
        run.ask(["k", "last"])
        list(run.cache.entries())
    assert len(run.problems) > 1
    assert not any(secret in problem for problem in run.problems), run.problems


@pytest.mark.parametrize("variable", ["$HOME", "${HOME}"])
def test_a_folder_named_like_a_variable_is_not_taken_for_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    folder = tmp_path / variable
    with a_run(folder) as run:
        assert run.ask(["a", "a"]) == []
    assert not (tmp_path / "elsewhere").exists()
    assert "its path holds the name of a variable" in run.problems[0]


@pytest.mark.parametrize("key", ["eviction_policy", "statistics", "cull_limit", "size_limit", "tag_index"])
@pytest.mark.parametrize("value", ["least-recently-used", 1, None, -1])
def test_settings_that_diskcache_knows_are_ours_whatever_the_folder_says(folder: Path, key: str, value: Any) -> None:
    query(folder, "UPDATE Settings SET value = ? WHERE key = ?", value, key)
    with a_run(folder, 2) as run:
        assert run.ask(["first", "last", "n"]) == ["first", "last"]
        assert getattr(run.cache._db, key) == {"eviction_policy": "none", "size_limit": 2**62}.get(key, 0)
    assert run.problems == []


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_file_that_is_a_link_is_not_followed(tmp_path: Path, folder: Path, suffix: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((folder / "cache.db").read_bytes() if not suffix else b"kept")
    before = outside.read_bytes()
    (folder / f"cache.db{suffix}").unlink(missing_ok=True)
    (folder / f"cache.db{suffix}").symlink_to(outside)
    with a_run(folder) as run:
        assert run.ask(["first", "n"]) == []
    assert run.problems[0].startswith("the cache was damaged (ValueError: it holds a symbolic link) and was set aside")
    assert outside.read_bytes() == before


def test_a_journal_that_names_another_file_deletes_nothing(tmp_path: Path, folder: Path, canary: Path) -> None:
    query(folder, "PRAGMA journal_mode = delete")
    name = str(canary).encode()
    tail = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    page = (2**30 // 4096 + 1).to_bytes(4, "big")
    (folder / "cache.db-journal").write_bytes(b"x" * 512 + page + name + tail)
    with a_run(folder) as run:
        assert run.ask(["first"]) == []
    assert run.problems[0].startswith("the cache was damaged (ValueError: its journal names another file)")
    assert canary.read_text(encoding="ascii") == GOOD


@pytest.mark.parametrize("journal", [b"", b"short", bytes(600), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600)])
def test_a_journal_that_names_no_other_file_is_sqlites_business(folder: Path, journal: bytes) -> None:
    (folder / "cache.db-journal").write_bytes(journal)
    with a_run(folder) as run:
        assert run.ask(["first", "last"]) == ["first", "last"]
    assert run.problems == []


def test_a_cache_without_settings_is_set_aside(folder: Path) -> None:
    query(folder, "DROP TRIGGER Settings_count_insert")
    query(folder, "DROP TABLE Settings")
    with a_run(folder) as run:
        assert run.ask(["first", "first"]) == ["first"]
    assert run.problems[0].startswith("the cache was damaged (ValueError: its settings are missing)")


@pytest.mark.parametrize("value", [b"bytes", 3, None, ["text"]])
def test_the_disk_takes_text_alone(tmp_path: Path, value: Any) -> None:
    disk = TextDisk(str(tmp_path))
    calls: list[Callable[[], object]] = [
        lambda: disk.put(value),
        lambda: disk.store(value, read=False),
        lambda: disk.store("text", read=True),
        lambda: disk.fetch(1, None, value, read=False),
        lambda: disk.fetch(1, None, "text", read=True),
        lambda: disk.hash("text"),
        disk.filename,
    ]
    for call in calls:
        with pytest.raises(OSError, match=r"^$"):
            call()
    assert disk.get(value, True) is None  # diskcache's own order
    assert (disk.put("k"), disk.store("v", read=False)) == (("k", True), (0, 1, None, "v"))
    assert (disk.get("k", 1), disk.fetch(1, None, "v", read=False)) == ("k", "v")
