"""The wall's clock is set by hours while a run is on."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.record.events import seconds_of
from tests.plugin.suite import ALONE, WORKERS
from tests.standin import reply

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

HOUR_S = 3600.0
# In each worker, and in the controller too, since pytest's own plugins call time.time() themselves.
CONFTEST = """
    import time

    class Wall:
        jump_s, tests, real = 0.0, 0, time.time

    def pytest_configure(config): time.time = lambda: Wall.real() + Wall.jump_s
    def pytest_unconfigure(config): time.time = Wall.real
    def pytest_runtest_logstart(nodeid):
        Wall.tests += 1
        Wall.jump_s = {} * ((Wall.tests % 2) or -1)
"""


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
@pytest.mark.parametrize("hours", [-5, 5])
def test_times_and_durations_stay_sane(suite: Suite, way: tuple[str, ...], hours: int) -> None:
    suite.conftest(CONFTEST.format(hours * HOUR_S))
    suite.server.default = reply("x", delay_s=0.05)
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(8))
        def test_it(lm, n): lm.map([f"prompt {n} {m}" for m in range(2)])
    """)
    ran = suite.run_apart(*way, "--lmstudio-html=page.html")
    assert ran.summary == "8 passed"
    assert 0 < ran.report["duration_s"] < 300
    times_s = [at_s for event in ran.events if (at_s := seconds_of(event["ts"])) is not None]
    assert len(times_s) == len(ran.events)
    assert max(times_s) - min(times_s) <= ran.report["duration_s"]
    # Two processes may write in the other order than they looked at the clock, but not by hours.
    assert all(later - earlier > -60.0 for earlier, later in pairwise(times_s))
    started_s = seconds_of(ran.report["started_at"])
    assert started_s is not None
    assert min(times_s) >= started_s
    assert 1 <= ran.report["concurrency"]["peak_in_flight"] <= 4
    assert ran.report["latency_ms"]["max"] < 60_000
    assert (suite.pytester.path / "page.html").stat().st_size > 10_000
