"""A worker that is killed in mid-call: its slot is free, its calls count as lost, everyone else's results are whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, hang, html_500, reply

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120),
]
SUITE = """
    import os, pathlib, signal, threading, time
    import pytest

    def test_dies(lm):
        threading.Thread(target=lambda: lm("hang"), daemon=True).start()
        while not pathlib.Path("arrived").exists(): time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    @pytest.mark.parametrize("n", range(8))
    def test_other(lm, n): assert lm(f"other {n}") == f"echo: other {n}" or True
"""


def test_a_killed_worker_costs_its_own_test_alone(tmp_path: Path) -> None:
    with StandIn() as server:
        server.when(lambda r: r.text == "hang", hang())
        # One slot: were it lost with its holder, no other test could ever be answered.
        with Apart(
            tmp_path, SUITE, server.url, "-n2", "--lmstudio-concurrency=1", "--lmstudio-max-error-rate=20%"
        ) as run:
            server.wait_for(lambda: any(r.text == "hang" for r in server.requests), 30)
            (tmp_path / "arrived").touch()
            ran = run.wait()
            run.wait_until_gone()
        sent = sorted(request.text for request in server.requests)
    assert sent == sorted(["hang", *(f"other {n}" for n in range(8))])
    report = ran.report
    assert ran.ret == report["exit_status"] == 1
    assert report["tests"] | {"passed": 8, "failed": 1} == report["tests"]
    assert report["lost"] == {"requests_without_outcome": 1, "workers_crashed": 1, "damaged_lines": 0}
    assert report["calls"] == {
        "total": 9, "sent": 9, "ok": 8, "failed": 1, "cached": 0, "coalesced": 0, "abandoned": 0,
    }  # fmt: skip
    assert report["attempts"] | {"total": 9, "ok": 8, "failed": 1, "disconnects": 1} == report["attempts"]
    assert report["errors_by_kind"] == {"cancelled": 1}
    assert report["gate"]["failed"] is False
    assert report["concurrency"]["peak_in_flight"] == 1
    assert report["cache"]["entries"] == 8
    assert "1 request without outcome, 1 worker crashed" in "\n".join(ran.section)


def test_the_worker_that_replaces_a_killed_one_goes_on_where_it_was(tmp_path: Path) -> None:
    """The failures of both are in a row for the breaker, and each books under its own name."""
    source = """
        import os, signal
        def test_lost(lm): lm("broken")
        def test_dies(lm): os.kill(os.getpid(), signal.SIGKILL)
        def test_lost_too(lm): lm("broken again")
    """
    quick = ("--lmstudio-retries=0", "--lmstudio-breaker=2:0.2", "--lmstudio-max-error-rate=100%")
    with StandIn() as server:
        server.when(lambda r: r.text.startswith("broken"), html_500())
        with Apart(tmp_path, source, server.url, "-n1", *quick) as run:
            ran = run.wait()
            run.wait_until_gone()
    assert ran.outcomes == {"failed": 1, "lm_error": 2}
    assert [event["worker"] for event in ran.named("gen_request")] == ["gw0", "gw1"]
    assert [(event["worker"], event["failures"]) for event in ran.named("breaker_open")] == [("gw1", 2)]
    assert len(ran.named("preflight")) == len(ran.named("run_start")) == 1
    assert ran.report["lost"] == {"requests_without_outcome": 0, "workers_crashed": 1, "damaged_lines": 0}
    assert ran.report["breaker"]["trips"] == 1


def test_who_waits_for_the_answer_of_a_killed_worker_asks_itself(tmp_path: Path) -> None:
    source = """
        import os, pathlib, signal, threading, time
        here = pathlib.Path(__file__).parent
        def wait_for(name):
            while not (here / name).exists(): time.sleep(0.01)
        def test_leads(lm):
            threading.Thread(target=lambda: lm("same"), daemon=True).start()
            wait_for("follows")
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        def test_follows(lm):
            wait_for("leads")
            (here / "follows").touch()
            assert lm("same").text == "whole"
    """
    with StandIn() as server:
        server.script(hang(), reply("whole"))
        with Apart(tmp_path, source, server.url, "-n2", "--lmstudio-max-error-rate=100%") as run:
            server.wait_for(lambda: server.in_flight == 1, 30)
            (tmp_path / "leads").touch()
            ran = run.wait()
            run.wait_until_gone()
        assert server.peak_in_flight <= 2
    assert ran.outcomes == {"passed": 1, "failed": 1}
    assert [event["worker"] for event in ran.named("gen_request")] in (["gw0", "gw1"], ["gw1", "gw0"])
    assert ran.report["lost"] == {"requests_without_outcome": 1, "workers_crashed": 1, "damaged_lines": 0}
    assert ran.report["calls"] | {"total": 2, "ok": 1, "failed": 1, "coalesced": 0} == ran.report["calls"]
