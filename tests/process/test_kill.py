"""Processes that are killed at any moment: no event of a call that ended is lost, no file is torn, nobody stays behind.

Two rounds by default; ``LMSTUDIO_TESTS_KILL_ROUNDS=40`` makes it forty.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, echo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(170),
]
ROUNDS = range(int(os.environ.get("LMSTUDIO_TESTS_KILL_ROUNDS", "2")))
TESTS, MAPPED = 24, 6
CALLS = TESTS + MAPPED
# Each test writes down what it got, when it had it: that much the log and the cache must know too.
SUITE = f"""
    import os, pathlib, pytest

    def got(nodeid, replies):
        line = "".join(f"{{nodeid}} {{reply.text}}\\n" for reply in replies).encode()
        with pathlib.Path(__file__).with_name("got").open("ab", buffering=0) as file:
            assert file.write(line) == len(line)

    @pytest.mark.parametrize("n", range({TESTS}))
    def test_call(lm, n, request): got(request.node.nodeid, [lm(f"call {{n}}")])

    def test_map(lm, request): got(request.node.nodeid, lm.map([f"mapped {{n}}" for n in range({MAPPED})]))
"""


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(capacity=64) as server:
        server.default = echo(delay_s=0.03)
        yield server


def got(folder: Path) -> Counter[str]:
    """Return how many answers each test wrote down."""
    file = folder / "got"
    return Counter(line.split(" ")[0] for line in file.read_text("ascii").splitlines()) if file.exists() else Counter()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the only run; each line is whole, and so is the last."""
    (log,) = folder.glob(".lmstudio/runs/*/events.jsonl")
    text = log.read_text("ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def check_nothing_is_lost(folder: Path, server: StandIn) -> None:
    """Compare the log with what the tests had got by then, and with what the server answered."""
    answers = Counter(event["nodeid"] for event in log_of(folder) if event["event"] == "gen_success")
    assert got(folder) <= answers
    assert answers.total() <= sum(request.outcome == "answered" for request in server.requests)
    assert sum(event["event"] == "gen_request" for event in log_of(folder)) >= len(server.requests)


def check_the_next_run_is_whole(folder: Path, server: StandIn) -> None:
    """Run again in the same folder: all tests pass, and what was answered before is not asked again."""
    known = sum(event["event"] == "gen_success" for event in log_of(folder))
    for left in folder.glob("tmp/pytest-lmstudio-*"):
        os.utime(left, (time.time() - 600,) * 2)
    with Apart(folder, SUITE, server.url, "-n2", temporary=folder / "tmp") as run:
        again = run.wait()
        run.wait_until_gone()
    assert again.ret == 0, again.out
    assert again.report["tests"]["passed"] == TESTS + 1
    # An answer may be in the cache whose event was not written any more.
    assert again.report["cache"]["hits"] >= known
    assert again.report["calls"] | {"total": CALLS, "failed": 0} == again.report["calls"]
    assert again.report["notes"] == []
    assert again.report["cache"]["entries"] == CALLS
    assert list((folder / "tmp").glob("pytest-lmstudio-*")) == []


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize("who", ["worker", "controller"])
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, server: StandIn, who: str, number: int) -> None:
    dice = random.Random(f"{who} {number}")
    (tmp_path / "tmp").mkdir()
    with Apart(tmp_path, SUITE, server.url, "-n2", temporary=tmp_path / "tmp") as run:
        after = dice.randrange(1, CALLS)
        server.wait_for(lambda: len(server.requests) >= after, 60)
        time.sleep(dice.random() * 0.04)
        os.kill(dice.choice(run.pids("gw")) if who == "worker" else run.pid, signal.SIGKILL)
        ran = run.wait()
        run.wait_until_gone()
    check_nothing_is_lost(tmp_path, server)
    if who == "worker":
        report = ran.report
        assert report["exit_status"] == ran.ret, ran.out
        assert report["lost"]["damaged_lines"] == 0
        open_calls = report["lost"]["requests_without_outcome"]
        assert report["calls"]["total"] == report["calls"]["ok"] + report["calls"]["failed"] + report["calls"]["cached"]
        assert report["calls"]["failed"] >= open_calls
        assert report["attempts"]["ok"] == len(ran.named("gen_success"))
        assert report["attempts"]["total"] == len(ran.named("gen_request")) == report["attempts"]["ok"] + open_calls
        if ran.ret:  # else it died when its work was done
            assert report["lost"]["workers_crashed"] == 1
            assert ran.outcomes == {"passed": TESTS, "failed": 1}
    check_the_next_run_is_whole(tmp_path, server)


@contextmanager
def served(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve from a process of its own; yield it with its URL."""
    command = [sys.executable, "-m", "tests.standin", "--delay-ms=30", f"--port={port}"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[1]
        finally:
            process.kill()


@pytest.mark.parametrize("number", ROUNDS)
def test_a_server_that_is_killed_and_back_soon_costs_no_test(tmp_path: Path, number: int) -> None:
    dice = random.Random(f"server {number}")
    (tmp_path / "tmp").mkdir()
    patient = ("--lmstudio-retries=40", "--lmstudio-backoff=0.2", "--lmstudio-breaker=off")
    with served() as (server, url), Apart(tmp_path, SUITE, url, "-n2", *patient) as run:
        after = dice.randrange(1, CALLS)
        run.wait_until(lambda: sum(got(tmp_path).values()) >= after)
        server.kill()
        server.wait()
        time.sleep(dice.random())
        with served(int(url.rpartition(":")[2])):
            ran = run.wait()
            run.wait_until_gone()
    assert ran.ret == 0, ran.out
    assert ran.report["tests"]["passed"] == TESTS + 1
    assert ran.report["calls"] | {"ok": CALLS, "failed": 0} == ran.report["calls"]
    assert got(tmp_path).total() == CALLS
    assert ran.report["errors_by_kind"].keys() <= {"connect", "disconnect"}
