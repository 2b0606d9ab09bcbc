"""What the stand-in remembers: each request and its end, how many were in flight, and the server's log."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tests.standin import bodies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Outcome = Literal["answered", "fault", "aborted"]
LEFT = "Client disconnected. Stopping generation... (If the model is busy processing the prompt, it will finish first.)"
POLL_S = 0.02


@dataclass(slots=True, eq=False)
class Received:
    """One request and what became of it; `ended_at`, `outcome` and `step` are filled in later.

    Attributes:
        method: ``GET``, ``POST`` and so on.
        path: the path without the query.
        headers: names lower-cased.
        body: the parsed JSON, None where there was none or it was broken.
        at: when it had arrived whole, `time.monotonic` seconds.
        connection: number of the connection, 1 for the server's first.
        reused: whether the connection had carried a request before.
        step: name of the step that served it.
        ended_at: when the answer was whole, the connection was cut, or the client left; None while it is served.
        outcome: ``answered``: a whole response was sent, whatever its status; ``fault``: the stand-in broke off;
            ``aborted``: the client left first.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float
    connection: int
    reused: bool
    step: str = ""
    ended_at: float | None = None
    outcome: Outcome | None = None

    @property
    def text(self) -> str:
        """The last user message."""
        return bodies.last_user_text(self.body) if isinstance(self.body, dict) else ""

    @property
    def stream(self) -> bool:
        """Whether an event stream was asked for."""
        return isinstance(self.body, dict) and self.body.get("stream") is True

    @property
    def model(self) -> Any:
        """The model asked for, None without one."""
        return self.body.get("model") if isinstance(self.body, dict) else None


@dataclass(slots=True)
class Journal:
    """All that tests read from other threads; `lock` guards it and is notified of each change."""

    keep: bool = True
    lock: threading.Condition = field(default_factory=threading.Condition)
    requests: list[Received] = field(default_factory=list)
    all_requests: list[Received] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0
    busy: int = 0
    peak_busy: int = 0
    unexpected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def arrived(self, received: Received, *, generating: bool) -> None:
        """Note a request that arrived whole."""
        with self.lock:
            if self.keep:
                self.all_requests.append(received)
            if generating:
                if self.keep:
                    self.requests.append(received)
                self.in_flight += 1
                self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            self.lock.notify_all()

    def ended(self, received: Received, outcome: Outcome, *, generating: bool) -> None:
        """Note a request's end; only its first end counts."""
        with self.lock:
            if received.outcome is not None:
                return
            received.outcome, received.ended_at = outcome, time.monotonic()
            self.in_flight -= generating
            self.lock.notify_all()

    def computing(self, change: int) -> None:
        """Note that a slot was taken (1) or freed (-1)."""
        with self.lock:
            self.busy += change
            self.peak_busy = max(self.peak_busy, self.busy)
            self.lock.notify_all()

    def complain(self, where: list[str], text: str) -> None:
        """Append to `unexpected` or `errors`."""
        with self.lock:
            where.append(text)
            self.lock.notify_all()

    def log(self, message: str, level: str = "INFO", tag: str = "LM STUDIO SERVER") -> None:
        """Write one line in the form of LM Studio 0.4."""
        if self.keep:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            with self.lock:
                self.lines.append(f"[{stamp}][{level}][{tag}] {message}")

    def wait_for(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Return when `condition` holds, checked under the lock; AssertionError when it never did."""
        until = time.monotonic() + timeout_s
        with self.lock:
            while not condition():
                if time.monotonic() >= until:
                    raise AssertionError(self._still(timeout_s))
                self.lock.wait(POLL_S)

    def _still(self, timeout_s: float) -> str:
        ends = [f"{r.method} {r.path} -> {r.step or '?'}: {r.outcome or 'in flight'}" for r in self.all_requests[-8:]]
        seen = "; ".join(ends) or "no request came"
        return (
            f"the stand-in's condition did not hold within {timeout_s:g} s ({self.in_flight} in flight; last: {seen})"
        )

    def write(self, folder: Path) -> Path:
        """Write the log as LM Studio does, ``server-logs/YYYY-MM/YYYY-MM-DD.1.log``, and return the file."""
        path = folder / "server-logs" / time.strftime("%Y-%m") / time.strftime("%Y-%m-%d.1.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock:
            path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        return path
