"""The circuit breaker through the plugin: it trips, waits, probes, and gives up on a server that stays dead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import close_before_headers, cut_after_headers, error_object, rate_limit

if TYPE_CHECKING:
    from tests.plugin.suite import Suite
    from tests.standin import Received

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
QUICK = ("--lmstudio-breaker=3:0.2", "--lmstudio-retries=0", "--lmstudio-max-error-rate=1")
TWELVE = """
    import pytest
    @pytest.mark.parametrize("n", range(12))
    def test_it(lm, n): lm(f"prompt {n}")
"""


@WAYS
def test_a_server_that_stays_dead_is_given_up(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.default = close_before_headers()
    suite.write(TWELVE)
    ran = suite.run(*way, *QUICK)
    assert ran.summary == "12 lm-error"
    opened = ran.named("breaker_open")
    assert [(event["pauses"], event["gave_up"]) for event in opened] == [(1, False), (2, False), (3, False), (3, True)]
    kinds = ran.report["errors_by_kind"]
    assert set(kinds) == {"disconnect", "circuit_open"}
    assert kinds["disconnect"] + kinds["circuit_open"] == 12
    # Three in a row trip it, each of three probes fails; what a second worker has in flight meanwhile counts as one.
    assert 6 <= kinds["disconnect"] <= (6 if way == ALONE else 10)
    assert ran.report["breaker"]["trips"] == 3
    assert ran.report["breaker"]["paused_s"] == pytest.approx(0.6, abs=0.35)
    assert ran.report["calls"] | {"total": 12, "sent": 12, "failed": 12} == ran.report["calls"]
    assert ran.report["attempts"]["total"] == kinds["disconnect"]


def test_a_probe_that_succeeds_resumes(suite: Suite) -> None:
    suite.server.when(lambda r: r.text in {"prompt 0", "prompt 1", "prompt 2"}, close_before_headers())
    suite.write(TWELVE)
    ran = suite.run("-n0", *QUICK)
    assert ran.outcomes == {"lm_error": 3, "passed": 9}
    (opened,), (closed,) = ran.named("breaker_open"), ran.named("breaker_closed")
    assert (opened["failures"], opened["pauses"], opened["pause_s"], opened["gave_up"]) == (3, 1, 0.2, False)
    assert 0.2 <= closed["paused_s"] == ran.report["breaker"]["paused_s"]
    assert ran.report["breaker"]["trips"] == 1
    assert ran.named("gen_request")[3]["waited_ms"] >= 150


@WAYS
def test_a_server_that_dies_in_mid_run(suite: Suite, way: tuple[str, ...]) -> None:
    seen: list[str] = []

    def stop_after_four(received: object) -> bool:
        seen.append("request")
        if len(seen) == 5:
            threading.Thread(target=suite.server.stop).start()
        return False

    suite.server.when(stop_after_four, close_before_headers())
    suite.write(TWELVE.replace("12", "24"))
    ran = suite.run(*way, *QUICK)
    assert ran.outcomes["lm_error"] >= 18
    assert ran.report["errors_by_kind"]["circuit_open"] >= 1
    assert ran.report["tests"]["failed"] == 0


@WAYS
def test_one_error_may_be_enough_and_a_pause_be_short(suite: Suite, way: tuple[str, ...]) -> None:
    seen: set[str] = set()

    def is_first(received: Received) -> bool:
        new = received.text not in seen
        seen.add(received.text)
        return new and int(received.text.split()[1]) % 2 == 0

    # A kept connection that is cut is replaced for free, so that the server cuts after the head.
    suite.server.when(is_first, cut_after_headers(reset=True))
    suite.write(TWELVE)
    ran = suite.run(*way, "--lmstudio-breaker=1:0.1", "--lmstudio-retries=3", "--lmstudio-max-error-rate=0")
    assert ran.summary == "12 passed"
    breaker, opened, closed = ran.report["breaker"], ran.named("breaker_open"), ran.named("breaker_closed")
    assert breaker["trips"] == len(opened) >= len(closed) >= (6 if way == ALONE else 3)
    assert all((event["failures"], event["error_kind"]) == (1, "disconnect") for event in opened)
    assert breaker["paused_s"] == pytest.approx(sum(event["paused_s"] for event in closed), abs=0.01)


def test_off_is_off(suite: Suite) -> None:
    suite.server.default = close_before_headers()
    suite.write(TWELVE)
    ran = suite.run("-n0", "--lmstudio-breaker=off", *QUICK[1:])
    assert ran.report["errors_by_kind"] == {"disconnect": 12}
    assert ran.report["breaker"] == {"trips": 0, "paused_s": 0.0}
    assert ran.named("breaker_open") == []


def test_cached_answers_need_no_breaker(suite: Suite) -> None:
    suite.write("def test_it(lm): assert lm('kept')")
    suite.run("-n0")
    suite.server.default = close_before_headers()
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(8))
        def test_a(lm, n): lm(f"prompt {n}")
        def test_b(lm): assert lm("kept").cached
    """)
    ran = suite.run("-n0", *QUICK)
    assert ran.outcomes == {"lm_error": 8, "passed": 1}


def test_errors_that_are_not_the_networks_do_not_trip_it(suite: Suite) -> None:
    suite.write(TWELVE)
    suite.server.script(*[error_object(400, "no")] * 6, *[rate_limit()] * 6)
    ran = suite.run("-n0", *QUICK)
    assert ran.outcomes == {"failed": 6, "lm_error": 6}
    assert ran.report["breaker"]["trips"] == 0
