"""Who was in flight with whom, also where processes died and clocks were set."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.record.history import calls_of, peak_in_flight
from tests.unit.record.logs import event, good, request, success

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


def peak(*events: Event) -> int:
    return peak_in_flight(calls_of(events))


def lost(call_id: str, at_ms: float, slot: int | None = 0, worker: str = "gw0", **fields: Any) -> Event:
    """Return the request of an attempt whose end nobody told."""
    return request(call_id, at_ms, worker=worker, slot=slot, **fields)


def crash(at_ms: float, worker: str = "gw0") -> Event:
    return event("worker_crashed", at_ms, worker=worker)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("cached", "qwen", "test_x.py::test_x", 100)),
        ({"source": "coalesced"}, ("coalesced", "qwen", "test_x.py::test_x", 100)),
        ({"source": ["?"], "prompt_chars": 7.9}, ("cached", "qwen", "test_x.py::test_x", 7)),
        ({"model": "", "nodeid": None, "prompt_chars": "many"}, ("cached", "unknown", "", None)),
        ({"model": 3, "nodeid": {}, "prompt_chars": float("inf")}, ("cached", "unknown", "", None)),
        ({"model": None, "nodeid": 1, "prompt_chars": True, "attempt": "x"}, ("cached", "unknown", "", None)),
    ],
)
def test_a_call_from_the_cache_is_read_alike_from_one_line_and_from_two(
    fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    line = event("gen_cached", **{"call_id": "c", "source": "cache", "prompt_chars": 100, **fields})
    (call,) = calls_of([line])
    assert (call.outcome, call.model, call.nodeid, call.prompt_chars) == expected
    assert calls_of([line, line]) == (call,)


# -- attempts without an end -----------------------------------------------------------------------


def test_an_attempt_of_a_killed_worker_lasts_until_its_worker_is_found_dead() -> None:
    first, second = good("b", 50, 100, worker="gw1"), good("c", 400, 100, worker="gw1")
    assert peak(lost("a", 0), *first, crash(300), *second) == 2
    in_flight = {
        call.call_id: call.attempts[0].in_flight for call in calls_of([lost("a", 0), *first, crash(300), *second])
    }
    assert in_flight == {"a": 1, "b": 2, "c": 1}


def test_it_is_over_when_another_request_has_its_slot() -> None:
    again = request("b", 200, worker="gw1", slot=0), success("b", 300, worker="gw1", latency_ms=100)
    other = request("c", 250, worker="gw1", slot=1), success("c", 350, worker="gw1", latency_ms=100)
    assert peak(lost("a", 0), *again[:1], *other[:1], *again[1:], *other[1:]) == 2


def test_it_is_over_when_its_limit_has_passed() -> None:
    assert peak(lost("a", 0, timeout_ms=1000), *good("b", 999, 10, worker="gw1")) == 2
    assert peak(lost("a", 0, timeout_ms=1000), *good("b", 1000, 10, worker="gw1")) == 1


def test_where_nothing_tells_it_is_over_with_the_last_word_of_its_process() -> None:
    # As in a log that somebody cut short.
    vague: dict[str, Any] = {"timeout_ms": None, "slot": None}
    word = event("note", 500, worker="gw0")
    assert peak(lost("a", 0, **vague), *good("b", 400, 10, worker="gw1"), word) == 2
    assert peak(lost("a", 0, **vague), word, *good("b", 501, 10, worker="gw1")) == 1
    assert peak(lost("a", 0, **vague), *good("b", 400, 10, worker="gw1")) == 1


def test_a_worker_that_lives_on_may_have_lost_the_end_of_an_attempt() -> None:
    log = [lost("a", 0), *good("b", 10, 20, worker="gw1"), *good("c", 20, 5, worker="gw0")]
    assert peak(*log) == 3


def test_a_replaced_worker_has_a_name_of_its_own() -> None:
    assert peak(lost("a", 0), crash(100), lost("b", 200, worker="gw2"), crash(300, "gw2")) == 1


@pytest.mark.parametrize("seed", range(30))
def test_whoever_is_killed_the_peak_is_never_above_the_slots_nor_below_the_truth(seed: int) -> None:
    log, truth = killed_run(random.Random(seed), slots=3)
    assert truth <= peak(*log) <= 3


def killed_run(dice: random.Random, slots: int) -> tuple[list[Event], int]:
    """Play a run whose workers are killed at times; return its log and how many requests were in flight at most."""
    log: list[Event] = []
    busy: dict[int, tuple[str, float, str]] = {}
    now_ms, most, workers = 0.0, 0, 2
    for n in range(60):
        now_ms += dice.choice([1, 5, 30])
        free = [slot for slot in range(slots) if slot not in busy]
        if free and dice.random() < 0.6:
            slot, worker = dice.choice(free), f"gw{workers - dice.choice([1, 2])}"
            log.append(request(f"call{n}", now_ms, worker=worker, slot=slot))
            busy[slot] = (f"call{n}", now_ms, worker)
            most = max(most, len(busy))
        elif busy and dice.random() < 0.8:
            call_id, since_ms, worker = busy.pop(dice.choice(list(busy)))
            log.append(success(call_id, now_ms, worker=worker, latency_ms=now_ms - since_ms))
        else:
            dead = f"gw{workers - 2}"
            busy = {slot: held for slot, held in busy.items() if held[2] != dead}
            workers += 1
            if dice.random() < 0.5:  # the other half is not noticed: the controller died too
                log.append(crash(now_ms + dice.choice([0, 20]), dead))
    return sorted(log, key=lambda line: str(line["ts"])), most


# -- clocks that were set in mid-run ---------------------------------------------------------------


@pytest.mark.parametrize("jump_ms", [-7_200_000, 7_200_000])
def test_an_answer_told_by_another_clock_lasts_as_long_as_its_latency(jump_ms: float) -> None:
    jumped = request("a", 0, worker="gw0"), success("a", 1000 + jump_ms, worker="gw0", latency_ms=1000)
    assert peak(*jumped, *good("b", 500, 100, worker="gw1")) == 2
    assert peak(*jumped, *good("b", 1500, 100, worker="gw1")) == 1
