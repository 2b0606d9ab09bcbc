"""Prometheus metrics of a run, from the events of its log: times in seconds, and no label with more than a few values.

The names are what users' dashboards and alerts rely on; docs/metrics.md lists them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from pytest_lmstudio.record.events import seconds_of
from pytest_lmstudio.record.history import number
from pytest_lmstudio.report.files import write_whole
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from pytest_lmstudio.record.events import Event

_REQUEST_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300)
_FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
#: Models that have a label of their own; a suite that makes names up must not fill somebody's memory.
_MOST_MODELS = 50
_OTHER_MODELS = "(other)"
_NAME_CHARS = 100
#: How the methods begin that take an event.
_ON = "_on_"
_BREAKER = ("closed", "open", "given_up")

#: Counters by name: what the help says, and the labels.
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lmstudio_calls": ("Calls that ended, by outcome", ("model", "outcome")),
    "lmstudio_attempts": ("Attempts that ended, by outcome", ("model", "outcome")),
    "lmstudio_retries": ("Attempts after the first one of a call", ("model",)),
    "lmstudio_errors": ("Errors of attempts, and of calls that made none, by kind", ("model", "category", "kind")),
    "lmstudio_prompt_tokens": ("Tokens of prompts, as the server counts them", ("model",)),
    "lmstudio_completion_tokens": ("Tokens of answers, as the server counts them", ("model",)),
    "lmstudio_cache_hits": ("Calls that were answered from the cache", ()),
    "lmstudio_cache_misses": ("Calls that the cache had no answer for", ()),
    "lmstudio_cache_stores": ("Answers that were put into the cache", ()),
    "lmstudio_cache_evictions": ("Answers that had to go from the cache", ()),
    "lmstudio_breaker_trips": ("Pauses of the circuit breaker that began", ()),
    "lmstudio_breaker_paused_seconds": ("Time that the circuit breaker paused, of pauses that are over", ()),
    "lmstudio_workers_crashed": ("xdist workers that died", ()),
}
_HISTOGRAMS = {
    "lmstudio_request_duration_seconds": ("From sending to the last byte, of attempts that went well", _REQUEST_S),
    "lmstudio_time_to_first_token_seconds": ("From sending to the first token of a stream", _FIRST_TOKEN_S),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lmstudio_requests_in_flight": ("Requests in flight", ()),
    "lmstudio_requests_limit": ("Requests that may be in flight at once, over all workers", ()),
    "lmstudio_breaker_state": ("1 for the state that the circuit breaker is in", ("state",)),
    "lmstudio_cache_entries": ("Entries in the cache at the end of the run", ()),
    "lmstudio_cache_size_limit": ("Entries that the cache may hold", ()),
    "lmstudio_tests": ("Tests, by outcome", ("outcome",)),
    "lmstudio_run_start_time_seconds": ("When the run began, Unix time", ()),
    "lmstudio_run_end_time_seconds": ("When the run ended, Unix time", ()),
    "lmstudio_gate_failed": ("1 when the run's gate failed, 0 when it passed", ()),
}


class RunMetrics:
    """The metrics of one run, as far as its events have come; what `CollectorRegistry` takes as a collector.

    Counters only grow: a call that was answered and that no test asked for in the end stays ``ok`` here.

    Args:
        limit: requests that may be in flight at once, as the run began.
        cache_size: entries that the cache may hold.
        started_s: when the run began, Unix seconds.
    """

    def __init__(self, limit: int, cache_size: int, started_s: float) -> None:
        self._counts: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _COUNTERS}
        self._times: dict[str, dict[str, _Histogram]] = {name: {} for name in _HISTOGRAMS}
        self._gauges: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _GAUGES}
        self._set("lmstudio_requests_limit", limit)
        self._set("lmstudio_cache_size_limit", cache_size)
        self._set("lmstudio_run_start_time_seconds", started_s)
        self._breaker("closed")
        self._models: set[str] = set()
        self._in_flight: dict[tuple[Any, Any], Event] = {}
        self._tests: dict[str, str] = {}
        self._others: Counter[str] = Counter()

    @property
    def events(self) -> frozenset[str]:
        """The names of the events that tell something here."""
        return frozenset(name.removeprefix(_ON) for name in dir(self) if name.startswith(_ON))

    def take(self, event: Event) -> None:
        """Count an event; one that tells nothing here, or is none of ours, changes nothing."""
        handle = getattr(self, _ON + event["event"], None)
        if handle is not None:
            handle(event)

    def judged(self, *, gate_failed: bool | None) -> None:
        """Note the verdict; None is one that was not given."""
        if gate_failed is not None:
            self._set("lmstudio_gate_failed", gate_failed)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, those without a value yet too."""
        self._set("lmstudio_requests_in_flight", len(self._in_flight))
        tests = Counter(self._tests.values()) + self._others
        self._gauges["lmstudio_tests"] = {(word,): float(count) for word, count in sorted(tests.items())}
        for name, (about, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(name, about, labels=labels)
            for values, count in sorted(self._counts[name].items()) or ([] if labels else [((), 0)]):
                counter.add_metric(values, count)
            yield counter
        for name, (about, _) in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, about, labels=("model",))
            for model, times in sorted(self._times[name].items()):
                histogram.add_metric((model,), buckets=times.cumulated(), sum_value=times.sum_s)
            yield histogram
        for name, (about, labels) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, about, labels=labels)
            for values, value in self._gauges[name].items():
                gauge.add_metric(values, value)
            yield gauge

    # What each event changes.

    def _on_gen_request(self, event: Event) -> None:
        slot = event.get("slot")
        if slot is not None:  # whoever had it before has ended, whether it told or not
            self._forget(lambda other: other.get("slot") == slot)
        key = event.get("call_id"), event.get("attempt")
        self._in_flight[key] = event
        model = self._model(event)
        first = (number(event.get("attempt")) or 1) <= 1
        if not first:
            self._count("lmstudio_retries", model)
        elif event.get("cache") == "miss":
            self._count("lmstudio_cache_misses")

    def _on_gen_success(self, event: Event) -> None:
        model = self._ended(event, "ok")
        self._count("lmstudio_calls", model, "ok")
        self._time("lmstudio_request_duration_seconds", model, event.get("latency_ms"))
        self._time("lmstudio_time_to_first_token_seconds", model, event.get("ttft_ms"))
        self._count("lmstudio_prompt_tokens", model, by=number(event.get("tokens_in")) or 0)
        self._count("lmstudio_completion_tokens", model, by=number(event.get("tokens_out")) or 0)
        self._count("lmstudio_cache_stores", by=event.get("stored") is True)
        self._count("lmstudio_cache_evictions", by=number(event.get("evicted")) or 0)

    def _on_gen_error(self, event: Event) -> None:
        was_sent = bool(event.get("attempt"))
        model = self._ended(event, "failed") if was_sent else self._model(event)
        kind, category = _name(event.get("error_kind")), _name(event.get("error_category"))
        self._count("lmstudio_errors", model, category, kind)
        self._count("lmstudio_cache_misses", by=kind == "cache_miss")
        if event.get("retry_in_ms") is None:
            self._count("lmstudio_calls", model, "failed")

    def _on_gen_abandoned(self, event: Event) -> None:
        if event.get("attempt"):
            model = self._ended(event, "abandoned")
            self._count("lmstudio_calls", model, "abandoned")

    def _on_gen_cached(self, event: Event) -> None:
        outcome = "coalesced" if event.get("source") == "coalesced" else "cached"
        self._count("lmstudio_calls", self._model(event), outcome)
        self._count("lmstudio_cache_hits", by=outcome == "cached")

    def _on_breaker_open(self, event: Event) -> None:
        self._breaker("given_up" if event.get("gave_up") else "open")
        self._count("lmstudio_breaker_trips", by=not event.get("gave_up"))

    def _on_breaker_closed(self, event: Event) -> None:
        self._breaker("closed")
        self._count("lmstudio_breaker_paused_seconds", by=number(event.get("paused_s")) or 0)

    def _on_concurrency_changed(self, event: Event) -> None:
        limit = number(event.get("limit"))
        if limit is not None:
            self._set("lmstudio_requests_limit", limit)

    def _on_worker_crashed(self, event: Event) -> None:
        self._count("lmstudio_workers_crashed")
        self._forget(lambda other: other.get("worker") == event.get("worker"))

    def _on_test_end(self, event: Event) -> None:
        self._tests[str(event.get("nodeid"))] = _name(event.get("outcome"))
        others = event.get("others")
        if isinstance(others, dict):
            self._others = _counts_of(others)

    def _on_run_end(self, event: Event) -> None:
        self._in_flight.clear()
        ended_s, entries, tests = seconds_of(event.get("ts")), number(event.get("cache_entries")), event.get("tests")
        if ended_s is not None:
            self._set("lmstudio_run_end_time_seconds", ended_s)
        if entries is not None:
            self._set("lmstudio_cache_entries", entries)
        if isinstance(tests, dict):
            self._tests, self._others = {}, _counts_of(tests)

    # How it is kept.

    def _ended(self, event: Event, outcome: str) -> str:
        """Count the end of an attempt; return the label of its model."""
        self._in_flight.pop((event.get("call_id"), event.get("attempt")), None)
        model = self._model(event)
        self._count("lmstudio_attempts", model, outcome)
        return model

    def _forget(self, is_over: Any) -> None:
        for key in [key for key, other in self._in_flight.items() if is_over(other)]:
            del self._in_flight[key]

    def _model(self, event: Event) -> str:
        model = _name(event.get("model") or "unknown")
        if model not in self._models and len(self._models) >= _MOST_MODELS:
            return _OTHER_MODELS
        self._models.add(model)
        return model

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        if by:
            self._counts[name][labels] += by  # type: ignore[assignment]  # seconds are counted too

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._gauges[name][labels] = float(value)

    def _time(self, name: str, model: str, ms: object) -> None:
        value_ms = number(ms)
        if value_ms is not None and value_ms >= 0:
            bounds_s = _HISTOGRAMS[name][1]
            self._times[name].setdefault(model, _Histogram(bounds_s)).add(value_ms / 1000)

    def _breaker(self, state: str) -> None:
        for known in _BREAKER:
            self._set("lmstudio_breaker_state", known == state, known)


class _Histogram:
    """Counts of times up to each bound, in seconds."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = (*bounds_s, math.inf)
        self._counts = [0] * len(self._bounds_s)
        self.sum_s = 0.0

    def add(self, value_s: float) -> None:
        self._counts[bisect_left(self._bounds_s, value_s)] += 1
        self.sum_s += value_s

    def cumulated(self) -> list[tuple[str, float]]:
        """Return each bound as Prometheus spells it, with the count of all times up to it."""
        total, buckets = 0, []
        for bound_s, count in zip(self._bounds_s, self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound_s == math.inf else str(float(bound_s)), float(total)))
        return buckets


def exposition(metrics: RunMetrics, accept: str = "") -> tuple[str, bytes]:
    """Return the metrics as text, and its type: Prometheus' own, or what an ``Accept`` header prefers."""
    registry = CollectorRegistry()  # of these alone: the global one is the user's
    registry.register(metrics)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


def write_metrics(metrics: RunMetrics, path: str | Path) -> Path:
    """Write the metrics for the textfile collector of node_exporter, whole or not at all; return the path.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, [exposition(metrics)[1]])


def _counts_of(told: dict[str, Any]) -> Counter[str]:
    return Counter({_name(word): int(number(count) or 0) for word, count in told.items()})


def _name(value: object) -> str:
    """Return a label's value."""
    return _label(str(value))


@lru_cache(maxsize=256)
def _label(text: str) -> str:
    return printable(text, limit=_NAME_CHARS)
