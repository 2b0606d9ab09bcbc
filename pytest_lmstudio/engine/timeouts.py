"""The hard limit of an attempt, where it follows the latencies seen (`timeout=auto`), by all processes of the run."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TYPE_CHECKING

from pytest_lmstudio.engine.shared import LATENCIES_AT, LATENCIES_BYTES

if TYPE_CHECKING:
    import mmap

    from pytest_lmstudio.engine.shared import Shared

#: Until so many latencies of a model were seen, the default holds.
ENOUGH = 20
#: So many of its newest latencies count.
KEPT = 256
_LEAST_S, _MOST_S, _FACTOR = 10.0, 300.0, 3.0
_P99 = 0.99
#: A latency of nought means that none is there yet.
_SHORTEST_S = 0.001
#: What an attempt cut at the limit counts as: the limit then grows by half. Counted in full it would grow threefold
#: with each, and a server that hangs would hold the run for long.
_CUT_COUNTS = 0.5
#: Clocks of 16 ms may let a limit pass a little early.
_ABOUT = 0.95

_NAME, _WRITTEN, _LATENCY = struct.Struct("<Q"), struct.Struct("<Q"), struct.Struct("<f")
_RING = struct.Struct(f"<{KEPT}f")
_ROW_BYTES = _NAME.size + _WRITTEN.size + _RING.size
#: Models that fit into the common memory; of any more each process knows what it has seen itself.
MODELS = LATENCIES_BYTES // _ROW_BYTES


class Timeouts:
    """Latencies by model; `auto` is p99 times 3, between 10 s and 300 s.

    Latencies are kept from the first call on that wants them, so that nobody else pays for the lock.

    Args:
        shared: what the run's processes share.
        default_s: the limit until enough answers were seen, seconds.
    """

    def __init__(self, shared: Shared, default_s: float) -> None:
        self._shared = shared
        self._default_s = default_s
        self._rings: dict[str, _Ring] = {}
        self._wanted = False

    def of(self, model: str, given_s: float | None) -> float:
        """Return the limit in seconds: the one given, or for None the one that follows from what was seen."""
        if given_s is not None:
            return given_s
        self._wanted = True
        seen = self._ring(model).latencies()
        if len(seen) < ENOUGH:
            return self._default_s
        p99_s = seen[min(len(seen) - 1, int(_P99 * len(seen)))]
        return min(_MOST_S, max(_LEAST_S, p99_s * _FACTOR))

    def saw(self, model: str, latency_s: float) -> None:
        """Take the latency of an answer."""
        if self._wanted:
            ring = self._ring(model)
            with self._shared.guard():
                ring.add(latency_s)

    def cut(self, model: str, latency_s: float) -> None:
        """Take the time of an attempt that was cut at a limit that followed from what was seen.

        Answers slower than the limit are never seen, so that without this it could never rise to meet them. One that
        was cut sooner, by a limit of another kind or by one that has risen since, tells nothing.
        """
        if latency_s >= _ABOUT * self.of(model, None):
            self.saw(model, latency_s * _CUT_COUNTS)

    def _ring(self, model: str) -> _Ring:
        if model not in self._rings:
            self._rings[model] = self._common_ring(model) or _Ring(bytearray(_ROW_BYTES), 0)
        return self._rings[model]

    def _common_ring(self, model: str) -> _Ring | None:
        """Return the model's row of the common memory, a free one if it has none yet; None when all are taken."""
        name = _name_of(model)
        with self._shared.guard():
            for number in range(MODELS):
                at = LATENCIES_AT + number * _ROW_BYTES
                if bytes(self._shared.memory[at : at + _NAME.size]) in {name, bytes(_NAME.size)}:
                    self._shared.put(at, name)
                    return _Ring(self._shared.memory, at)
        return None


class _Ring:
    """A row of memory: whose latencies, how many were ever written, and the newest of them in seconds.

    Others may write it too, and may be killed at it: what is no latency there is passed over, and soon written over.
    """

    def __init__(self, memory: mmap.mmap | bytearray, at: int) -> None:
        self._memory = memory
        self._written_at = at + _NAME.size
        self._ring_at = self._written_at + _WRITTEN.size

    def add(self, latency_s: float) -> None:
        """Write a latency over the oldest one."""
        memory, at = self._memory, self._written_at
        (written,) = _WRITTEN.unpack_from(memory, at)
        place = self._ring_at + written % KEPT * _LATENCY.size
        memory[place : place + _LATENCY.size] = _LATENCY.pack(min(max(latency_s, _SHORTEST_S), _MOST_S))
        memory[at : at + _WRITTEN.size] = _WRITTEN.pack((written + 1) % 2**64)

    def latencies(self) -> list[float]:
        """Return what is there, the shortest first."""
        return sorted(s for s in _RING.unpack_from(self._memory, self._ring_at) if math.isfinite(s) and s > 0)


def _name_of(model: str) -> bytes:
    """Return eight bytes that stand for a model in every process, never all zeros."""
    found = hashlib.sha256(model.encode(errors="surrogatepass")).digest()[: _NAME.size]
    return found if any(found) else b"\x01" * _NAME.size
