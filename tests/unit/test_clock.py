"""The time of a run goes on evenly, however the wall's clock is set."""

from __future__ import annotations

import time

import pytest

from pytest_lmstudio.clock import Clock
from pytest_lmstudio.record.events import iso_of


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0, -1e9])
def test_setting_the_clock_moves_nothing(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    wall_s, since_start_s = 1_795_350_000.0, 5000.0
    monkeypatch.setattr(time, "time", lambda: wall_s)
    monkeypatch.setattr(time, "monotonic", lambda: since_start_s)
    clock = Clock.set_now()
    assert clock.now_s() == 1_795_350_000.0
    wall_s += jump_s
    since_start_s += 2.5
    assert clock.now_s() == 1_795_350_002.5


def test_processes_that_are_told_the_offset_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.set_now()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a worker that starts after the clock was set
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    assert Clock(clock.offset_s).now_s() == clock.now_s()


def test_milliseconds_survive_the_offset() -> None:
    # Unix times need 31 bits before the point; a float has 53.
    assert iso_of(Clock(1_795_350_000.0 - 123.456).offset_s + 123.4575) == "2026-11-22T12:20:00.001Z"
