"""A silent run shows that it is alive: lines in a job's log, one that comes and goes on a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.plugin.terminal import Screen, run
from tests.standin import echo, hang, html_500

if TYPE_CHECKING:
    from tests.plugin.suite import Ran, Suite

#: A tenth of a second stands for the 30; the first answers come at once, the last one only when something was shown.
QUICK = """
    from pytest_lmstudio import announce

    announce._SILENCE_S, announce._LOOK_S = 0.4, 0.1
"""
FOUR = """
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_it(lm, n):
        print("of the test")
        lm(f"prompt {n}")
"""
BEAT = re.compile(r"LM Studio: \d+ in flight, \d+ done, \d+ lost(?:, p95 [\d.]+ m?s)?(?:, about [\d]+ s left)?")
SLOW_S = 2.5
on_a_terminal = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")


def slow(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write(FOUR)
    suite.server.when(lambda request: request.text in {"prompt 1", "prompt 3"}, echo(delay_s=SLOW_S))


def beats(ran: Ran) -> list[str]:
    return [line for line in ran.out.splitlines() if line.startswith("LM Studio:")]


@pytest.mark.parametrize(
    "way",
    [ALONE, WORKERS, NO_XDIST, (*ALONE, "-q"), (*ALONE, "-v"), (*ALONE, "-s"), (*ALONE, "--capture=sys")],
    ids=" ".join,
)
def test_a_silent_job_is_told_line_by_line_how_it_stands(suite: Suite, way: tuple[str, ...]) -> None:
    slow(suite)
    ran = suite.run_apart(*way, "--lmstudio-cache=off")
    assert ran.summary == "4 passed"
    assert len(beats(ran)) >= 2
    assert [line for line in beats(ran) if not BEAT.fullmatch(line)] == []
    assert ran.err == ""


def test_a_job_that_is_never_silent_for_long_is_told_nothing(suite: Suite) -> None:
    suite.write(FOUR)
    suite.server.default = echo(delay_s=0.3)
    assert beats(suite.run_apart("-n0", "--lmstudio-cache=off")) == []


def test_without_calls_in_flight_a_silent_job_stays_so(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write("""
        import time

        def test_it(lm):
            lm("a prompt")
            time.sleep(2)
    """)
    assert beats(suite.run_apart("-n0")) == []


@pytest.mark.parametrize("way", [("-n0", "-qq"), ("-n2", "-qq"), ("-p", "no:terminal")], ids=" ".join)
def test_where_nobody_wants_to_hear_it_nothing_is_told(suite: Suite, way: tuple[str, ...]) -> None:
    slow(suite)
    arguments = suite.arguments(*way, "--lmstudio-cache=off")
    arguments.remove("--color=no")  # an option of the terminal's
    ran = suite.ran(suite.pytester.runpytest_subprocess(*arguments))
    assert (ran.ret, beats(ran), ran.err) == (0, [], "")


def test_a_call_that_waits_to_be_tried_again_keeps_it_going(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write("def test_it(lm): lm('a prompt')")
    suite.server.script(html_500())
    ran = suite.run_apart("-n0", "--lmstudio-backoff=3", "--lmstudio-retry-strategy=decorrelated")
    assert ran.summary == "1 passed"
    assert beats(ran)[0] == "LM Studio: 0 in flight, 0 done, 0 lost, 1 to be tried again"


# -- on a terminal ---------------------------------------------------------------------------------


class Watched:
    """A suite run on a terminal, and all that stood on its screen.

    Attributes:
        screens: the different screens, in order, each a list of rows.
    """

    def __init__(self, suite: Suite, *args: str, columns: int = 80) -> None:
        self.screens: list[list[str]] = []
        self.columns = columns
        arguments = [one for one in suite.arguments(*args, "--lmstudio-cache=off") if one != "--color=no"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        self.ret, self.written = run(command, columns=columns, folder=suite.pytester.path, seen=self._see)

    def _see(self, written: str) -> None:
        screen = Screen(self.columns)
        screen.write(written)
        self.screens.append(screen.lines)

    @property
    def beats(self) -> list[str]:
        """The rows of ours that ever stood on the screen."""
        rows = dict.fromkeys(row for screen in self.screens for row in screen if row.startswith("LM Studio:"))
        return [row for row in rows if BEAT.fullmatch(row)]

    @property
    def last(self) -> list[str]:
        """The rows of the run's tests on the last screen."""
        rows = self.screens[-1]
        start = next(n for n, row in enumerate(rows) if row.startswith(("collected", "2 workers")))
        end = next(n for n, row in enumerate(rows) if row.startswith("=") and " LM Studio " in row)
        return [row for row in rows[start + 1 : end] if row]


@on_a_terminal
@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal_the_line_comes_and_goes_and_leaves_no_rest(suite: Suite, columns: int) -> None:
    slow(suite)
    watched = Watched(suite, "-n0", columns=columns)
    assert watched.ret == 0
    assert len(watched.beats) >= 2
    assert watched.last == ["test_suite.py ....".ljust(columns - 7) + "[100%]"]
    assert max(len(row) for row in watched.beats) < columns


@on_a_terminal
def test_names_of_tests_stand_as_if_nothing_had_been_shown(suite: Suite) -> None:
    slow(suite)
    watched = Watched(suite, "-n0", "-v")
    assert len(watched.beats) >= 2
    assert watched.last == [
        f"{f'test_suite.py::test_it[{n}] PASSED':<73}[{25 * (n + 1):3}%]".replace("  [", "  [") for n in range(4)
    ]


@on_a_terminal
def test_a_line_of_pytests_that_is_wider_than_the_terminal_goes_on_where_it_was(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write(f"def test_{'long' * 20}(lm): lm('prompt 1')")
    suite.server.default = echo(delay_s=SLOW_S)
    watched = Watched(suite, "-n0", "-v", columns=60)
    assert watched.beats
    assert re.sub(r"\s+", " ", "".join(watched.last)) == f"test_suite.py::test_{'long' * 20} PASSED [100%]"


@on_a_terminal
def test_with_workers_it_comes_and_goes_too(suite: Suite) -> None:
    slow(suite)
    watched = Watched(suite, "-n2")
    assert watched.beats
    assert watched.last == ["....".ljust(73) + "[100%]"]


@on_a_terminal
def test_where_tests_write_to_the_terminal_each_line_stays(suite: Suite) -> None:
    slow(suite)
    watched = Watched(suite, "-n0", "-s")
    assert {row for row in watched.last if BEAT.fullmatch(row)} == set(watched.beats) > set()
    assert sum(row.endswith("of the test") for row in watched.last) == 4


@on_a_terminal
def test_a_terminal_that_can_do_nothing_gets_lines(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(suite)
    monkeypatch.setattr("tests.plugin.terminal.TERM", "dumb")
    watched = Watched(suite, "-n0")
    assert "\x1b[A" not in watched.written
    assert {row for row in watched.last if BEAT.fullmatch(row)} == set(watched.beats) > set()


@on_a_terminal
def test_what_makes_the_run_wait_is_told_below_the_tests_and_not_into_the_line(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write(FOUR)
    suite.server.when(lambda request: request.text == "prompt 1", html_500(delay_s=SLOW_S))
    watched = Watched(suite, "-n0", "--lmstudio-retries=0", "--lmstudio-breaker=1:0.2", "--lmstudio-max-error-rate=1")
    told = [row for row in watched.last if row.startswith("LM Studio:")]
    assert told[0] == "LM Studio: a network error (server_error): pausing 200 ms (pause 1 of 3) ..."
    assert told[1].startswith("LM Studio: it answers again, going on after ")
    assert [row for row in watched.last if BEAT.fullmatch(row)] == []


@on_a_terminal
def test_an_interrupt_takes_the_line_away_first(suite: Suite) -> None:
    suite.conftest(QUICK)
    suite.write("""
        import os, signal, threading

        def test_it(lm):
            threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
            lm("a prompt")
    """)
    suite.server.default = hang()
    watched = Watched(suite, "-n0")
    assert watched.ret == 2
    assert watched.beats
    assert [row for row in watched.screens[-1] if row.startswith("LM Studio:")] == [
        "LM Studio: interrupted, 1 call in flight has 5 s to end; Ctrl-C ends it now"
    ]
