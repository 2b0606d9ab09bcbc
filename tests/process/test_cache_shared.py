"""Several processes, and several runs, over one cache: killed in mid-write, at once, none in the way of others."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.generation import Mark
from pytest_lmstudio.record.events import read_events
from tests.process.apart import Apart, wait_until
from tests.standin import StandIn
from tests.unit.engine.caches import a_run, query

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
#: Stores answers without end in a cache that is full, so that each store also evicts and rewrites; notes each key.
STORES = """
    import sys, time
    from pathlib import Path
    from pytest_lmstudio.engine.cache import AnswerCache

    folder, name, said = Path(sys.argv[1]), sys.argv[2], open(sys.argv[3], "w")
    while True:
        run = int(time.monotonic() * 20)  # by the clock: what a later run used stays, and neither may be far ahead
        cache = AnswerCache(folder, size=30, run=3 * run, on_problem=sys.exit)
        for number in range(40):
            key = f"{name}-{run}-{number}"
            if cache.put(key, {"answer": key, "text": "x" * 3000}).stored:
                print(key, file=said, flush=True)
            cache.get(f"{name}-{run - 1}-{number}")
        cache.close()
"""
#: Holds a mark of a run until it is killed.
MARKS = """
    import sys, time
    from pathlib import Path
    from pytest_lmstudio.engine.generation import Mark

    mark = Mark(Path(sys.argv[1]), int(sys.argv[2]))
    print("marked", flush=True)
    time.sleep(600)
"""


def python(source: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str]) -> list[str]:
    """Kill a process; return the whole lines that it still said."""
    process.kill()
    out, _ = process.communicate()
    return whole_lines(out)


def has_lines(path: Path, least: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= least


def whole_lines(text: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("seed", range(3))
def test_a_writer_that_is_killed_leaves_a_cache_that_counts_right(tmp_path: Path, seed: int) -> None:
    dice, stored, folder = random.Random(seed), set[str](), tmp_path / "cache"
    for killings in (2, 4, 6):
        # Into files: one whose pipe is full would stand still, and what its run used could not go for the other's.
        said = [tmp_path / f"{name}-{killings}" for name in ("a", "b")]
        writers = [python(STORES, folder, path.name[0], path) for path in said]
        for path in said:
            wait_until(partial(has_lines, path, dice.randrange(1, 60)))
        for writer in writers:
            killed(writer)
        stored |= {line.strip() for path in said for line in whole_lines(path.read_text("ascii"))}
        with a_run(folder, 30) as run:
            known = {entry["answer"] for entry in run.cache.entries()}
        assert run.problems == []  # its count was right, or it would have been set aside
        assert len(known) == 30
        assert {"a", "b"} >= {key[0] for key in known}
        assert len(known - stored) <= killings  # stored, and killed before it was said
        assert query(folder, "PRAGMA integrity_check") == [("ok",)]
        counted = query(folder, "SELECT value FROM Settings WHERE key = 'count'")
        assert counted == query(folder, "SELECT COUNT(*) FROM Cache")


def test_the_mark_of_a_killed_run_protects_nothing(tmp_path: Path) -> None:
    process = python(MARKS, tmp_path, 3)
    assert process.stdout is not None
    assert process.stdout.readline() == "marked\n"
    mine = Mark(tmp_path, 20)
    assert mine.oldest_run() == 3
    killed(process)
    assert mine.oldest_run() == 20
    mine.remove()


def test_a_run_over_a_cache_that_another_process_locks_goes_on_without_it(tmp_path: Path) -> None:
    """It waits for the lock once, not once a worker."""
    with StandIn() as server:
        with Apart(tmp_path, "def test_it(lm): lm('hi')", server.url, "-n0") as first:
            assert first.wait().ret == 0
        lock = python(
            """
            import sqlite3, sys, time
            db = sqlite3.connect(sys.argv[1], isolation_level=None)
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            print("locked", flush=True)
            time.sleep(600)
            """,
            tmp_path / ".lmstudio" / "cache" / "cache.db",
        )
        assert lock.stdout is not None
        assert lock.stdout.readline() == "locked\n"
        source = "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(lm, n): lm(f'{n}')"
        with Apart(tmp_path, source, server.url, "-n4") as second:
            ran = second.wait()
        killed(lock)
    assert (ran.ret, ran.summary) == (0, "8 passed")
    why = "cannot be opened, and nothing is cached: OperationalError: database is locked"
    (note,) = ran.report["notes"]
    assert note.startswith(f"the cache in {tmp_path / '.lmstudio' / 'cache'} {why}; if that is a network file system, ")
    assert [path.name for path in (tmp_path / ".lmstudio" / "cache").glob("damaged*")] == []


TWO_RUNS = """
    import pathlib, time
    import pytest

    @pytest.mark.parametrize("n", range(10))
    def test_it(lm, n):
        if n == 5:
            pathlib.Path("{me}").touch()
            until = time.monotonic() + 60
            while not pathlib.Path("{other}").exists():
                assert time.monotonic() < until
                time.sleep(0.01)
        assert lm(f"prompt {{n}}").text == f"echo: prompt {{n}}"
"""


@pytest.mark.parametrize("way", ["-n0", "-n2"])
def test_two_runs_at_once_in_one_folder_do_not_mix(tmp_path: Path, way: str) -> None:
    runs = tmp_path / ".lmstudio" / "runs"
    for n in range(25):
        old = runs / f"20250101-0000{n:02}-aaaaaaaa"
        old.mkdir(parents=True)
        for name in ("events.jsonl", "report.json"):
            (old / name).write_text("", encoding="ascii")
    with StandIn() as server:
        one = Apart(tmp_path, TWO_RUNS.format(me="one", other="two"), server.url, way, "--lmstudio-report=one.json")
        until_s = time.monotonic() + 60
        while not (tmp_path / "one").exists():
            assert time.monotonic() < until_s
            time.sleep(0.01)
        other = Apart(tmp_path, TWO_RUNS.format(me="two", other="one"), server.url, way, "--lmstudio-report=two.json")
        with one, other:
            ended = [one.wait(), other.wait()]
    assert [(ran.ret, ran.summary) for ran in ended] == [(0, "10 passed")] * 2
    reports = [json.loads((tmp_path / name).read_text("utf-8")) for name in ("one.json", "two.json")]
    ids = [report["run_id"] for report in reports]
    assert len(set(ids)) == 2
    asked = 0
    for report in reports:
        calls = report["calls"]
        assert (calls["total"], calls["ok"] + calls["cached"] + calls["coalesced"], calls["failed"]) == (10, 10, 0)
        asked += calls["sent"]
        log = read_events(runs / report["run_id"] / "events.jsonl")
        assert {event["run_id"] for event in log.events} == {report["run_id"]}
        assert [event["event"] for event in log.events].count("run_start") == 1
        assert (log.damaged_lines, report["notes"]) == (0, [])
        assert json.loads((runs / report["run_id"] / "report.json").read_text("utf-8")) == report
    assert len(server.requests) == asked
    assert (runs / "latest").read_text("utf-8").strip() in ids
    assert len(list(runs.iterdir())) == 20 + 1
    with a_run(tmp_path / ".lmstudio" / "cache", 500) as run:
        assert len(list(run.cache.entries())) == 10
    assert run.problems == []


def test_answers_are_found_by_processes_that_opened_the_cache_before_they_came(tmp_path: Path) -> None:
    early = AnswerCache(tmp_path, size=9, run=1, on_problem=pytest.fail)
    late = AnswerCache(tmp_path, size=9, run=2, on_problem=pytest.fail)
    late.put("a", {"answer": 1})
    assert early.get("a") == {"answer": 1}
    early.close()
    late.close()
