"""How many answers the cache holds, and which of them go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.cache import AnswerCache, Stored, text_of
from pytest_lmstudio.engine.database import TextCache
from pytest_lmstudio.engine.vetting import count
from tests.unit.engine.caches import a_run, held, query, suite

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest


def test_a_suite_larger_than_the_cache_hits_for_as_many_as_it_holds(tmp_path: Path) -> None:
    asked = suite("a", 600)
    hits = []
    for _ in range(3):
        with a_run(tmp_path, 500) as run:
            hits.append(len(run.ask(asked)))
        assert run.problems == []
        assert len(held(tmp_path)) == 500
    assert hits == [0, 500, 500]
    assert count(tmp_path) == 500


def test_many_are_looked_up_at_once(tmp_path: Path) -> None:
    """More than the parameters that an SQLite of some age takes in one statement."""
    keys = suite("a", 1200)
    with a_run(tmp_path, 2000) as run:
        run.cache.put_all([(key, text_of({"answer": key})) for key in keys])
    with a_run(tmp_path, 2000) as run:
        found = run.cache.get_all([*keys[::2], "b-0"])
        assert found == {key: {"answer": key} for key in keys[::2]}
        assert [run.cache.is_used(key) for key in keys[:4]] == [True, False, True, False]
        assert run.cache.get_all([]) == {}


def test_entries_of_this_run_and_the_last_one_stay(tmp_path: Path) -> None:
    with a_run(tmp_path) as first:
        first.ask(suite("a", 10))
    with a_run(tmp_path) as second:
        assert second.ask(suite("b", 10)) == []
    assert (second.stored, second.evicted) == (0, 0)
    assert held(tmp_path) == suite("a", 10)


def test_entries_unused_for_two_runs_go_one_for_each_new_answer(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(suite("a", 10))
    for _ in range(2):
        with a_run(tmp_path) as run:
            run.ask(suite("b", 3))
    assert (run.stored, run.evicted) == (3, 3)
    assert held(tmp_path) == [*suite("a", 10)[3:], *suite("b", 3)]


def test_the_one_unused_for_the_longest_goes_first(tmp_path: Path) -> None:
    a, b, c = suite("a", 3), suite("b", 3), suite("c", 2)
    uses: list[list[str]] = [[*a, *b], a, [], [], c, []]
    for keys in uses:  # b is one run older than a, though it came in later
        with a_run(tmp_path, 6) as run:
            run.ask(keys)
    assert sorted(held(tmp_path)) == sorted([*a, b[2], *c])


def test_a_use_in_the_last_run_counts_though_nothing_was_stored(tmp_path: Path) -> None:
    a = suite("a", 10)
    with a_run(tmp_path) as run:
        run.ask(a)
    for _ in range(3):
        with a_run(tmp_path) as run:
            assert run.ask(a[:4]) == a[:4]
    with a_run(tmp_path) as run:
        run.ask(suite("b", 10))
    assert sorted(held(tmp_path)) == sorted([*a[:4], *suite("b", 6)])


def test_an_old_entry_that_this_run_used_stays(tmp_path: Path) -> None:
    for keys in (suite("a", 10), [], []):
        with a_run(tmp_path) as run:
            run.ask(keys)
    with a_run(tmp_path) as run:
        assert run.ask(["a-0"]) == ["a-0"]
        with a_run(tmp_path) as other:  # a later run at the same time
            other.ask(suite("b", 10))
        assert run.ask(["a-0"]) == ["a-0"]
    assert sorted(held(tmp_path)) == sorted(["a-0", *suite("b", 9)])


def test_reading_all_entries_is_no_use_of_them(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(suite("a", 10))
    for _ in range(2):
        with a_run(tmp_path) as run:
            assert [entry["answer"] for entry in run.cache.entries()] == suite("a", 10)
    with a_run(tmp_path) as run:
        run.ask(suite("b", 1))
    assert held(tmp_path) == [*suite("a", 10)[1:], "b-0"]


def test_an_entry_that_went_meanwhile_is_not_brought_back_by_its_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keys in (suite("a", 3), [], []):
        with a_run(tmp_path, 3) as run:
            run.ask(keys)
    with a_run(tmp_path, 3) as run, a_run(tmp_path, 3) as other:
        note = AnswerCache._note_use

        def late(cache: AnswerCache, tags: dict[str, object]) -> None:
            monkeypatch.setattr(AnswerCache, "_note_use", note)
            other.ask(suite("b", 3))
            note(cache, tags)

        monkeypatch.setattr(AnswerCache, "_note_use", late)
        assert run.ask(["a-0"]) == ["a-0"]
    assert held(tmp_path) == suite("b", 3)


def test_old_entries_that_are_looked_for_together_are_marked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keys in (suite("a", 4), [], []):
        with a_run(tmp_path, 4) as run:
            run.ask(keys)
    marked: list[list[str]] = []
    mark = TextCache.mark

    def noted(cache: TextCache, keys: Iterable[str], *more: int) -> None:
        marked.append(list(keys))
        mark(cache, marked[-1], *more)

    monkeypatch.setattr(TextCache, "mark", noted)
    with a_run(tmp_path, 4) as run:
        assert run.cache.get_all(suite("a", 3)).keys() == set(suite("a", 3))
        assert marked == [suite("a", 3)]
        run.cache.get_all(suite("a", 3))
        with a_run(tmp_path, 4) as other:  # which may have only what no run used of late
            other.ask(suite("b", 4))
    assert marked == [suite("a", 3)]
    assert sorted(held(tmp_path)) == sorted([*suite("a", 3), "b-0"])


def test_an_entry_that_this_run_uses_while_it_evicts_is_passed_over(tmp_path: Path) -> None:
    for keys in (suite("a", 4), [], []):
        with a_run(tmp_path, 4) as run:
            run.ask(keys)
    with a_run(tmp_path, 4) as run:
        run.ask(["b-0"])  # a-0 goes, a-1 would be next
        assert run.ask(["a-1"]) == ["a-1"]
        run.ask(["b-1"])
    assert sorted(held(tmp_path)) == ["a-1", "a-3", "b-0", "b-1"]


def test_a_new_answer_for_a_known_key_takes_no_room(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(suite("a", 10))
        assert run.cache.put("a-3", {"answer": "new"}) == Stored(stored=True, evicted=0)
        assert run.cache.get("a-3") == {"answer": "new"}
    assert len(held(tmp_path)) == 10


def test_a_cache_made_smaller_keeps_what_was_used_and_takes_nothing_new(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(suite("a", 10))
    with a_run(tmp_path, 4) as run:
        assert run.ask([*suite("a", 10), "b-0"]) == suite("a", 10)
    assert held(tmp_path) == suite("a", 10)


def test_threads_that_store_at_once_keep_to_the_size(tmp_path: Path) -> None:
    with a_run(tmp_path, 20) as run:
        keys = [suite(name, 15) for name in "abc"]
        threads = [threading.Thread(target=run.ask, args=(part,)) for part in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(held(tmp_path)) == 20
    assert run.problems == []


def test_times_are_no_part_of_it_and_entries_never_expire(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(["a"])
    assert query(tmp_path, "SELECT expire_time, filename, raw, mode, tag FROM Cache") == [(None, None, 1, 1, 1)]


def test_an_empty_or_unreadable_folder_is_counted_without_a_trace(tmp_path: Path) -> None:
    assert count(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cache.db").write_bytes(b"no database" * 500)
    assert count(tmp_path) is None
