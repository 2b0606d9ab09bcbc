"""What the terminal tells while a run is on: once, by whichever process it happened in, and in nobody's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.report.figures import duration
from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers
from tests.standin.catalog import Model

if TYPE_CHECKING:
    from tests.plugin.suite import Ran, Suite

QUICK = ("--lmstudio-breaker=2:0.2", "--lmstudio-retries=0", "--lmstudio-max-error-rate=1", "--lmstudio-cache=off")
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no xdist"])
EIGHT = """
    import pytest
    @pytest.mark.parametrize("n", range(8))
    def test_it(lm, n):
        print("printed by", n)
        lm(f"prompt {n}")
"""
OPENED = "LM Studio: 2 network errors in a row, the last one disconnect: pausing 200 ms (pause 1 of 3) ..."
STILL = "LM Studio: still no answer (disconnect): pausing 200 ms (pause {} of 3) ..."
GAVE_UP = (
    "LM Studio: no answer after 3 pauses (disconnect), the remaining calls fail at once: "
    "look at the server, then run again"
)


def fail_until_the_breaker_opens(suite: Suite) -> None:
    def is_closed(_: object) -> bool:
        return not any("breaker_open" in log.read_text("utf-8") for log in suite.pytester.path.rglob("events.jsonl"))

    suite.server.when(is_closed, close_before_headers())


def told(ran: Ran) -> list[str]:
    """Return the lines that begin as ours do, wherever else in a line such text may stand."""
    assert ran.out.count("LM Studio:") == sum(line.startswith("LM Studio:") for line in ran.out.splitlines())
    return [line for line in ran.out.splitlines() if line.startswith("LM Studio:")]


@pytest.mark.parametrize(
    "way",
    [ALONE, WORKERS, NO_XDIST, (*ALONE, "-q"), (*WORKERS, "-q"), (*ALONE, "-v"), (*ALONE, "--capture=sys")],
    ids=" ".join,
)
def test_the_pauses_of_a_dead_server_are_told_once(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.default = close_before_headers()
    suite.write(EIGHT)
    ran = suite.run_apart(*way, *QUICK)
    assert told(ran) == [OPENED, STILL.format(2), STILL.format(3), GAVE_UP]
    assert ran.summary == "8 lm-error"
    assert ran.err == ""


@WAYS
def test_the_end_of_a_pause_is_told(suite: Suite, way: tuple[str, ...]) -> None:
    fail_until_the_breaker_opens(suite)
    suite.write(EIGHT)
    ran = suite.run_apart(*way, *QUICK)
    assert told(ran)[0] == OPENED
    paused = duration(ran.report["breaker"]["paused_s"] * 1000)
    assert told(ran)[1:] == [f"LM Studio: it answers again, going on after {paused}"]


def test_with_capture_off_it_is_told_too(suite: Suite) -> None:
    fail_until_the_breaker_opens(suite)
    suite.write(EIGHT)
    ran = suite.run_apart("-s", *QUICK)
    assert told(ran)[0] == OPENED
    assert len(told(ran)) == 2


def test_without_a_terminal_nothing_is_told(suite: Suite) -> None:
    suite.server.default = close_before_headers()
    suite.write(EIGHT)
    arguments = suite.arguments("-n0", "-p", "no:terminal", *QUICK)
    arguments.remove("--color=no")  # an option of the terminal's
    ran = suite.ran(suite.pytester.runpytest_subprocess(*arguments))
    assert (ran.out, ran.err, ran.ret) == ("", "", 0)
    assert ran.report["breaker"]["trips"] == 3


def test_a_run_in_which_nothing_happens_says_nothing(suite: Suite) -> None:
    suite.write(EIGHT)
    assert told(suite.run_apart("-n0")) == []


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
def test_it_gets_into_no_tests_output(suite: Suite, way: tuple[str, ...]) -> None:
    # The test is in a pause, and capturing, when the line is written; it waits until it was.
    suite.write("""
        import os, time
        import pytest

        def calls(lm):
            for n in range(2):
                with pytest.raises(ConnectionError): lm(f"lost {n}")
            lm("waits for the end of the pause")
            time.sleep(1.5)

        def test_fixture(lm, capfd):
            print("mine")
            calls(lm)
            assert capfd.readouterr() == ("mine\\n", "")

        def test_section(lm):
            os.write(1, b"written by the test\\n")
            calls(lm)
            assert 0
    """)
    suite.server.when(lambda r: r.text.startswith("lost"), close_before_headers())
    ran = suite.run_apart(*way, "--lmstudio-breaker=2:1", *QUICK[1:])
    assert ran.summary == "1 failed, 1 passed"
    captured = ran.out.partition("Captured stdout call")[2].splitlines()
    assert captured[1] == "written by the test"
    assert captured[2].startswith("----")
    assert told(ran)[0] == OPENED.replace("200 ms", "1 s")


def test_the_names_of_tests_stay_readable(suite: Suite) -> None:
    fail_until_the_breaker_opens(suite)
    suite.write(EIGHT)
    ran = suite.run_apart("-n0", "-v", "--lmstudio-breaker=2:1.5", *QUICK[1:])
    words = [ran.words[f"test_it[{n}]"] for n in range(8)]
    assert words == [{"LM-ERROR"}] * 2 + [{"PASSED"}] * 6


def test_a_pytest_inside_a_process_tells_it_where_its_terminal_is(suite: Suite) -> None:
    suite.server.default = close_before_headers()
    suite.write(EIGHT)
    assert told(suite.run("-n0", *QUICK)) == [OPENED, STILL.format(2), STILL.format(3), GAVE_UP]


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
def test_a_model_that_loads_for_long_is_told(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.models = [Model("slow-model", loaded=False, load_s=6.5)]
    suite.write(EIGHT)
    ran = suite.run_apart(*way, "--lmstudio-model=slow-model")
    loading, loaded = told(ran)
    assert loading == "LM Studio: loading slow-model ..."
    assert loaded.startswith("LM Studio: slow-model is loaded, after ")
    (start,), (end,) = ran.named("model_load_start"), ran.named("model_load_end")
    assert (start["model"], end["model"], end["error_kind"]) == ("slow-model", "slow-model", None)
    assert end["latency_ms"] >= 6000
