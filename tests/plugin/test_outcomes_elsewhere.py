"""How a lost test looks to the rest of pytest: counters, caches, letters, JUnit, subtests and reruns."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers

if TYPE_CHECKING:
    from tests.plugin.suite import Suite
    from tests.standin import StandIn

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
ALL_WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
LOSES = ("--lmstudio-retries=0", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%", "--lmstudio-cache=off")
MIXED = """
    def test_a_lost(lm): lm("lost a")
    def test_b_lost(lm): lm("lost b")
    def test_c_passes(lm): lm("fine")
    def test_d_plain(): pass
"""
REASON = (
    r"lm-error: \[disconnect\] the server at {url} closed the connection before the answer was whole: [^\n]+ "
    r"\(model test-model, attempt 1 of 1, waiting\); look in the server's log for a crash at this time"
)


@pytest.fixture(autouse=True)
def broken(server: StandIn) -> dict[str, bool]:
    """Lose calls that say so, while this says so."""
    state = {"now": True}
    server.when(lambda r: state["now"] and "lost" in r.text, close_before_headers())
    return state


@pytest.mark.parametrize(
    ("way", "option"), [(ALONE, "-x"), (WORKERS, "-x"), (ALONE, "--maxfail=1")], ids=["x-n0", "x-n2", "maxfail-n0"]
)
def test_lost_tests_do_not_stop_a_run(suite: Suite, way: tuple[str, ...], option: str) -> None:
    suite.write(MIXED)
    ran = suite.run(*way, *LOSES, option)
    assert ran.ret == 0
    assert ran.summary == "2 passed, 2 lm-error"


@pytest.mark.parametrize(
    ("way", "option"),
    [(ALONE, "--lf"), (WORKERS, "--lf"), (NO_XDIST, "--lf"), (ALONE, "--ff")],
    ids=["lf-n0", "lf-n2", "lf-no-xdist", "ff-n0"],
)
def test_lost_tests_are_run_again_and_forgotten_when_they_pass(
    suite: Suite, broken: dict[str, bool], way: tuple[str, ...], option: str
) -> None:
    suite.write(MIXED)
    assert suite.run(*way, *LOSES).summary == "2 passed, 2 lm-error"
    broken["now"] = False
    again = suite.run(*way, *LOSES, option, "-v")
    tests = ["test_a_lost", "test_b_lost", "test_c_passes", "test_d_plain"][: 2 if option == "--lf" else 4]
    assert again.words == {name: {"PASSED"} for name in tests}
    forgotten = suite.run(*way, *LOSES, option)
    assert forgotten.summary == "4 passed"


@WAYS
def test_a_run_remembers_what_failed_beside_what_was_lost(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(MIXED + "\n    def test_e_fails(lm): assert lm('no') == 'yes'\n")
    suite.run(*way, *LOSES)
    again = suite.run(*way, *LOSES, "--lf", "-v")
    assert again.words == {"test_a_lost": {"LM-ERROR"}, "test_b_lost": {"LM-ERROR"}, "test_e_fails": {"FAILED"}}


@WAYS
def test_letter_and_colour(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("def test_lost(lm): lm('lost')")
    ran = suite.run(*way, *LOSES, "--color=yes")
    assert "\x1b[33mL\x1b[0m" in ran.out
    assert "\x1b[33m\x1b[1m1 lm-error\x1b[0m" in ran.out
    assert ran.ret == 0


@ALL_WAYS
def test_junit_calls_it_skipped_and_says_why(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(MIXED)
    suite.run(*way, *LOSES, "--junitxml=junit.xml")
    (root,) = ET.parse(suite.pytester.path / "junit.xml").getroot().iter("testsuite")  # noqa: S314  # our own file
    counts = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "0", "errors": "0", "skipped": "2"}
    skipped = {case.get("name"): case.find("skipped") for case in root.iter("testcase")}
    found = skipped["test_a_lost"]
    assert found is not None
    assert re.fullmatch(REASON.format(url=re.escape(suite.server.url)), found.get("message", ""))
    assert skipped["test_c_passes"] is None


@WAYS
def test_a_lost_subtest_loses_its_test(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        def test_both(lm, subtests):
            with subtests.test("one"): lm("lost")
            with subtests.test("two"): assert "fine" in lm("fine")

        def test_wrong(lm, subtests):
            with subtests.test("one"): assert lm("other") == "x"
            with subtests.test("two"): lm("lost too")
    """)
    ran = suite.run(*way, *LOSES)
    assert ran.outcomes == {"failed": 1, "lm_error": 1}
    assert ran.report["calls"] | {"total": 4, "sent": 4, "failed": 2} == ran.report["calls"]
    assert "2 lm-error" in ran.summary


@WAYS
def test_reruns_are_for_failed_tests_and_count_each_call_once(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        import itertools
        tries = itertools.count(1)
        def test_flaky(lm): assert lm("fine") and next(tries) == 3
        def test_lost(lm): lm("lost")
        def test_fails(lm): assert lm("wrong") == "right"
    """)
    ran = suite.run(*way, *LOSES, "-p", "rerunfailures", "--reruns=2")
    assert set(ran.summary.split(", ")) == {"1 failed", "1 passed", "4 rerun", "1 lm-error"}
    assert ran.outcomes == {"passed": 1, "failed": 1, "lm_error": 1}
    assert Counter(event["nodeid"].partition("::test_")[2] for event in ran.named("gen_request")) == {
        "flaky": 3, "fails": 3, "lost": 1,
    }  # fmt: skip
    assert ran.report["calls"] | {"total": 7, "sent": 7, "failed": 1} == ran.report["calls"]
    assert len({event["call_id"] for event in ran.named("gen_request")}) == 7
