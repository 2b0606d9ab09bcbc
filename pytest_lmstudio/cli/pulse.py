"""The pulse of a server: generations of one token, and what the newest of them say of its health."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_lmstudio.cli.target import RESTART, remedy_of
from pytest_lmstudio.engine.failure import Refused
from pytest_lmstudio.errors import KINDS, ErrorKind
from pytest_lmstudio.record.events import iso_of
from pytest_lmstudio.record.gate import percent
from pytest_lmstudio.record.stats import percentile, ratio, rounded
from pytest_lmstudio.report.figures import rate
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.server.probe import Probe
    from pytest_lmstudio.settings import BreakerLimits

Status = Literal["healthy", "unhealthy", "starting"]
PROMPT = "Say OK."
#: The slowest answer is a spike when it took so many times the median, and so much longer.
_SPIKE_TIMES, _SPIKE_MS = 3.0, 100.0
#: A median below a clock's resolution is none to compare with.
_LEAST_MS = 0.001


class Beat(NamedTuple):
    """One generation of one token.

    Attributes:
        at_s: when it ended, Unix seconds.
        model: the model asked, None when none could be found.
        latency_ms: from sending to the last byte, or to the failure.
        ttft_ms: to the first token; None for a failure, and for an answer that came whole.
        kind: why it failed, None when it went well.
        message: the same in words, safe to show.
    """

    at_s: float
    model: str | None
    latency_ms: float
    ttft_ms: float | None = None
    kind: ErrorKind | None = None
    message: str = ""

    @property
    def ends_a_series(self) -> bool:
        """Tell whether another one makes no sense at once: it cannot help, or would take as long again."""
        return self.kind is not None and (self.kind is ErrorKind.TIMEOUT or not KINDS[self.kind].retried)


def take(probe: Probe, target: Target) -> Beat:
    """Ask once."""
    model = target.settings.model or target.fixed_model
    try:
        model = model or probe.only_model()
    except Refused as refused:
        return _failed(refused.failure, None, 0.0)
    stream = target.settings.stream
    tried = probe.generate(model, PROMPT, max_tokens=1, limits=target.limits, stream=stream)
    if tried.failure is not None or tried.reply is None:
        return _failed(tried.failure, model, tried.latency_ms)
    return Beat(time.time(), model, tried.latency_ms, tried.reply.ttft_ms)


def _failed(failure: Failure | None, model: str | None, latency_ms: float) -> Beat:
    kind = failure.kind if failure else ErrorKind.INVALID_RESPONSE
    return Beat(time.time(), model, latency_ms, None, kind, failure.message if failure else "")


@dataclass(frozen=True, slots=True)
class Breaker:
    """After several network errors in a row a server is asked less often; one answer closes it.

    Attributes:
        limits: how many errors, and how long a pause; None is off.
        failures: network errors in a row.
    """

    limits: BreakerLimits | None
    failures: int = 0

    @property
    def is_open(self) -> bool:
        """Tell whether the server is left alone for a while."""
        return self.limits is not None and self.failures >= self.limits.failures

    @property
    def state(self) -> str:
        """Return ``closed``, ``open`` or ``off``."""
        return "off" if self.limits is None else "open" if self.is_open else "closed"

    @property
    def pause_s(self) -> float:
        """Return for how many seconds the server is left alone."""
        return self.limits.pause_s if self.limits is not None and self.is_open else 0.0

    def after(self, beat: Beat) -> Breaker:
        """Return the breaker after a generation; an error that the network has no part in leaves it as it is."""
        if beat.kind is None:
            return replace(self, failures=0)
        return replace(self, failures=self.failures + 1) if KINDS[beat.kind].category == "network" else self


def judge(beats: Sequence[Beat], *, url: str, max_error_rate: float, breaker: Breaker) -> dict[str, Any]:
    """Return what is known of a server's health, plain data for JSON; null is what is not known.

    Args:
        beats: the newest generations, oldest first.
        url: the server.
        max_error_rate: the share of them that may fail, 0 to 1.
        breaker: as of now.

    Returns:
        ``status`` is ``healthy``, ``unhealthy`` or, before the first generation ended, ``starting``; ``reason`` says
        why it is not healthy; times are milliseconds, those of ``latency_ms`` and ``ttft_ms`` of the newest answer.
    """
    good = [beat for beat in beats if beat.kind is None]
    failed = [beat for beat in beats if beat.kind is not None]
    latencies = [beat.latency_ms for beat in good]
    error_rate = ratio(len(failed), len(beats))
    reason = _reason(error_rate, max_error_rate, failed, breaker)
    status: Status = "starting" if not beats else "unhealthy" if reason else "healthy"
    middle_ms = median(latencies) if latencies else 0.0
    times = max(latencies) / middle_ms if middle_ms >= _LEAST_MS else None
    return {
        "status": status,
        "reason": reason,
        "url": url,
        "model": next((beat.model for beat in reversed(beats) if beat.model), None),
        "checked_at": iso_of(beats[-1].at_s) if beats else None,
        "samples": len(beats),
        "failed": len(failed),
        "error_rate": error_rate,
        "max_error_rate": max_error_rate,
        "latency_ms": rounded(latencies[-1]) if latencies else None,
        "ttft_ms": rounded(good[-1].ttft_ms) if good else None,
        **{f"p{n}_ms": rounded(percentile(latencies, n)) for n in (50, 95, 99)},
        "max_ms": rounded(max(latencies, default=None)),
        "spike": times is not None and times >= _SPIKE_TIMES and max(latencies) - middle_ms >= _SPIKE_MS,
        "spike_ratio": rounded(times),
        "breaker": breaker.state,
        "errors_by_kind": dict(Counter(str(beat.kind) for beat in failed)),
    }


def _reason(error_rate: float | None, limit: float, failed: Sequence[Beat], breaker: Breaker) -> str | None:
    if not failed or error_rate is None:
        return None
    last = failed[-1]
    why = f"the last one: [{last.kind}] {printable(last.message)}; {_remedy(last)}"
    if breaker.is_open:
        return f"{breaker.failures} network errors in a row; {why}"
    return f"{rate(error_rate)} failed, limit {percent(limit)}; {why}" if error_rate > limit else None


def _remedy(failed: Beat) -> str:
    """Return what to do; a server that did not even list its models needs no more time for answers."""
    if failed.kind is None or (failed.kind is ErrorKind.TIMEOUT and failed.model is None):
        return RESTART
    return remedy_of(failed.kind)
