"""Which signals are taken as an interrupt, what the first, the second and the third do, and whose handlers stay."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio import interrupt
from pytest_lmstudio.interrupt import Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals"),
    pytest.mark.timeout(30),
]
STOPS = [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]


class Told:
    """What a run was told, and an `Interrupts` that tells it; its clock stands still until `now_s` is set."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.matters = True
        self.now_s = 100.0
        self.it = Interrupts(lambda: self.matters, lambda: self.words.append("interrupt"), self.hurry)

    def hurry(self) -> None:
        self.words.append("hurry")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Give each test the handlers of a fresh process, and put back what the tests run with."""
    numbers = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(STOPS, signal.SIG_DFL)
    before = {number: signal.signal(number, fresh) for number, fresh in numbers.items()}
    told = Told()
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=lambda: told.now_s))
    try:
        yield told
    finally:
        told.it.done()
        told.it.restore()
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_signal_is_ctrl_c(told: Told, number: signal.Signals) -> None:
    told.it.watch()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert told.words == ["interrupt"]


def test_a_stop_signal_goes_the_way_of_whoever_handles_ctrl_c(told: Told) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    told.it.watch()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGINT]
    assert told.words == ["interrupt"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_ctrl_c_is_ignored_a_stop_signal_interrupts_all_the_same(told: Told, handler: signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    told.it.watch()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "own"])
def test_a_handler_of_someone_else_stays(told: Told, handler: signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, handler)
    told.it.watch()
    assert signal.getsignal(signal.SIGTERM) is handler
    told.it.restore()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_second_one_hurries_and_the_third_does_what_it_does_without_us(told: Told) -> None:
    told.it.watch()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    told.it.noted()
    told.now_s += 0.2
    signal.raise_signal(signal.SIGINT)
    assert told.words == ["interrupt", "hurry"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert told.words == ["interrupt", "hurry"]


def test_a_stop_signal_that_comes_again_at_once_is_the_same_one(told: Told) -> None:
    told.it.watch()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    told.now_s += 0.09
    signal.raise_signal(signal.SIGTERM)
    assert told.words == ["interrupt"]
    told.now_s += 0.02
    signal.raise_signal(STOPS[-1])
    assert told.words == ["interrupt", "hurry"]


def test_ctrl_c_again_is_never_the_same_one(told: Told) -> None:
    told.it.noted()
    signal.raise_signal(signal.SIGINT)
    assert told.words == ["hurry"]


def test_the_second_one_breaks_off_what_does_not_end(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_GRACE_S", 0.01)
    told.it.noted()
    with pytest.raises(KeyboardInterrupt):
        _wait_for_ever()
    assert told.words == ["hurry"]


def _wait_for_ever() -> None:
    signal.raise_signal(signal.SIGINT)
    threading.Event().wait(20)


def test_nothing_is_broken_off_once_the_report_is_made(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_GRACE_S", 0.5)
    told.it.noted()
    signal.raise_signal(signal.SIGINT)
    told.it.done()
    assert told.it._breaking_off is not None
    told.it._breaking_off.join()
    assert told.words == ["hurry"]


def test_restoring_leaves_the_handlers_of_before(told: Told) -> None:
    told.it.watch()
    told.it.noted()
    told.it.restore()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [signal.getsignal(number) for number in STOPS] == [signal.SIG_DFL] * 2
    told.it.restore()


def test_a_handler_that_came_later_stays_when_ours_goes(told: Told) -> None:
    told.it.watch()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.it.restore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_change_no_handler(told: Told) -> None:
    def work() -> None:
        told.it.watch()
        told.it.noted()
        told.it.restore()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def status_of_a_child(told: Told) -> int:
    """Fork, and return how the child ends."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        os._exit(1 if told.words else 2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("matters", [True, False])
def test_a_forked_child_dies_by_a_stop_signal_as_ever(told: Told, *, matters: bool) -> None:
    told.matters = matters
    told.it.watch()
    assert status_of_a_child(told) == -signal.SIGTERM
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_without_calls_dies_by_a_stop_signal_as_ever(told: Told) -> None:
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            told.matters = False
            told.it.watch()
            signal.raise_signal(signal.SIGTERM)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
