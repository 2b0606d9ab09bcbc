"""Pictures of a run as inline SVG: places are percentages and texts are pixels, so that they fit any width."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.gate import percent
from pytest_lmstudio.record.stats import percentile
from pytest_lmstudio.report import figures
from pytest_lmstudio.report.html_markup import Child, Markup, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_MOST_BARS = 40
_BARS_TOP, _BARS_HEIGHT = 44, 130
_TEXT_HEIGHT = 18
# A few answers far slower than the rest would press all others into one bar; they share the last one instead.
_FAR_OUT = 3
_NEAR_LEFT, _NEAR_RIGHT = 12, 85


class Bins(NamedTuple):
    """Latencies counted.

    Attributes:
        start_ms: where the first bar begins.
        step_ms: width of a bar.
        counts: latencies of each bar, its lower end included.
        longer: latencies beyond the last bar.
    """

    start_ms: float
    step_ms: float
    counts: tuple[int, ...]
    longer: int

    @property
    def end_ms(self) -> float:
        """Return where the last bar ends."""
        return self.start_ms + self.step_ms * len(self.counts)


def bins_of(latencies_ms: Sequence[float]) -> Bins:
    """Return latencies counted in some 40 bars at most, all of one round width; there must be one latency.

    Bars begin at 0, but where that would leave half of them empty.
    """
    low_ms, top_ms, usual_ms = min(latencies_ms), max(latencies_ms), percentile(latencies_ms, 95) or 0.0
    shown_ms = max(top_ms if top_ms <= _FAR_OUT * usual_ms else 2 * usual_ms, 1.0)
    from_ms = low_ms if low_ms > shown_ms / 2 else 0.0
    # No finer than a hundredth of what is shown: fewer bars tell more than digits that nobody reads.
    step_ms = round_step(max(shown_ms - from_ms, shown_ms / 100), _MOST_BARS)
    first, last = math.floor(from_ms / step_ms), math.floor(shown_ms / step_ms)
    places = [math.floor(latency_ms / step_ms) - first for latency_ms in latencies_ms]
    counts = [0] * (last - first + 1)
    for place in places:
        if place < len(counts):
            counts[max(place, 0)] += 1
    return Bins(first * step_ms, step_ms, tuple(counts), len(places) - sum(counts))


def round_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten of which so many cover a span."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)


def histogram(latencies_ms: Sequence[float], marks: Mapping[str, float | None]) -> Markup | None:
    """Return latencies as bars with percentiles marked, None when there are none.

    Args:
        latencies_ms: one for each answer.
        marks: name (``p50``) and milliseconds of up to three lines.
    """
    if not latencies_ms:
        return None
    bins = bins_of(latencies_ms)
    bars = [*bins.counts, *([bins.longer] if bins.longer else [])]
    scale = Scale(bins.start_ms, bins.step_ms * len(bars))
    caption = f"Each bar is {_exact(bins.step_ms)} wide, the tallest is {figures.counted(max(bars), 'answer')}"
    beyond = f"; the last one is all above {_exact(bins.end_ms)}" if bins.longer else ""
    bottom = _BARS_TOP + _BARS_HEIGHT
    return tag(
        "figure",
        picture(
            "Histogram of latencies",
            bottom + _TEXT_HEIGHT,
            *ticks(scale, _round_places(bins), _exact, bottom),
            *_bars(bins, bars, scale),
            *_percentiles(marks, bins.end_ms, scale),
        ),
        tag("figcaption", f"{caption}{beyond}."),
    )


class Scale(NamedTuple):
    """Values laid out from 0 to 100 %."""

    start: float
    length: float

    def at(self, value: float) -> float:
        """Return the place of a value, in percent."""
        return 100 * min(max((value - self.start) / self.length, 0), 1)


def picture(title: str, height: float, *children: Child) -> Markup:
    """Return an SVG as wide as its place, so many pixels high; its title is what screen readers tell."""
    return tag("svg", tag("title", title), *children, role="img", aria_label=title, width="100%", height=height)


def rect(class_: str, x: float, width: float, *, y: float, height: float, title: str | None = None) -> Markup:
    """Return a bar from ``x`` on, both in percent, ``y`` in pixels."""
    named = tag("title", title) if title else None
    return tag("rect", named, class_=class_, x=f"{x:.3f}%", y=f"{y:g}", width=f"{width:.3f}%", height=f"{height:g}")


def line(class_: str, x: float, y: float, end_y: float) -> Markup:
    """Return an upright line at a place in percent."""
    return tag("line", class_=class_, x1=f"{x:.3f}%", x2=f"{x:.3f}%", y1=f"{y:g}", y2=f"{end_y:g}")


def words(text: str, x: float, y: float, class_: str | None = None, *, beside: float = 0) -> Markup:
    """Return a text centred on a place in percent, or so many pixels beside it; near an edge it stays inside."""
    anchor = "end" if x > _NEAR_RIGHT else "start" if beside or x < _NEAR_LEFT else "middle"
    aside = {"dx": -beside if anchor == "end" else beside} if beside else {}
    return tag("text", text, x=f"{x:.3f}%", y=f"{y:g}", text_anchor=anchor, class_=class_, **aside)


def ticks(scale: Scale, places: Iterable[float], shown: Callable[[float], str], bottom: float) -> Iterator[Markup]:
    """Yield a line and a label at each of these values."""
    for value in places:
        yield line("grid", scale.at(value), 0, bottom)
        yield words(shown(value), scale.at(value), bottom + 14)


def _round_places(bins: Bins) -> list[float]:
    """Return up to six round values from a histogram's first bar to its last, none inside a bar."""
    step_ms = max(round_step(bins.end_ms - bins.start_ms, 5), bins.step_ms)
    first, last = math.ceil(bins.start_ms / step_ms), math.floor(bins.end_ms / step_ms)
    return [number * step_ms for number in range(first, last + 1)]


def _bars(bins: Bins, bars: Sequence[int], scale: Scale) -> Iterator[Markup]:
    tallest = max(bars)
    for number, count in enumerate(bars):
        if count:
            start_ms = bins.start_ms + number * bins.step_ms
            height = max(_BARS_HEIGHT * count / tallest, 2)
            reach = "or longer" if number == len(bins.counts) else f"to {_exact(start_ms + bins.step_ms)}"
            title = f"{figures.counted(count, 'answer')}: {_exact(start_ms)} {reach}"
            x, width = scale.at(start_ms), 100 / len(bars)
            top = _BARS_TOP + _BARS_HEIGHT - height
            yield rect("answer", x + width * 0.05, width * 0.9, y=top, height=height, title=title)


def _exact(ms: float) -> str:
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"  # noqa: PLR2004  # a second


def _percentiles(marks: Mapping[str, float | None], end_ms: float, scale: Scale) -> Iterator[Markup]:
    """Yield a line for each mark that the bars reach, each label on a row of its own."""
    known = [(name, value) for name, value in marks.items() if value is not None and value <= end_ms]
    for row, (name, value_ms) in enumerate(known):
        y = 12 + row * 14
        yield line("mark", scale.at(value_ms), y - 9, _BARS_TOP + _BARS_HEIGHT)
        yield words(f"{name} {figures.duration(value_ms)}", scale.at(value_ms), y, "strong", beside=4)


def gauge(share: float, ends: Sequence[float] | None, limit: float) -> Markup:
    """Return an error rate with its interval on a scale with the limit, all 0 to 1."""
    low, high = ends or (share, share)
    scale = Scale(0, min(1.0, max(1.25 * max(limit * 1.6, share, high), 0.01)))
    text = (
        f"Error rate {figures.rate(share)}, 95% interval {figures.interval((low, high))}, limit {figures.rate(limit)}"
    )
    seen, ends_at = scale.at(share), (scale.at(low), scale.at(high))
    return tag(
        "figure",
        picture(
            text,
            58,
            rect("track", 0, 100, y=20, height=18),
            rect("failed" if share > limit else "answer", 0, seen, y=20, height=18),
            rect("range", ends_at[0], ends_at[1] - ends_at[0], y=26, height=6),
            line("limit", scale.at(limit), 16, 42),
            words(f"limit {percent(limit)}", scale.at(limit), 11, "strong"),
            words(f"seen {figures.rate(share)}", seen, 54, "strong"),
            words(percent(scale.length, 1), 100, 54) if seen < _NEAR_RIGHT else None,
        ),
        tag("figcaption", "The bar is the error rate of this run, the thin band its 95% interval."),
    )


def legend(entries: Iterable[tuple[str, str, float]]) -> Markup:
    """Return what colours mean: class, text, height in pixels."""
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag(
                    "svg", rect(class_, 5, 90, y=7 - height / 2, height=height), width=22, height=14, aria_hidden="true"
                ),
                tag("span", text),
            )
            for class_, text, height in entries
        ),
        class_="legend",
    )
