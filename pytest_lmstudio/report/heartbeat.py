"""The line that shows that a silent run is alive: events in, one line out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.events import seconds_of
from pytest_lmstudio.record.history import number
from pytest_lmstudio.record.stats import percentile
from pytest_lmstudio.report import figures
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.record.events import Event

_WHO = "LM Studio:"
_NAME_CHARS = 60
#: Tests that must have had their answers before their pace tells anything of the others.
_ENOUGH_TESTS = 3


class Known(NamedTuple):
    """How many tests the run has, as far as pytest says.

    Attributes:
        tests: how many are to run, 0 when that is not known.
        all_ask: whether each of them is known to ask the model; else they may be of any sort.
    """

    tests: int = 0
    all_ask: bool = False


class Heartbeat:
    """Counts what a run's log tells, and sums it up in a line.

    It may be asked for a line long after the events: only `take` costs something, and nobody need call it before a line
    is due.
    """

    #: The events that it wants to hear of.
    EVENTS = frozenset(
        {
            *("gen_request", "gen_success", "gen_error", "gen_cached", "gen_abandoned", "worker_crashed", "test_end"),
            *("model_load_start", "model_load_end", "breaker_open", "breaker_closed"),
        }
    )

    def __init__(self) -> None:
        self._done = self._lost = 0
        self._in_flight: dict[object, object] = {}
        self._waiting: dict[object, object] = {}
        self._loading: dict[str, object] = {}
        self._paused = False
        self._latencies_ms: list[float] = []
        self._asking: set[object] = set()
        self._ended: set[object] = set()
        self._asked = 0
        self._others = False
        self._first_ts: object = None
        self._newest_ts: object = None
        self._heard_s = 0.0

    @property
    def in_flight(self) -> int:
        """Return how many requests have had no answer yet."""
        return len(self._in_flight)

    def take(self, event: Event, now_s: float) -> None:
        """Count an event that is heard of at `now_s`, seconds of any clock that only goes on."""
        name, self._newest_ts, self._heard_s = event["event"], event.get("ts"), now_s
        if name.startswith("gen_"):
            self._take_call(name, event)
        elif name == "test_end":
            self._take_test(event)
        elif name == "worker_crashed":
            self._drop(event.get("worker"))
        elif name == "model_load_start":
            self._loading.setdefault(_name(event), event.get("ts"))
        elif name == "model_load_end":
            self._loading.pop(_name(event), None)
        else:
            self._paused = name == "breaker_open" and not event.get("gave_up")

    def line(self, now_s: float, known: Known = Known(), width: int | None = None) -> str | None:  # noqa: B008  # frozen
        """Return how the run stands, None when it waits for nothing of the server's.

        Args:
            now_s: seconds of the clock that `take` was given.
            known: the tests of the run.
            width: columns that the line may fill; what says least is left out. None is as many as it takes.
        """
        if not (self._in_flight or self._waiting or self._loading or self._paused):
            return None
        shown = f"{_WHO} "
        for count, part in enumerate(self._parts(now_s, known)):
            longer = f"{shown}, {part}" if count else shown + part
            if width is not None and len(longer) > width:
                break
            shown = longer
        return shown[:width]

    def _parts(self, now_s: float, known: Known) -> Iterator[str]:
        yield f"{figures.amount(len(self._in_flight))} in flight"
        yield f"{figures.amount(self._done)} done"
        yield f"{figures.amount(self._lost)} lost"
        for model, since in self._loading.items():
            yield f"loading {model} since {figures.duration(self._since_s(since, now_s) * 1000)}"
        if self._paused:
            yield "paused"
        if self._latencies_ms:
            yield f"p95 {figures.duration(percentile(self._latencies_ms, 95))}"
        if (ms := self._left_ms(now_s, known)) is not None:
            yield f"about {figures.left(ms)} left"
        if self._waiting:
            yield f"{figures.amount(len(self._waiting))} to be tried again"

    def _left_ms(self, now_s: float, known: Known) -> float | None:
        """Return how long the tests that are left take at the pace of those that asked the server."""
        left = known.tests - len(self._ended)
        mixed = self._others and not known.all_ask
        if mixed or left <= 0 or self._asked < _ENOUGH_TESTS:
            return None
        spent_s = self._since_s(self._first_ts, now_s)
        return spent_s / self._asked * left * 1000 if spent_s > 0 else None

    def _since_s(self, ts: object, now_s: float) -> float:
        """Return the seconds since a time of the log; the log's clock is not the one of `now_s`."""
        start_s, newest_s = seconds_of(ts), seconds_of(self._newest_ts)
        if start_s is None or newest_s is None:
            return 0.0
        return max(newest_s - start_s, 0.0) + max(now_s - self._heard_s, 0.0)

    def _take_call(self, name: str, event: Event) -> None:
        call_id = event.get("call_id")
        if not isinstance(call_id, str):
            return
        was_in_flight = self._in_flight.pop(call_id, None)
        self._waiting.pop(call_id, None)
        if name == "gen_request":
            self._in_flight[call_id] = event.get("worker")
            self._first_ts = self._first_ts or event.get("ts")
            if isinstance(nodeid := event.get("nodeid"), str):
                self._asking.add(nodeid)
        elif name == "gen_error" and event.get("retry_in_ms") is not None:
            self._waiting[call_id] = event.get("worker")
        elif name == "gen_error":
            self._lost += 1
        elif name != "gen_abandoned":
            self._done += 1
            latency_ms = number(event.get("latency_ms"))
            if was_in_flight is not None and latency_ms is not None:
                self._latencies_ms.append(latency_ms)

    def _take_test(self, event: Event) -> None:
        nodeid = event.get("nodeid")
        self._others = self._others or bool(event.get("others"))
        if isinstance(nodeid, str) and nodeid not in self._ended:
            self._ended.add(nodeid)
            self._asked += nodeid in self._asking
            self._asking.discard(nodeid)

    def _drop(self, worker: object) -> None:
        """Note that a process died with its calls."""
        for calls in (self._in_flight, self._waiting):
            gone = [call_id for call_id, made_by in calls.items() if made_by == worker]
            self._lost += len(gone)
            for call_id in gone:
                del calls[call_id]


def _name(event: Event) -> str:
    return printable(event.get("model"), limit=_NAME_CHARS)
