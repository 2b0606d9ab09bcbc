"""What ends a run early: SIGTERM, which a CI job that is stopped sends, is taken as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@contextmanager
def sigterm_interrupts(matters: Callable[[], bool]) -> Iterator[None]:
    """Let the first SIGTERM raise `KeyboardInterrupt`, so that the report is still written; a second one kills.

    Someone else's handler stays in place.

    Args:
        matters: asked when the signal comes; when it says no, the signal does what it did before.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if matters():
            raise KeyboardInterrupt
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def hurried_by_the_next(hurry: Callable[[], None]) -> Callable[[], None]:
    """Let the next Ctrl-C cut the wait for calls in flight short, even while pytest is still busy with the first.

    Args:
        hurry: called when it comes, before `KeyboardInterrupt` is raised as ever.

    Returns:
        What puts the former handler back.
    """
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or former is not signal.default_int_handler:
        return lambda: None

    def again(number: int, frame: FrameType | None) -> None:
        restore()
        hurry()
        signal.default_int_handler(number, frame)

    def restore() -> None:
        if signal.getsignal(signal.SIGINT) is again:
            signal.signal(signal.SIGINT, former)

    signal.signal(signal.SIGINT, again)
    return restore
