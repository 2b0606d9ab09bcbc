"""The timeline of a run: what every worker waited for, got and lost, one row for each request at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.history import number
from pytest_lmstudio.report import figures
from pytest_lmstudio.report.html_charts import Scale, legend, picture, rect, round_step, ticks, words
from pytest_lmstudio.report.html_markup import Markup, tag
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts

MOST_DRAWN = 2000
MOST_WORKERS = 32
MOST_ROWS = 16
_MINUTE_S = 60
_LONG_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_NAME_HEIGHT, _ROW_HEIGHT, _GAP, _AXIS_HEIGHT = 18, 14, 6, 18
_THINNEST = 0.15
_NAME_CHARS = 80

#: How an attempt that ended so is drawn, and how high, in pixels.
_LOOKS = {"ok": ("answer", 6), "failed": ("failed", 12), "lost": ("lost", 12), "abandoned": ("left", 6)}
_LEGEND = (
    ("answer", "answered", 6),
    ("failed", "failed", 12),
    ("lost", "cut off, end unknown", 12),
    ("left", "left by its test", 6),
    ("wait", "waited for breaker, slot or back-off", 3),
)


class Bar(NamedTuple):
    """An attempt as it is drawn; times are Unix seconds.

    Attributes:
        waited_s: seconds that it waited before it was sent.
    """

    worker: str
    start_s: float
    end_s: float
    waited_s: float
    outcome: str
    title: str


class Placed(NamedTuple):
    """A bar in its row; ``free_s`` is when the bar before it in the row ended."""

    bar: Bar
    row: int
    free_s: float


def timeline(calls: Iterable[CallFacts]) -> Markup | None:
    """Return the attempts of calls by worker and time, None when none was made."""
    known = bars_of(calls)
    if not known:
        return None
    drawn = thinned(known, MOST_DRAWN)
    lanes = by_worker(drawn)
    start_s = min(bar.start_s - bar.waited_s for bar in drawn)
    scale = Scale(start_s, max(*(bar.end_s - start_s for bar in drawn), 0.001))
    shown = dict(list(lanes.items())[:MOST_WORKERS])
    left_out = len(known) - sum(map(len, shown.values()))
    tops, bottom = _tops(shown)
    step_s, shown_time = _steps(scale.length)
    places = [start_s + number * step_s for number in range(int(scale.length / step_s) + 1)]
    axis = ticks(scale, places, lambda at_s: shown_time(at_s - start_s), bottom)
    return tag(
        "figure",
        picture("Attempts by worker and time", bottom + _AXIS_HEIGHT, *axis, *_rows(shown, tops, scale)),
        legend(_LEGEND),
        tag("figcaption", _caption(left_out)),
    )


def bars_of(calls: Iterable[CallFacts]) -> list[Bar]:
    """Return the attempts whose beginning is known, by time."""
    bars = [
        bar for call in calls for attempt in call.attempts if (bar := _bar(call, attempt, attempt.start_s)) is not None
    ]
    return sorted(bars, key=lambda bar: bar.start_s)


def thinned(bars: Sequence[Bar], most: int) -> list[Bar]:
    """Return at most so many bars by time, half of them failed ones if there are as many; both evenly spread."""
    failed = [bar for bar in bars if bar.outcome in {"failed", "lost"}]
    others = [bar for bar in bars if bar.outcome not in {"failed", "lost"}]
    kept = _evenly(failed, max(most // 2, most - len(others)))
    return sorted([*kept, *_evenly(others, most - len(kept))], key=lambda bar: bar.start_s)


def by_worker(bars: Iterable[Bar]) -> dict[str, list[Placed]]:
    """Return bars, which come by time, in rows of their worker: those that overlap stand one below the other."""
    lanes: dict[str, list[Placed]] = {}
    ends: dict[str, list[float]] = {}
    for bar in bars:
        rows = ends.setdefault(bar.worker, [])
        row = next((i for i, end_s in enumerate(rows) if end_s <= bar.start_s), len(rows))
        if row == MOST_ROWS:
            row = min(range(MOST_ROWS), key=rows.__getitem__)
        elif row == len(rows):
            rows.append(float("-inf"))
        lanes.setdefault(bar.worker, []).append(Placed(bar, row, rows[row]))
        rows[row] = max(rows[row], bar.end_s)
    return dict(sorted(lanes.items(), key=lambda lane: (len(lane[0]), lane[0])))


def _evenly(bars: Sequence[Bar], most: int) -> list[Bar]:
    if len(bars) <= most:
        return list(bars)
    return [bars[i * len(bars) // most] for i in range(most)]


def _bar(call: CallFacts, attempt: AttemptFacts, start_s: float | None) -> Bar | None:
    if start_s is None:
        return None
    waited_ms = max(number(attempt.request.get("waited_ms")) or 0.0, 0.0)
    return Bar(
        worker=str(attempt.request.get("worker") or "main"),
        start_s=start_s,
        end_s=start_s + max(attempt.latency_ms or 0.0, 0.0) / 1000,
        waited_s=waited_ms / 1000,
        outcome=attempt.outcome,
        title=_title(call, attempt, waited_ms),
    )


def _title(call: CallFacts, attempt: AttemptFacts, waited_ms: float) -> str:
    said = {"ok": "answered", "abandoned": "left by its test"}.get(attempt.outcome, str(attempt.kind))
    after = f" after {figures.duration(attempt.latency_ms)}" if attempt.latency_ms is not None else ""
    phase = f" ({printable(attempt.phase, _NAME_CHARS)})" if attempt.phase else ""
    waited = f", had waited {figures.duration(waited_ms)}" if waited_ms >= 1 else ""
    said = printable(said, _NAME_CHARS)
    return f"{printable(call.nodeid, _NAME_CHARS)}: attempt {attempt.number} {said}{after}{phase}{waited}"


def _tops(lanes: dict[str, list[Placed]]) -> tuple[dict[str, int], int]:
    """Return where each worker's name begins, and where the last row ends, in pixels."""
    tops, bottom = {}, 0
    for worker, placed in lanes.items():
        tops[worker] = bottom
        bottom += _NAME_HEIGHT + _ROW_HEIGHT * (1 + max(place.row for place in placed)) + _GAP
    return tops, bottom


def _rows(lanes: dict[str, list[Placed]], tops: dict[str, int], scale: Scale) -> Iterator[Markup]:
    for worker, placed in lanes.items():
        yield words(worker, 0, tops[worker] + 13, "strong")
        for place in placed:
            yield from _marks(place, tops[worker] + _NAME_HEIGHT + _ROW_HEIGHT * place.row, scale)


def _marks(place: Placed, top: float, scale: Scale) -> Iterator[Markup]:
    """Yield the wait, as far as its row was free, and the attempt."""
    bar, middle = place.bar, top + _ROW_HEIGHT / 2
    left, start, end = (scale.at(s) for s in (max(bar.start_s - bar.waited_s, place.free_s), bar.start_s, bar.end_s))
    if start - left > _THINNEST:
        yield rect("wait", left, start - left, y=middle - 1.5, height=3)
    look, height = _LOOKS[bar.outcome]
    yield rect(look, start, max(end - start, _THINNEST), y=middle - height / 2, height=height, title=bar.title)


def _caption(left_out: int) -> str:
    text = "Each row is one request at a time; waiting is drawn as far as its row was free."
    return text + (f" {figures.counted(left_out, 'attempt')} more are not drawn." if left_out else "")


def _steps(length_s: float) -> tuple[float, Callable[[float], str]]:
    """Return seconds from tick to tick, and how a tick is named."""
    step_s = round_step(length_s, 6)
    if step_s < _MINUTE_S:
        return step_s, lambda at_s: f"{at_s:g} s"
    step_s = next((long_s for long_s in _LONG_STEPS_S if long_s >= length_s / 6), step_s)
    return step_s, lambda at_s: f"{at_s / _MINUTE_S:g} min"
