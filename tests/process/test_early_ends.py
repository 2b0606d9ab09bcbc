"""Other ways to end a run before its last test: `pytest.exit`, ``-x``, and pytest-timeout, which may just leave."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, hang, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="looks for processes as POSIX shows them"),
    pytest.mark.timeout(120),
]
ONE_CALL = "--lmstudio-concurrency=1"


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(capacity=64) as server:
        server.when(lambda r: r.text.startswith("slow"), reply("slow answer", delay_s=2))
        server.when(lambda r: r.text.startswith("hang"), hang())
        yield server


@pytest.mark.parametrize(("asked", "status"), [("", 2), (", returncode=7", 7)])
def test_pytest_exit_lets_calls_in_flight_end(tmp_path: Path, server: StandIn, asked: str, status: int) -> None:
    source = f"""
        import pathlib, threading, time, pytest
        def test_exits(lm):
            threading.Thread(target=lambda: lm("slow"), daemon=True).start()
            while not pathlib.Path(__file__).with_name("arrived").exists(): time.sleep(0.01)
            lm("quick")
            pytest.exit("enough"{asked})
        def test_never(lm): lm("never")
    """
    with Apart(tmp_path, source, server.url, "-n0") as run:
        server.wait_for(lambda: server.in_flight == 1, 30)
        (tmp_path / "arrived").touch()
        ran = run.wait()
    assert ran.ret == ran.report["exit_status"] == status, ran.out
    assert sorted(request.text for request in server.requests) == ["quick", "slow"]
    assert ran.report["calls"] | {"ok": 2, "failed": 0} == ran.report["calls"]
    assert ran.report["gate"]["failed"] is None


def test_pytest_exit_in_a_worker_ends_the_run_and_lets_calls_in_flight_end(tmp_path: Path, server: StandIn) -> None:
    source = """
        import pathlib, time, pytest
        def test_exits(lm):
            lm("hello")
            while not pathlib.Path(__file__).with_name("arrived").exists(): time.sleep(0.01)
            pytest.exit("enough")
        def test_never(lm): lm("never")
        def test_slow(lm): lm.map(["slow 1", "slow 2"])
        def test_not_either(lm): lm("not either")
    """
    with Apart(tmp_path, source, server.url, "-n2") as run:
        server.wait_for(lambda: sum(r.text.startswith("slow") for r in server.requests) == 2, 30)
        (tmp_path / "arrived").touch()
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == ran.report["exit_status"] == 2, ran.out
    assert sorted(request.text for request in server.requests) == ["hello", "slow 1", "slow 2"]
    assert ran.report["calls"] | {"ok": 3, "failed": 0} == ran.report["calls"]
    assert ran.report["gate"]["failed"] is None
    assert ran.report["lost"] == {"requests_without_outcome": 0, "workers_crashed": 0, "damaged_lines": 0}


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_a_failure_that_ends_the_run_costs_no_call_of_another_worker(
    tmp_path: Path, server: StandIn, option: str
) -> None:
    source = """
        import pathlib, time
        def test_fails(lm):
            while not pathlib.Path(__file__).with_name("arrived").exists(): time.sleep(0.01)
            assert "fine" in lm("fails")
        def test_slow(lm): assert [r.text for r in lm.map(["slow 1", "slow 2"])] == ["slow answer"] * 2
    """
    with Apart(tmp_path, source, server.url, "-n2", option) as run:
        server.wait_for(lambda: sum(r.text.startswith("slow") for r in server.requests) == 2, 30)
        (tmp_path / "arrived").touch()
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == 2, ran.out  # pytest's own status for -x among workers
    assert ran.report["calls"] | {"ok": 3, "failed": 0, "abandoned": 0} == ran.report["calls"]
    assert ran.report["gate"]["failed"] is False
    assert ran.outcomes == {"passed": 1, "failed": 1}


TIMED = """
    import pytest
    def test_first(lm): lm("first")
    @pytest.mark.timeout(6, method="{method}")
    def test_hangs(lm): {hangs}
    def test_next(lm): assert "echo" in lm("next")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="pytest-timeout's other method needs an alarm")
@pytest.mark.parametrize("hangs", ["lm('hang')", "lm.map(['hang 1', 'hang 2'])", "list(lm.stream('hang'))"])
def test_a_test_that_took_too_long_gives_its_slot_back(tmp_path: Path, server: StandIn, hangs: str) -> None:
    pytest.importorskip("pytest_timeout")
    source = TIMED.format(method="signal", hangs=hangs)
    with Apart(tmp_path, source, server.url, "-n0", ONE_CALL, plugins=["timeout"]) as run:
        ran = run.wait()
    assert ran.ret == 1, ran.out
    assert ran.outcomes == {"passed": 2, "failed": 1}
    assert ran.report["calls"]["ok"] == 2
    assert ran.report["calls"]["abandoned"] == ran.report["calls"]["total"] - 2
    assert [request.text for request in server.requests][-1] == "next"
    assert len(server.requests) == 3


@pytest.mark.parametrize("way", ["-n0", "-n2"])
def test_what_was_recorded_stays_when_a_test_that_took_too_long_ends_its_process(
    tmp_path: Path, server: StandIn, way: str
) -> None:
    pytest.importorskip("pytest_timeout")
    source = TIMED.format(method="thread", hangs="lm('hang')")
    with Apart(tmp_path, source, server.url, way, plugins=["timeout"]) as run:
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == 1, ran.out
    answered = 1 if way == "-n0" else 2
    assert [len(ran.named("gen_request")), len(ran.named("gen_success"))] == [answered + 1, answered]
    if way == "-n2":  # the process that reports is another one
        assert ran.report["lost"] == {"requests_without_outcome": 1, "workers_crashed": 1, "damaged_lines": 0}
        assert ran.outcomes == {"passed": 2, "failed": 1}
        assert ran.report["errors_by_kind"] == {"cancelled": 1}
    with Apart(tmp_path, TIMED.format(method="thread", hangs="lm('quick')"), server.url, way) as run:
        again = run.wait()
        run.wait_until_gone()
    assert again.ret == 0, again.out
    assert again.report["calls"] | {"total": 3, "cached": answered, "ok": 3 - answered} == again.report["calls"]
