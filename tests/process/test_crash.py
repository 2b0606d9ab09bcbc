"""A worker that is killed in mid-call: its slot is free, its calls count as lost, everyone else's results are whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, hang

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
