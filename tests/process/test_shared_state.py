"""Backpressure and the breaker over real processes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.pressure import Pressure
from pytest_lmstudio.engine.shared import Shared
from tests.process.workers import SLOW_S, end_of, line, started
from tests.standin import StandIn, echo, html_500

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)
MOST = 8


def test_a_server_that_slows_with_load_gets_less_of_it_and_more_again_when_it_can(tmp_path: Path) -> None:
    shared = Shared(tmp_path, MOST)
    limit = Pressure(shared, MOST, SLOW_S, lambda *_: None)
    with StandIn(capacity=2) as server, ExitStack() as stack:
        server.default = echo(delay_s=0.5)  # so eight at once take two seconds each
        processes = [stack.enter_context(started("ease_off", tmp_path, MOST, n, server.url)) for n in range(3)]
        server.wait_for(lambda: limit.limit <= MOST // 2, 60)
        server.default = echo()
        server.wait_for(lambda: limit.limit == MOST, 60)
        server.default = html_500(delay_s=0.01)
        server.wait_for(lambda: limit.limit == 1, 60)
        (tmp_path / "enough").touch()
        told = [tuple(text.split()) for process in processes for text in end_of(process)]
        assert server.peak_in_flight <= MOST
    shared.close()
    assert ("8", "4", "latency") in told
    assert ("2", "1", "errors") in told
    # Each change was told once, by the process that made it: together they are a way from 8 to 1.
    downs = [(int(before), int(now)) for before, now, why in told if why != "recovery"]
    ups = [(int(before), int(now)) for before, now, why in told if why == "recovery"]
    assert all(now == before // 2 for before, now in downs)
    assert all(now == before + 1 for before, now in ups)
    assert sum(before - now for before, now in downs) - len(ups) == MOST - 1


def test_when_the_prober_is_killed_another_process_probes_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(started("hold_probe", tmp_path, "first"))
        assert line(first) == "probes"  # which may take it an hour
        second = stack.enter_context(started("hold_probe", tmp_path, "second"))
        assert line(second) == "waits"
        first.kill()
        assert line(second) == "probes"
        assert second.communicate("\n", timeout=30)[0].split() == ["resumed"]
