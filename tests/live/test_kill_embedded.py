"""The real server killed in mid-generation, or the run around it: the report says why, and nobody stays behind."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart, processes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("model"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX"),
]
ROUNDS = range(int(os.environ.get("LMSTUDIO_TESTS_KILL_ROUNDS", "1")))
LONG = """
    import pytest

    @pytest.mark.parametrize("n", range(6))
    def test_long(lm, n):
        assert lm(f"Tell me story {n}.", max_tokens=400, extra_body={"ignore_eos": True}, temperature=0)
"""
SHORT = LONG.replace("400", "4")
BRISK = ("--lmstudio-retries=1", "--lmstudio-breaker=2:0.2", "--lmstudio-concurrency=2")


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize("who", ["server", "controller"])
def test_a_kill_in_mid_generation(tmp_path: Path, who: str, number: int) -> None:
    dice = random.Random(f"embedded {who} {number}")
    with Apart(tmp_path, LONG, "embedded", "-n2", *BRISK) as run:
        run.wait_until(lambda: asked(tmp_path))
        time.sleep(dice.random())
        (server,) = run.servers()
        os.kill(server if who == "server" else run.pid, signal.SIGKILL)
        ran = run.wait()
        run.wait_until_gone()
    assert server not in {process.pid for process in processes()}
    (log,) = tmp_path.glob(".lmstudio/runs/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text("ascii").splitlines()]
    assert events[0]["event"] == "run_start"
    if who == "server":
        assert ran.ret == ran.report["exit_status"] == 1, ran.out
        assert ran.report["diagnosis"][0]["symptom"] == "the run's own server died", ran.out
        assert ran.report["tests"]["lm_error"] == ran.report["calls"]["failed"] > 0
        assert ran.report["lost"]["requests_without_outcome"] == 0
    with Apart(tmp_path, SHORT, "embedded", "-n2", *BRISK) as run:
        again = run.wait()
        run.wait_until_gone()
    assert again.ret == 0, again.out
    assert again.report["tests"]["passed"] == 6


def asked(folder: Path) -> bool:
    """Tell whether a request of the run is in flight."""
    return any('"gen_request"' in log.read_text("ascii") for log in folder.glob(".lmstudio/runs/*/events.jsonl"))


@pytest.mark.parametrize(("way", "number"), [("-n0", signal.SIGINT), ("-n2", signal.SIGTERM)])
def test_an_interrupt_leaves_the_server_to_the_calls_in_flight(
    tmp_path: Path, way: str, number: signal.Signals
) -> None:
    source = LONG.replace("400", "40")
    with Apart(tmp_path, source, "embedded", way, *BRISK) as run:
        run.wait_until(lambda: asked(tmp_path))
        run.signal(number)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == ran.report["exit_status"] == 2, ran.out
    assert set(ran.report["errors_by_kind"]) <= {"cancelled"}
    assert ran.report["attempts"]["ok"] == ran.report["cache"]["entries"]
    assert ran.report["gate"]["failed"] is None
