"""The timeout ``auto``; a second `Timeouts` over the same folder stands for another worker."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.shared import LATENCIES_AT, SLOTS_AT, Shared
from pytest_lmstudio.engine.timeouts import ENOUGH, KEPT, MODELS, Timeouts
from tests.standin import hang, reply
from tests.unit.engine.attempts import MODEL
from tests.unit.engine.benches import one_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROW_BYTES = (SLOTS_AT - LATENCIES_AT) // MODELS


def wanted(shared: Shared, model: str = "m") -> Timeouts:
    """Return timeouts of which somebody has asked for ``auto``."""
    timeouts = Timeouts(shared, 45.0)
    assert 10.0 <= timeouts.of(model, None) <= 300.0
    return timeouts


def after(latencies: list[float], model: str = "m") -> Timeouts:
    timeouts = wanted(Shared(None, 1))
    for latency_s in latencies:
        timeouts.saw(model, latency_s)
    return timeouts


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Shared, Shared]]:
    pair = Shared(tmp_path, 2), Shared(tmp_path, 2)
    yield pair
    for shared in pair:
        shared.close()


@pytest.mark.parametrize(
    ("latencies", "limit_s"),
    [
        ([], 45.0),
        ([200.0] * 19, 45.0),
        ([20.0] * 20, 60.0),
        ([0.5] * 20, 10.0),
        ([0.0] * 20, 10.0),
        ([200.0] * 20, 300.0),
        ([1e30] * 20, 300.0),
        ([1.0] * 19 + [30.0], 90.0),
        ([1.0] * 197 + [30.0] * 3, 90.0),
        ([1.0] * 199 + [30.0], 10.0),
        # Only the newest 256 count.
        ([30.0] * 3 + [1.0] * 253, 90.0),
        ([30.0] * 3 + [1.0] * 254, 10.0),
        ([90.0] * 500 + [20.0] * KEPT, 60.0),
    ],
)
def test_auto_follows_the_slowest_of_a_hundred(latencies: list[float], limit_s: float) -> None:
    assert after(latencies).of("m", None) == limit_s


def test_a_limit_that_was_given_holds() -> None:
    assert after([20.0] * 20).of("m", 5.0) == 5.0


def test_models_are_counted_apart() -> None:
    timeouts = after([20.0] * 20, "slow")
    for _ in range(20):
        timeouts.saw("fast", 4.0)
    assert (timeouts.of("slow", None), timeouts.of("fast", None), timeouts.of("new", None)) == (60.0, 12.0, 45.0)


def test_nothing_is_kept_before_a_call_wants_it() -> None:
    shared = Shared(None, 1)
    timeouts = Timeouts(shared, 45.0)
    assert timeouts.of("m", 5.0) == 5.0
    for _ in range(ENOUGH):
        timeouts.saw("m", 20.0)
    assert bytes(shared.memory) == bytes(len(shared.memory))


@given(st.lists(st.floats(0, 1000, width=32), min_size=20, max_size=60))
def test_auto_stays_within_its_bounds_whatever_the_order(latencies: list[float]) -> None:
    limit_s = after(latencies).of("m", None)
    assert 10.0 <= limit_s <= 300.0
    assert limit_s >= min(300.0, 3 * sorted(latencies)[-2])
    assert after(latencies[::-1]).of("m", None) == limit_s


# -- attempts cut at the limit ---------------------------------------------------------------------


def test_attempts_cut_at_the_limit_raise_it_by_half_until_answers_come() -> None:
    timeouts = after([1.0] * 20)
    limits = [timeouts.of("m", None)]
    for _ in range(12):
        timeouts.cut("m", limits[-1])
        limits.append(timeouts.of("m", None))
    assert limits[:4] == [10.0, 15.0, 22.5, 33.75]
    assert limits == sorted(limits)
    assert limits[-1] == 300.0


def test_where_nothing_but_cuts_was_seen_they_count_too() -> None:
    timeouts = wanted(Shared(None, 1))
    for _ in range(ENOUGH):
        assert timeouts.of("m", None) == 45.0
        timeouts.cut("m", 45.0)
    assert timeouts.of("m", None) == 67.5


def test_among_many_answers_one_cut_changes_nothing_and_a_few_do() -> None:
    timeouts = after([1.0] * KEPT)
    limits = []
    for _ in range(3):
        timeouts.cut("m", 10.0)
        limits.append(timeouts.of("m", None))
    assert limits == [10.0, 10.0, 15.0]


def test_all_that_were_cut_together_raise_it_once() -> None:
    timeouts = after([1.0] * 20)
    for _ in range(8):
        timeouts.cut("m", 10.0)
    assert timeouts.of("m", None) == 15.0


def test_what_was_cut_sooner_tells_nothing() -> None:
    timeouts = after([1.0] * 20)
    for _ in range(KEPT):
        timeouts.cut("m", 9.4)
    assert timeouts.of("m", None) == 10.0


def test_calls_tell_of_their_answers_and_of_what_was_cut_at_the_limit(tmp_path: Path) -> None:
    with one_process(tmp_path) as it:
        it.engine.timeouts = Timeouts(it.runtime.shared, 0.05)
        it.server.default = hang()
        call = it.call(timeout_s=None, retries=ENOUGH - 1)
        assert [attempt.kind for attempt in call.attempts] == ["timeout"] * ENOUGH
        limits_ms = [limit_ms for (limit_ms,) in it.pick("gen_request", "timeout_ms")]
        assert limits_ms == [50] * ENOUGH
        assert it.engine.timeouts.of(MODEL, None) == 10.0  # twenty are known now
        lost = it.call("cut at a limit of its own", timeout_s=0.05, retries=0)
        assert [attempt.kind for attempt in lost.attempts] == ["timeout"]
        assert it.engine.timeouts.of(MODEL, None) == 10.0
        it.server.default = reply("x")
        assert it.call("answered", timeout_s=None).attempts[0].kind is None
        assert it.pick("gen_request", "timeout_ms")[-1] == (10_000,)


# -- over processes --------------------------------------------------------------------------------


def test_all_workers_see_what_each_has_seen(workers: tuple[Shared, Shared]) -> None:
    here, there = (wanted(shared) for shared in workers)
    for n in range(ENOUGH):
        assert here.of("m", None) == there.of("m", None) == 45.0
        (here if n % 2 else there).saw("m", 20.0)
    assert here.of("m", None) == there.of("m", None) == 60.0
    late = wanted(workers[1])
    assert late.of("m", None) == 60.0


def test_models_that_find_no_room_are_counted_by_each_process(workers: tuple[Shared, Shared]) -> None:
    here, there = (wanted(shared, "model 0") for shared in workers)
    for n in range(MODELS + 2):
        for _ in range(ENOUGH):
            here.saw(f"model {n}", 4.0 + n)
    limits = [(here.of(f"model {n}", None), there.of(f"model {n}", None)) for n in range(MODELS + 2)]
    common = [(12.0 + 3 * n, 12.0 + 3 * n) for n in range(MODELS)]
    assert limits == [*common, (36.0, 45.0), (39.0, 45.0)]


def test_the_table_ends_where_the_slots_begin(workers: tuple[Shared, Shared]) -> None:
    it = wanted(workers[0], "model 0")
    before = bytes(workers[1].memory[:LATENCIES_AT]), bytes(workers[1].memory[SLOTS_AT:])
    for n in range(MODELS + 1):
        for _ in range(KEPT + 1):
            it.saw(f"model {n}", 300.0)
    assert (bytes(workers[1].memory[:LATENCIES_AT]), bytes(workers[1].memory[SLOTS_AT:])) == before


@pytest.mark.parametrize("seed", range(20))
def test_garbage_in_the_table_moves_no_limit_out_of_its_bounds_and_is_soon_written_over(seed: int) -> None:
    shared = Shared(None, 1)
    timeouts = wanted(shared)
    at = LATENCIES_AT + 8  # behind the name
    shared.put(at, random.Random(seed).randbytes(ROW_BYTES - 8))
    assert 10.0 <= timeouts.of("m", None) <= 300.0
    for _ in range(KEPT):
        timeouts.saw("m", 20.0)
    assert timeouts.of("m", None) == 60.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -5.0, 0.0])
def test_what_is_no_latency_does_not_count(value: float) -> None:
    shared = Shared(None, 1)
    timeouts = wanted(shared)
    for _ in range(ENOUGH - 1):
        timeouts.saw("m", 20.0)
    for n in range(ENOUGH, KEPT):
        shared.put(LATENCIES_AT + 16 + 4 * n, struct.pack("<f", value))
    assert timeouts.of("m", None) == 45.0
    timeouts.saw("m", 20.0)
    assert timeouts.of("m", None) == 60.0


def test_names_full_of_garbage_leave_each_process_to_itself() -> None:
    shared = Shared(None, 1)
    shared.put(LATENCIES_AT, random.Random(7).randbytes(SLOTS_AT - LATENCIES_AT))
    timeouts = wanted(shared)
    for _ in range(ENOUGH):
        timeouts.saw("m", 20.0)
    assert timeouts.of("m", None) == 60.0
