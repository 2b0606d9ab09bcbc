"""Connections of threads to the cache: each closes its own, since nobody else can."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.generation import next_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENTRY = {"answer": {"text": "Paris"}}


def in_a_thread(work: Callable[[], object]) -> None:
    """Do something in a thread, and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def opened(folder: Path) -> AnswerCache:
    """Return a cache that may not meet any problem."""

    def refuse(problem: str) -> None:
        raise AssertionError(problem)

    return AnswerCache(folder, size=10, run=next_run(folder), on_problem=refuse)


def test_no_thread_of_a_test_leaves_a_connection_behind(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    got: list[object] = []

    with warnings.catch_warnings(record=True, action="always") as caught:
        in_a_thread(lambda: cache.put("a", ENTRY))
        in_a_thread(lambda: got.append(cache.get("a")))
        gc.collect()
        cache.close()

    assert got == [ENTRY]
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_thread_may_open_the_cache_and_end(tmp_path: Path) -> None:
    caches: list[AnswerCache] = []

    with warnings.catch_warnings(record=True, action="always") as caught:
        in_a_thread(lambda: caches.append(opened(tmp_path)))
        gc.collect()
        caches[0].put("a", ENTRY)
        found = caches[0].get("a")
        caches[0].close()

    assert found == ENTRY
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_thread_that_keeps_its_connection_uses_it_again_until_it_lets_go(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    connections: list[object] = []

    def work() -> None:
        cache.keep()
        for _ in range(2):
            cache.get("a")
            connections.append(cache._db._con)
        cache.release()
        cache.get("a")
        connections.append(cache._db._con)
        cache.release()

    in_a_thread(work)
    cache.close()

    assert connections[0] is connections[1]
    assert connections[2] is not connections[0]
