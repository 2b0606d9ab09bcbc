"""The hard limit of an attempt, where it follows the latencies seen (`timeout=auto`)."""

from __future__ import annotations

from collections import deque

#: Until so many answers of a model were seen, the default holds.
ENOUGH = 20
_LEAST_S, _MOST_S, _FACTOR, _KEPT = 10.0, 300.0, 3.0, 1000
_P99 = 0.99


class Timeouts:
    """Latencies by model, of this process; `auto` is p99 times 3, between 10 s and 300 s.

    Args:
        default_s: the limit until enough answers were seen, seconds.
    """

    def __init__(self, default_s: float) -> None:
        self._default_s = default_s
        self._seen: dict[str, deque[float]] = {}

    def saw(self, model: str, latency_s: float) -> None:
        """Take the latency of an answer."""
        self._seen.setdefault(model, deque(maxlen=_KEPT)).append(latency_s)

    def of(self, model: str, given_s: float | None) -> float:
        """Return the limit in seconds: the one given, or for None the one that follows from what was seen."""
        if given_s is not None:
            return given_s
        seen = sorted(self._seen.get(model, ()))
        if len(seen) < ENOUGH:
            return self._default_s
        p99_s = seen[min(len(seen) - 1, int(_P99 * len(seen)))]
        return min(_MOST_S, max(_LEAST_S, p99_s * _FACTOR))
