"""A worker that is killed while others wait for its answer: one of them asks again, and nobody waits for ever."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, echo, hang

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(150),
]
SUITE = """
    import os, pathlib, signal, threading, time
    import pytest

    def wait_for(*names):
        while not all(pathlib.Path(name).exists() for name in names): time.sleep(0.01)

    @pytest.mark.parametrize("n", range(3))
    def test_it(lm, n):
        if n == 0:
            threading.Thread(target=lambda: lm("same"), daemon=True).start()
            wait_for("arrived", "asks-1", "asks-2")
            time.sleep(0.3)  # most likely they wait by now; whether they do or not, nothing may be lost
            os.kill(os.getpid(), signal.SIGKILL)
        wait_for("arrived")
        pathlib.Path(f"asks-{n}").touch()
        assert lm("same", timeout=30).text == "echo: same"
"""


def test_when_the_leader_is_killed_one_of_those_who_wait_leads(tmp_path: Path) -> None:
    with StandIn() as server:
        server.script(hang())
        server.default = echo(delay_s=0.3)
        args = ("-n3", "--lmstudio-concurrency=1", "--lmstudio-max-error-rate=50%")
        with Apart(tmp_path, SUITE, server.url, *args) as run:
            server.wait_for(lambda: server.requests, 60)
            (tmp_path / "arrived").touch()
            ran = run.wait()
            run.wait_until_gone()
        assert [(request.text, request.outcome) for request in server.requests] == [
            ("same", "aborted"),
            ("same", "answered"),
        ]
    report = ran.report
    assert report["tests"] | {"passed": 2, "failed": 1} == report["tests"]
    assert report["lost"] | {"requests_without_outcome": 1, "workers_crashed": 1} == report["lost"]
    answered = report["calls"]["coalesced"] + report["calls"]["cached"]  # cached, should it have asked late
    assert report["calls"] | {"total": 3, "sent": 2, "ok": 1, "failed": 1} == report["calls"]
    assert answered == 1
    assert report["errors_by_kind"] == {"cancelled": 1}
