"""A run that is interrupted: nothing more is sent, what is in flight may end, the report is written, nobody stays."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import PATIENT, Apart
from tests.standin import StandIn, hang, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX"),
    pytest.mark.timeout(120),
]
SLOW_S = 1.5
HANG_UP = getattr(signal, "SIGHUP", signal.SIGTERM)
HEARD = pytest.mark.skipif(
    signal.getsignal(HANG_UP) is signal.SIG_IGN, reason="started with nohup, as is then all that is started below"
)
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
        pytest.param(("--dist=no", *ALONE[1:]), signal.SIGINT, ALL, id="dist-no-ctrl-c"),
        pytest.param(("-p", "no:xdist", *ALONE[1:]), signal.SIGTERM, ALL, id="no-xdist-sigterm"),
        pytest.param(ALONE, signal.SIGTERM, ALL, id="n0-sigterm"),
        pytest.param(ALONE, HANG_UP, ALL, id="n0-closed-terminal", marks=HEARD),
        pytest.param(WORKERS, signal.SIGINT, ALL, id="n2-ctrl-c"),
        pytest.param((*WORKERS, "-x"), signal.SIGINT, ALL, id="n2-x-ctrl-c"),
        pytest.param(WORKERS, signal.SIGINT, FIRST, id="n2-sigint-to-the-controller"),
        pytest.param(WORKERS, signal.SIGTERM, FIRST, id="n2-sigterm-to-the-controller"),
        pytest.param(WORKERS, signal.SIGTERM, ALL, id="n2-sigterm"),
        pytest.param(WORKERS, HANG_UP, ALL, id="n2-closed-terminal", marks=HEARD),
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


@pytest.mark.parametrize(
    ("way", "number", "group"),
    [
        pytest.param(("-n0", "-k", "more"), signal.SIGINT, ALL, id="n0-ctrl-c"),
        pytest.param(("-n0", "-k", "more"), signal.SIGTERM, FIRST, id="n0-sigterm"),
        pytest.param(WORKERS, signal.SIGINT, ALL, id="n2-ctrl-c"),
        pytest.param(WORKERS, signal.SIGTERM, FIRST, id="n2-sigterm-to-the-controller"),
        pytest.param(WORKERS, signal.SIGTERM, ALL, id="n2-sigterm"),
    ],
)
def test_a_second_interrupt_stops_at_once_and_still_reports(
    tmp_path: Path, server: StandIn, way: tuple[str, ...], number: int, group: bool
) -> None:
    source, shown = PATIENT + dedent(MANY).replace("slow", "hang"), tmp_path / "shown"
    with (
        shown.open("wb") as out,
        Apart(tmp_path, source, server.url, "--lmstudio-concurrency=4", *way, out=out.fileno()) as run,
    ):
        server.wait_for(lambda: server.in_flight == 4, 30)
        run.signal(number, group=group)
        run.wait_until(lambda: "LM Studio: interrupted" in shown.read_text("utf-8"))
        time.sleep(0.2)  # a stop signal that comes again at once is the same one
        assert server.in_flight == 4
        run.signal(number, group=group)
        server.wait_for(lambda: server.in_flight == 0, 30)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret in {2, -signal.SIGINT}, shown.read_text(
        "utf-8"
    )  # the latter where pytest took seconds to show the first interrupt
    assert ran.report["exit_status"] == 2
    assert ran.report["errors_by_kind"].keys() == {"cancelled"}
    assert ran.report["lost"]["workers_crashed"] == 0
    assert len(server.requests) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", [("-n0", "-k", "more"), WORKERS], ids=["n0", "n2"])
def test_an_interrupt_says_what_is_waited_for_while_that_can_be_ended(
    tmp_path: Path, server: StandIn, way: tuple[str, ...], number: int
) -> None:
    source, shown = PATIENT + dedent(MANY).replace("slow", "hang"), tmp_path / "shown"
    told = "\nLM Studio: interrupted, 4 calls in flight have 5 s to end; Ctrl-C ends them now\n"
    with (
        shown.open("wb") as out,
        Apart(tmp_path, source, server.url, "--lmstudio-concurrency=4", *way, out=out.fileno()) as run,
    ):
        server.wait_for(lambda: server.in_flight == 4, 30)
        run.signal(number)
        run.wait_until(lambda: "interrupted" in shown.read_text("utf-8"))
        assert told in shown.read_text("utf-8")
        assert server.in_flight == 4
        time.sleep(0.2)  # a stop signal that comes again at once is the same one
        run.signal(number)
        run.wait()
        run.wait_until_gone()
    assert shown.read_text("utf-8").count("LM Studio: interrupted") == 1


@pytest.mark.parametrize("way", [("-n0",), WORKERS], ids=["n0", "n2"])
def test_an_interrupt_that_waits_for_nothing_says_nothing(
    tmp_path: Path, server: StandIn, way: tuple[str, ...]
) -> None:
    source = """
        import time
        def test_asks(lm): lm("hello")
        def test_sleeps(lm):
            lm("there")
            time.sleep(60)
    """
    with Apart(tmp_path, source, server.url, *way) as run:
        run.wait_until(lambda: sum(map(answered, tmp_path.glob(".lmstudio/runs/*/events.jsonl"))) == 2)
        run.signal(signal.SIGINT)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == 2
    assert "gate not judged: the run was interrupted" in ran.section
    assert "LM Studio: interrupted" not in ran.out


def answered(log: Path) -> int:
    """Return how many calls a log has answers of."""
    return log.read_text("utf-8").count('"gen_success"')


@pytest.mark.parametrize("way", [("-n0", "-k", "more"), ("-n2",)], ids=["n0", "n2"])
def test_ctrl_c_again_and_again_ends_the_run(tmp_path: Path, server: StandIn, way: tuple[str, ...]) -> None:
    with Apart(tmp_path, MANY, server.url, *way) as run:
        server.wait_for(lambda: server.in_flight == 4, 30)
        for _ in range(20):
            with suppress(ProcessLookupError):
                run.signal(signal.SIGINT)
            time.sleep(0.02)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret in {2, -signal.SIGINT}


def test_a_stop_signal_that_comes_twice_at_once_is_one(tmp_path: Path, server: StandIn) -> None:
    """As `timeout` sends it: to its command, and to the group, which the command is in."""
    source = PATIENT + dedent(MANY).replace("hang", "slow more")
    with Apart(tmp_path, source, server.url, "--lmstudio-concurrency=4", *WORKERS) as run:
        server.wait_for(lambda: server.in_flight == 4, 30)
        run.signal(signal.SIGTERM, group=False)
        run.signal(signal.SIGTERM)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == 2
    assert ran.report["calls"]["ok"] == len(server.requests) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_one_worker_is_one_of_the_run(tmp_path: Path, server: StandIn, number: int) -> None:
    with Apart(tmp_path, MANY, server.url, "--lmstudio-concurrency=4", *WORKERS) as run:
        server.wait_for(lambda: server.in_flight == 4, 30)
        os.kill(run.pids("gw0")[0], number)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == ran.report["exit_status"] == 2, ran.out
    assert len(server.requests) == 4
    assert ran.report["gate"]["failed"] is None
    assert ran.report["lost"] == {"requests_without_outcome": 0, "workers_crashed": 0, "damaged_lines": 0}


def test_a_worker_that_cannot_say_how_it_was_interrupted_is_no_crash(tmp_path: Path, server: StandIn) -> None:
    """Its exit status is 0 then, with tests that never ran, which xdist takes for a fault of its own."""
    source = """
        def test_many(lm): lm.map([f"slow {n}" for n in range(4)])
        def test_never(lm): lm("never")
        def test_as_many(lm): lm.map([f"slow {n}" for n in range(4, 8)])
        def test_not_either(lm): lm("not either")
    """
    broken = "import os\ndef pytest_keyboard_interrupt(): assert 'PYTEST_XDIST_WORKER' not in os.environ\n"
    (tmp_path / "speechless.py").write_text(broken, "utf-8")
    with Apart(tmp_path, source, server.url, "-p", "speechless", "--lmstudio-concurrency=8", "-n2") as run:
        server.wait_for(lambda: server.in_flight == 8, 30)
        os.kill(run.pids("gw0")[0], signal.SIGINT)
        ran = run.wait()
        run.wait_until_gone()
    assert ran.ret == ran.report["exit_status"] == 2, ran.out
    assert ran.report["calls"]["ok"] == 8


def test_sigterm_kills_a_run_without_calls_as_ever(tmp_path: Path, server: StandIn) -> None:
    source = """
        import os, signal
        def test_it(): os.kill(os.getpid(), signal.SIGTERM)
        def test_uses_it(lm): lm("never")
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_stop_signal_for_a_forked_child_is_for_the_child_alone(tmp_path: Path, server: StandIn) -> None:
    source = """
        import multiprocessing, time
        def test_it(lm):
            lm("hello")
            for _ in range(20):
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
                child.start()
                child.terminate()
                child.join()
                assert child.exitcode == -15
            assert lm("on").text == "echo: on"
    """
    with Apart(tmp_path, source, server.url, "-n0", "-W", "ignore::DeprecationWarning") as run:
        ran = run.wait()
    assert ran.ret == 0, ran.out
    assert ran.report["calls"]["ok"] == 2


def test_a_test_that_raises_and_catches_ctrl_c_is_no_interrupt(tmp_path: Path, server: StandIn) -> None:
    source = """
        import os, signal, pytest
        def test_it(lm):
            lm("hello")
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            assert lm("on").text == "echo: on"
    """
    with Apart(tmp_path, source, server.url, "-n0") as run:
        ran = run.wait()
    assert ran.ret == 0, ran.out
    assert ran.report["gate"]["failed"] is False


@HEARD
@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
def test_a_terminal_that_is_closed_costs_no_report(tmp_path: Path, server: StandIn, way: tuple[str, ...]) -> None:
    ours, theirs = os.openpty()
    try:
        with Apart(tmp_path, MANY, server.url, "--lmstudio-concurrency=4", *way, out=theirs) as run:
            os.close(theirs)
            server.wait_for(lambda: server.in_flight == 4, 30)
            os.close(ours)  # from here on whatever is written fails
            ours = -1
            run.signal(HANG_UP)
            ran = run.wait()
            run.wait_until_gone()
    finally:
        if ours >= 0:
            os.close(ours)
    assert ran.report["calls"]["ok"] == sum(request.text.startswith("slow") for request in server.requests)
    assert ran.report["gate"]["failed"] is None
