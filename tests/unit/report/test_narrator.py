"""What is said on the terminal while a run is on."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.report.narrator import PATIENCE_S, Narrator

OPENED = {"failures": 5, "pauses": 1, "pause_s": 30.0, "gave_up": False, "error_kind": "timeout", "most_pauses": 3}

GAVE_UP = (
    "LM Studio: no answer after 3 pauses (connect), the remaining calls fail at once: "
    "look at the server, then run again"
)


def said(narrator: Narrator, name: str, now_s: float = 0.0, **fields: Any) -> list[str]:
    return list(narrator.take({"event": name, "ts": "", **fields}, now_s))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "LM Studio: 5 network errors in a row, the last one timeout: pausing 30 s (pause 1 of 3) ..."),
        (
            {"failures": 1, "pause_s": 0.1},
            "LM Studio: a network error (timeout): pausing 100 ms (pause 1 of 3) ...",
        ),
        (
            {"pauses": 2, "error_kind": "connect"},
            "LM Studio: still no answer (connect): pausing 30 s (pause 2 of 3) ...",
        ),
        (
            {"pauses": 3, "gave_up": True, "error_kind": "connect"},
            GAVE_UP,
        ),
    ],
)
def test_each_pause_is_told_with_its_reason(fields: dict[str, Any], line: str) -> None:
    assert said(Narrator(), "breaker_open", **{**OPENED, **fields}) == [line]


@pytest.mark.parametrize(("paused_s", "shown"), [(0.21, "210 ms"), (31.04, "31 s"), (9.96, "10 s"), (2, "2 s")])
def test_the_end_of_the_pauses_is_told(paused_s: float, shown: str) -> None:
    line = f"LM Studio: it answers again, going on after {shown}"
    assert said(Narrator(), "breaker_closed", paused_s=paused_s) == [line]


def test_a_model_that_loads_for_long_is_told_once_and_its_end_too() -> None:
    it = Narrator()
    assert said(it, "model_load_start", 100.0, model="qwen") == []
    assert list(it.due(100.0 + PATIENCE_S - 0.1)) == []
    assert list(it.due(100.0 + PATIENCE_S)) == ["LM Studio: loading qwen ..."]
    assert list(it.due(130.0)) == []
    assert said(it, "model_load_end", 142.4, model="qwen", error_kind=None) == ["LM Studio: qwen is loaded, after 42 s"]
    assert list(it.due(500.0)) == []
    assert said(it, "model_load_end", 501.0, model="qwen") == []


def test_a_quick_load_is_not_worth_a_line() -> None:
    it = Narrator()
    said(it, "model_load_start", 100.0, model="qwen")
    assert said(it, "model_load_end", 104.0, model="qwen", error_kind="no_model") == []
    assert list(it.due(200.0)) == []


def test_a_load_that_failed_or_began_again_after_a_crash() -> None:
    it = Narrator()
    said(it, "model_load_start", 100.0, model="qwen")
    said(it, "model_load_start", 103.0, model="qwen")  # the process that loaded it was killed
    assert list(it.due(105.0)) == ["LM Studio: loading qwen ..."]
    line = "LM Studio: qwen did not load (out_of_memory)"
    assert said(it, "model_load_end", 120.0, model="qwen", error_kind="out_of_memory") == [line]


def test_models_are_told_apart() -> None:
    it = Narrator()
    said(it, "model_load_start", 100.0, model="one")
    said(it, "model_load_start", 103.0, model="two")
    assert list(it.due(106.0)) == ["LM Studio: loading one ..."]
    assert list(it.due(108.0)) == ["LM Studio: loading two ..."]


def test_other_events_are_not_told() -> None:
    assert said(Narrator(), "gen_error", model="qwen", error_kind="timeout") == []


WRONG = ["text", "none", "list", "dict", "nan", "huge", "true", "below 0"]
HOSTILE = "\x1b[2J\r\n::error::x\u202e\ud800" + "x" * 5000


@pytest.mark.parametrize("value", [HOSTILE, None, [], {}, float("nan"), 10**400, True, -1], ids=WRONG)
@pytest.mark.parametrize("name", sorted(Narrator.EVENTS))
def test_whatever_a_foreign_log_holds_lines_are_short_and_plain(name: str, value: object) -> None:
    it = Narrator()
    fields = ("failures", "pauses", "most_pauses", "pause_s", "paused_s", "gave_up", "error_kind", "model")
    for changed in fields:
        known = {**OPENED, "model": "qwen", "paused_s": 3.0, changed: value}
        if name == "model_load_end":
            said(it, "model_load_start", 0.0, **known)
        lines = [*it.due(10.0), *said(it, name, 20.0, **known), *it.due(30.0)]
        for line in lines:
            assert line.startswith("LM Studio: ")
            assert line.encode("utf-8").decode().isprintable()
            assert len(line) < 300


@pytest.mark.parametrize(
    ("in_flight", "line"),
    [
        (1, "LM Studio: interrupted, 1 call in flight has 5 s to end; Ctrl-C ends it now"),
        (12, "LM Studio: interrupted, 12 calls in flight have 5 s to end; Ctrl-C ends them now"),
    ],
)
def test_an_interrupt_says_what_is_waited_for_and_how_to_end_that(in_flight: int, line: str) -> None:
    assert Narrator.interrupted(in_flight, 5.0) == line
    assert len(line) <= 80
