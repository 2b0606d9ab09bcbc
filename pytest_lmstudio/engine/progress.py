"""How far an exchange got."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lmstudio.errors import Phase


class Progress:
    """Written by the transport and by the reader of the answer while an exchange goes on.

    Attributes:
        started_s: when the attempt began, on the monotonic clock.
        phase: ``connecting`` (not sent), ``waiting`` (sent, no byte of the body yet), ``receiving``.
        fresh: whether a connection was made for it.
        connected: whether that connection was made.
        answered: whether the head of an answer came.
        first_piece_s: when the first piece of text, reasoning or tool call came.
        whole_s: when the server said that the answer is whole.
        stale_reconnects: 1 when a kept connection had died and a fresh one was used, else 0.
    """

    def __init__(self, started_s: float) -> None:
        """Begin; `started_s` is when, on the monotonic clock."""
        self.started_s = started_s
        self.phase: Phase = "connecting"
        self.fresh = self.connected = self.answered = False
        self.first_piece_s: float | None = None
        self.whole_s: float | None = None
        self.stale_reconnects = 0

    def reconnect(self) -> None:
        """Begin anew, for a kept connection had died; the clock goes on."""
        self.stale_reconnects, self.phase = 1, "connecting"
        self.fresh = self.connected = self.answered = False

    def elapsed_ms(self) -> float:
        """Return how long the attempt took, or has taken until now."""
        return ((self.whole_s or time.monotonic()) - self.started_s) * 1000
