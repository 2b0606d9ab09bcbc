"""Every setting of a run, resolved."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

CacheMode = Literal["readwrite", "refresh", "off", "offline"]
#: The URL that is none: a server of the run's own.
EMBEDDED = "embedded"
#: How long calls in flight may take to end when the run is interrupted, seconds.
DRAIN_S = 5.0


class BreakerLimits(NamedTuple):
    """When the circuit breaker opens, and for how long."""

    failures: int
    pause_s: float

    def __str__(self) -> str:
        """Return the form that the option takes."""
        return f"{self.failures}:{float(self.pause_s)!r}".removesuffix(".0")


class Settings(NamedTuple):
    """Every setting, resolved once; the names are those of the command line, times are seconds.

    Attributes:
        url: base URL without ``/v1`` and without a trailing slash, or ``embedded``.
        model: the model named, or None for the one that is loaded.
        timeout: hard limit of one attempt in seconds, or ``auto``.
        first_token_timeout: limit in seconds from sending to the first token of a stream; None is the attempt's alone.
        inter_token_timeout: limit in seconds from one token of a stream to the next; None is the attempt's alone.
        retries: retries after the first attempt.
        backoff: base of the exponential back-off, seconds.
        retry_strategy: ``exponential``, ``decorrelated``, or a name that a hook knows.
        concurrency: requests in flight at once, over all processes of the run.
        latency_threshold: mean latency in seconds above which the limit is lowered; None is off.
        breaker: consecutive network errors and the pause in seconds; None is off.
        cache: ``readwrite``, ``refresh``, ``off`` or ``offline``.
        cache_size: entries.
        pipeline_version: part of every cache key, log line and report.
        max_error_rate: the gate, 0 to 1.
        on_error: ``gate`` or ``fail``.
        stream: whether answers travel as event streams.
        order: ``affinity`` runs tests of one model together, ``as-written`` leaves their order alone.
        recipe: the recipe's name, or None.
        wait: seconds that the preflight waits for a server that is still starting.
        dir: folder of cache and runs, absolute.
        report: where a further copy of report.json goes, or None.
        html: where the HTML page goes, or None.
        html_texts: whether that page holds prompts and replies.
        metrics_port: TCP port of 127.0.0.1 for Prometheus metrics, 0 for any that is free, or None.
        metrics_file: where metrics go at the end, or None.
        params: request parameters that a recipe adds, such as ``max_tokens``.
    """

    url: str = "http://127.0.0.1:1234"
    model: str | None = None
    timeout: float | Literal["auto"] = 45.0
    first_token_timeout: float | None = None
    inter_token_timeout: float | None = 60.0
    retries: int = 3
    backoff: float = 0.8
    retry_strategy: str = "exponential"
    concurrency: int = 4
    latency_threshold: float | None = None
    breaker: BreakerLimits | None = BreakerLimits(5, 30.0)
    cache: CacheMode = "readwrite"
    cache_size: int = 500
    pipeline_version: str = ""
    max_error_rate: float = 0.05
    on_error: Literal["gate", "fail"] = "gate"
    stream: bool = True
    order: Literal["affinity", "as-written"] = "affinity"
    recipe: str | None = None
    wait: float = 0.0
    dir: str = ".lmstudio"
    report: str | None = None
    html: str | None = None
    html_texts: bool = False
    metrics_port: int | None = None
    metrics_file: str | None = None
    params: tuple[tuple[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that survives JSON and xdist: str, int, float, bool, None, and lists of them."""
        plain = self._asdict()
        plain["breaker"] = str(self.breaker) if self.breaker else None
        plain["params"] = dict(self.params)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Settings:
        """Undo `as_dict`."""
        known = dict(plain)
        if known["breaker"] is not None:
            failures, pause_s = known["breaker"].split(":")
            known["breaker"] = BreakerLimits(int(failures), float(pause_s))
        known["params"] = tuple(known["params"].items())
        return cls(**known)
