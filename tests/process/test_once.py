"""What a run does once, over real processes: work, identical requests, and a cache that all of them fill."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.vetting import count
from tests.process.workers import end_of, line, started

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import Popen

pytestmark = pytest.mark.timeout(60)


def go_on(process: Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_one_of_four_processes_makes_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(started("make_once", tmp_path, "end")) for _ in range(4)]
        lines = [end_of(process) for process in processes]
    made = {one[-1] for one in lines}
    assert len(made) == 1
    assert json.loads(made.pop())["by"] in {process.pid for process in processes}
    assert sorted(len(one) for one in lines) == [1, 1, 1, 2]
    assert (tmp_path / "log").read_text(encoding="ascii") == "made\n"


def test_when_the_maker_is_killed_the_next_one_makes_it(tmp_path: Path) -> None:
    with started("make_once", tmp_path, "hang") as maker:
        assert line(maker) == "making"
        with started("make_once", tmp_path, "end") as second:
            maker.kill()
            assert end_of(second) == ["making", json.dumps({"by": second.pid})]
    assert (tmp_path / "log").read_text(encoding="ascii") == "made\nmade\n"


def test_a_follower_in_another_process_gets_the_answer(tmp_path: Path) -> None:
    with started("take_turn", tmp_path, "answer") as leader:
        assert [line(leader), line(leader)] == ["asks", "leads"]
        with started("take_turn", tmp_path, "answer") as follower:
            assert line(follower) == "asks"
            time.sleep(0.1)  # a follower that looked up too late would lead, and the end of this test would tell
            go_on(leader)
            assert end_of(leader) == []
            assert end_of(follower) == [f"follows {leader.pid}"]


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_when_the_leader_is_killed_or_fails_a_follower_leads(tmp_path: Path, how: str) -> None:
    with started("take_turn", tmp_path, "fail") as leader:
        assert [line(leader), line(leader)] == ["asks", "leads"]
        with started("take_turn", tmp_path, "answer") as follower:
            assert line(follower) == "asks"
            if how == "killed":
                leader.kill()
            else:
                go_on(leader)
            assert line(follower) == "leads"
            go_on(follower)
            assert end_of(follower) == []


def test_processes_that_store_at_once_never_exceed_the_size(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(started("store", tmp_path, 50, 9, name)) for name in "abc"]
        assert [line(process) for process in processes] == ["ready"] * 3
        for process in processes:
            go_on(process)
        assert [end_of(process) for process in processes] == [[]] * 3
    assert count(tmp_path) == 50


def test_old_entries_go_while_processes_store_at_once(tmp_path: Path) -> None:
    for run, names in ((1, "o"), (9, "ab")):
        with ExitStack() as stack:
            processes = [stack.enter_context(started("store", tmp_path, 80, run, name)) for name in names]
            assert [line(process) for process in processes] == ["ready"] * len(names)
            for process in processes:
                go_on(process)
            assert [end_of(process) for process in processes] == [[]] * len(names)
    assert count(tmp_path) == 80


def test_a_name_that_is_looked_up_for_ever_delays_neither_the_deadline_nor_the_end() -> None:
    with started("look_up", "http://lmstudio.example:1234") as process:
        assert end_of(process) == ["timeout connecting", "True"]
