"""A run that is interrupted: nothing more is sent, what is in flight may end, the report is written, nobody stays."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import Apart
from tests.standin import StandIn, hang, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX"),
    pytest.mark.timeout(120),
]
SLOW_S = 1.5
# Two workers get two tests each, in this order.
MANY = """
    def test_many(lm): lm.map([f"slow {n}" for n in range(9)])
    def test_never(lm): lm("never")
    def test_more(lm): lm.map([f"hang {n}" for n in range(9)])
    def test_not_either(lm): lm("not either")
"""
ALONE, WORKERS = ("-n0", "-k", "many or never or either"), ("-n2",)
ALL, FIRST = True, False


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(capacity=64) as server:
        server.when(lambda r: r.text.startswith("slow"), reply("slow answer", delay_s=SLOW_S))
        server.when(lambda r: r.text.startswith("hang"), hang())
        yield server


@pytest.mark.parametrize(
    ("way", "number", "group"),
    [
        pytest.param(ALONE, signal.SIGINT, ALL, id="n0-ctrl-c"),
        pytest.param(WORKERS, signal.SIGINT, ALL, id="n2-ctrl-c"),
        pytest.param(WORKERS, signal.SIGINT, FIRST, id="n2-sigint-to-the-controller"),
        pytest.param(ALONE, signal.SIGTERM, FIRST, id="n0-sigterm"),
        pytest.param(WORKERS, signal.SIGTERM, FIRST, id="n2-sigterm-to-the-controller"),
    ],
)
def test_an_interrupted_run_sends_nothing_more_and_reports(
    tmp_path: Path, server: StandIn, way: tuple[str, ...], number: int, group: bool
) -> None:
    """Four slots are taken by slow calls, or by slow ones and by ones that hang, in whichever shares."""
    with Apart(tmp_path, MANY, server.url, "--lmstudio-concurrency=4", *way) as run:
        server.wait_for(lambda: server.in_flight == 4, 30)
        run.signal(number, group=group)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == 2, ran.out
    sent = Counter(request.text.partition(" ")[0] for request in server.requests)
    assert sent.total() == 4
    report = ran.report
    assert report["exit_status"] == 2
    assert report["gate"] == {"max_error_rate": 0.05, "failed": None, "reason": "the run was interrupted"}
    assert report["attempts"]["total"] == 4
    assert report["attempts"]["ok"] == report["cache"]["entries"] == sent["slow"]
    assert report["attempts"]["failed"] == report["attempts"]["disconnects"] == sent["hang"]
    assert report["calls"]["ok"] == sent["slow"]
    assert report["calls"]["failed"] == report["errors_by_kind"].get("cancelled", 0)
    assert report["calls"]["abandoned"] == 0
    assert "gate not judged: the run was interrupted" in ran.section
    nodeids = {event["nodeid"] for event in ran.events if "nodeid" in event}
    assert nodeids <= {"test_suite.py::test_many", "test_suite.py::test_more"}


def test_calls_that_wait_for_their_turn_are_not_waited_for(tmp_path: Path) -> None:
    source = """
        def test_backs_off(lm): lm("again", retries=5, backoff=60)
    """
    with StandIn() as server:
        server.when(lambda r: True, reply("", finish_reason="stop"))
        with Apart(tmp_path, source, server.url, "-n0") as run:
            server.wait_for(lambda: any(r.outcome for r in server.requests), 30)
            run.signal(signal.SIGINT)
            ran = run.wait()
    assert ran.ret == 2
    assert ran.report["calls"]["failed"] == 1
    assert ran.report["errors_by_kind"] == {"invalid_response": 1, "cancelled": 1}
    (last,) = [event for event in ran.named("gen_error") if event["error_kind"] == "cancelled"]
    assert last["attempt"] == 0


@pytest.mark.parametrize("way", [("-n0", "-k", "more"), ("-n2",)], ids=["n0", "n2"])
def test_a_second_interrupt_stops_at_once(tmp_path: Path, server: StandIn, way: tuple[str, ...]) -> None:
    def ended_what_waited() -> bool:
        return any('"cancelled"' in log.read_text("utf-8") for log in tmp_path.glob(".lmstudio/runs/*/events.jsonl"))

    with Apart(tmp_path, MANY.replace("slow", "hang"), server.url, "--lmstudio-concurrency=4", *way) as run:
        server.wait_for(lambda: server.in_flight == 4, 30)
        run.signal(signal.SIGINT)
        server.wait_for(ended_what_waited, 10)
        assert server.in_flight == 4
        run.signal(signal.SIGINT)
        server.wait_for(lambda: server.in_flight == 0, 2.5)  # the first interrupt alone would give them 5 s
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret in {2, -signal.SIGINT}
    assert len(server.requests) == 4


def test_sigterm_kills_a_run_without_calls_as_ever(tmp_path: Path, server: StandIn) -> None:
    source = """
        import os, signal
        def test_it(): os.kill(os.getpid(), signal.SIGTERM)
    """
    with Apart(tmp_path, source, server.url, "-n0") as run:
        ran = run.wait()
    assert ran.ret == -signal.SIGTERM
    assert not ran.home.exists()


def test_a_handler_of_the_suite_stays_in_place(tmp_path: Path, server: StandIn) -> None:
    source = """
        import os, signal
        heard = []
        signal.signal(signal.SIGTERM, lambda *_: heard.append("mine"))
        def test_it(lm):
            lm("hello")
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == ["mine"]
    """
    with Apart(tmp_path, source, server.url, "-n0") as run:
        ran = run.wait()
    assert ran.ret == 0
