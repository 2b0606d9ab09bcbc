"""The limit as backpressure changes it, through the plugin."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import rate_limit, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Ran, Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
SUITE = """
    import pytest
    @pytest.mark.parametrize("n", range(6))
    def test_it(lm, n): lm.map([f"prompt {n} {m}" for m in range(6)])
"""
GIVEN = ("--lmstudio-concurrency=4", "--lmstudio-cache=off", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=1")


def changes(ran: Ran) -> list[tuple[int, int, str]]:
    """Return the changes told, which must be as many as the report counts."""
    told = [(event["previous"], event["limit"], event["reason"]) for event in ran.named("concurrency_changed")]
    assert ran.report["concurrency"]["reductions"] == sum(now < before for before, now, _ in told)
    assert all(1 <= now <= 4 and 1 <= before <= 4 for before, now, _ in told)
    return told


@WAYS
def test_slow_answers_lower_the_limit_to_one_and_no_further(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.default = reply("x", delay_s=0.06)
    suite.write(SUITE)
    ran = suite.run(*way, "--lmstudio-latency-threshold=0.05", *GIVEN)
    assert ran.summary == "6 passed"
    assert changes(ran) == [(4, 2, "latency"), (2, 1, "latency")]
    assert "lowered 2 times" in "\n".join(ran.section)


@WAYS
def test_a_storm_of_refusals_lowers_it_and_good_answers_raise_it_again(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.script(*[rate_limit()] * 12)
    suite.write(SUITE)
    ran = suite.run(*way, "--lmstudio-latency-threshold=30", *GIVEN)
    assert ran.summary == "6 passed"
    told = changes(ran)
    assert (4, 2, "errors") in told
    assert {why for _, _, why in told} == {"errors", "recovery"}
    assert 1 <= ran.report["concurrency"]["reductions"] <= 6  # and not once for each of the twelve
    if way == ALONE:
        assert all(now == before for (_, now, _), (before, _, _) in pairwise(told))
        assert told[-1] == (3, 4, "recovery")


def test_it_is_off_unless_asked_for(suite: Suite) -> None:
    suite.server.script(*[rate_limit()] * 6)
    suite.write(SUITE)
    assert changes(suite.run("-n0", *GIVEN)) == []
