"""What ends a run early: Ctrl-C, and the signals of a CI job that is stopped and of a terminal that is closed."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object]

#: Taken as Ctrl-C: a job or container that is stopped, a terminal that is closed, Ctrl-Break on Windows.
_STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
#: A stop signal may come twice: `timeout` of coreutils signals its command, and then all of the command's group.
_ECHO_S = 0.1
#: How long a second interrupt waits for the run to end by itself before it breaks off whatever goes on.
_GRACE_S = 3.0


class Interrupts:
    """Takes a stop signal as Ctrl-C, and lets the second interrupt of any kind end the run at once.

    The first one is for pytest, as ever. The second one ends all calls, so that the report is made within a moment;
    what does not end by that is broken off after seconds. The third one does what it does without this plugin.

    A handler of someone else's stays in place, and forked children have none of ours.

    Args:
        matters: asked when a stop signal comes; when it says no, the signal does what it does without this plugin.
        interrupt: called at the first stop signal, before Ctrl-C is raised; must be quick and wait for no lock.
        hurry: called at the second interrupt; the same.
    """

    def __init__(self, matters: Callable[[], bool], interrupt: Callable[[], None], hurry: Callable[[], None]) -> None:
        self._matters = matters
        self._interrupt = interrupt
        self._hurry = hurry
        self._first_s: float | None = None
        self._ours: dict[int, Handler] = {}
        self._former: dict[int, Handler | int | None] = {}
        self._breaking_off: threading.Timer | None = None

    def watch(self) -> None:
        """Take stop signals from now on."""
        for number in _STOPS:
            self._take(number, signal.SIG_DFL, self._stop)

    def noted(self) -> None:
        """Take the next Ctrl-C as the second interrupt."""
        self._first_s = self._first_s or time.monotonic()
        self._take(signal.SIGINT, signal.default_int_handler, self._again)

    def done(self) -> None:
        """Let what still goes on end in its own time: the calls have ended, and the report is being made."""
        if self._breaking_off is not None:
            self._breaking_off.cancel()

    def restore(self) -> None:
        """Put the former handlers back, where ours are still in place."""
        if threading.current_thread() is threading.main_thread():
            for number, ours in self._ours.items():
                if signal.getsignal(number) is ours:
                    signal.signal(number, self._former[number])
            self._ours.clear()
            _in_place.discard(self)

    def _take(self, number: int, former: object, ours: Handler) -> None:
        found = signal.getsignal(number)
        if threading.current_thread() is threading.main_thread() and found == former:
            self._ours[number], self._former[number] = ours, found
            signal.signal(number, ours)
            _in_place.add(self)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._matters():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif self._first_s is None:
            self._first_s = time.monotonic()
            self._interrupt()
            # An event loop that runs a test has a way of its own to end it.
            handler = signal.getsignal(signal.SIGINT)
            (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)
        elif time.monotonic() - self._first_s >= _ECHO_S:
            self._again(number, frame)

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        self.restore()
        self._hurry()
        self._breaking_off = threading.Timer(_GRACE_S, _raise_ctrl_c)
        self._breaking_off.daemon = True
        self._breaking_off.start()


def _raise_ctrl_c() -> None:
    """Send Ctrl-C to the main thread, also while it waits for a lock."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


#: Those with handlers in place, which a forked child gives back; its signals wait for that, since Python drops what
#: comes to a handler of its own in the first moments of a child.
_in_place: set[Interrupts] = set()
_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    for interrupts in list(_in_place):
        interrupts.restore()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
