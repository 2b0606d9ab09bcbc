"""What is written down of what all calls share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.breaker import BreakerState
from pytest_lmstudio.engine.changes import Changes
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.record.events import EventWriter, read_events
from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = BreakerLimits(2, 30.0)


def test_pauses_are_told_with_their_number_and_their_reason(tmp_path: Path) -> None:
    told: list[tuple[BreakerState, BreakerState, ErrorKind | None]] = []
    state = BreakerState()

    def move(after: BreakerState, kind: ErrorKind | None = None) -> None:
        nonlocal state
        told.append((state, after, kind))
        state = after

    move(state.failed(1.0, 2.0, LIMITS, probe=False), ErrorKind.TIMEOUT)
    move(state.failed(3.0, 4.0, LIMITS, probe=False), ErrorKind.TIMEOUT)
    for now_s in (34.0, 64.0, 94.0):
        move(state.admit(now_s, 45.0)[0])
        move(state.failed(now_s, now_s, LIMITS, probe=True), ErrorKind.CONNECT)
    move(state.succeeded(95.5))
    assert written(tmp_path, [step for step in told if step[0].phase != step[1].phase and step[1].phase != 2]) == [
        opened(1, "timeout"),
        opened(2, "connect"),
        opened(3, "connect"),
        opened(3, "connect", gave_up=True),
        {"event": "breaker_closed", "paused_s": 91.5},
    ]


def opened(pauses: int, kind: str, *, gave_up: bool = False) -> dict[str, Any]:
    known = {"event": "breaker_open", "failures": 2, "most_pauses": 3, "pause_s": 30.0}
    return {**known, "pauses": pauses, "gave_up": gave_up, "error_kind": kind}


def written(folder: Path, steps: list[tuple[BreakerState, BreakerState, ErrorKind | None]]) -> list[dict[str, Any]]:
    with EventWriter(folder / "log") as log:
        for step in steps:
            Changes(log, LIMITS).breaker(*step)
    return [{name: value for name, value in event.items() if name != "ts"} for event in read_events(log.path).events]


def test_a_change_of_the_limit_is_told_with_what_it_was(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "log") as log:
        Changes(log, None).limit(4, 2, "errors")
    (event,) = read_events(log.path).events
    assert {**event, "ts": ""} == {
        "ts": "", "event": "concurrency_changed", "limit": 2, "previous": 4, "reason": "errors",
    }  # fmt: skip
