"""Two runs side by side: verdict first, then their numbers, the tests that flipped, and what was set otherwise."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.compare import MEASURES
from pytest_lmstudio.record.gate import percent
from pytest_lmstudio.report.figures import amount, counted, duration, rate
from pytest_lmstudio.report.terminal import Line
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lmstudio.record.compare import Comparison, Flip, Flips, Row

_LABEL = 22
_GAP = "  "
_NAMES = {
    "error_rate": "calls lost",
    "disconnect_rate": "disconnected",
    "first_attempt_failure_rate": "first attempts failed",
    "latency_p50_ms": "latency p50",
    "latency_p95_ms": "latency p95",
    "ttft_p50_ms": "first token p50",
    "ttft_p95_ms": "first token p95",
    "tokens_per_second_p50": "tokens/s p50",
    "failed_tests": "more tests fail",
}
_HEADER = ("", "before", "after", "change", "95% interval", "")
#: Tests named of each list; the JSON form has all.
_SHOWN = 10
_NOTHING = "-"
_LONGEST = 60
_LOOKS = {"worse": {"red": True}, "better": {"green": True}}
_LISTS = (("failed", "now failing"), ("passed", "mended"), ("lost", "now lost"), ("regained", "regained"))


def lines(found: Comparison, *, width: int = 80) -> Iterator[Line]:
    """Yield the lines of a comparison, filling so many columns; only names are longer, since they are copied whole."""
    yield from _verdict(found, width)
    for label, head in (("before", found.before), ("after", found.after)):
        yield from _wrapped(label, _run(head), width)
    yield from _numbers([row for row in found.rows if (row.before, row.after) != (None, None)], width)
    for name, before, after in found.conditions:
        change = f"{_shown(name, before)} -> {_shown(name, after)}"
        yield from _wrapped("set otherwise", f"{printable(name, _LONGEST)}: {change}", width)
    if found.tests is None:
        yield from _wrapped("tests", "not compared: that takes the events.jsonl of both runs", width)
    else:
        yield from _tests(found.tests, width)


def _verdict(found: Comparison, width: int) -> Iterator[Line]:
    if not found.regressions:
        yield Line("no regression", {"green": True})
        return
    worse = ", ".join(_NAMES[name] for name in found.regressions)
    yield from _wrapped("REGRESSION:", worse, width, {"red": True, "bold": True}, column=len("REGRESSION: "))


def _run(head: Mapping[str, Any]) -> str:
    tests = ", ".join(f"{count:,} {word}" for word, count in head["tests"].items() if count)
    verdict = {True: "; gate failed", None: "; interrupted"}.get(head["gate_failed"], "")
    calls = f"{counted(head['sent'], 'call')} sent, {amount(head['cached'])} cached"
    return f"{head['run_id']}: {calls}; tests: {tests or 'none'}{verdict}"


def _numbers(rows: Sequence[Row], width: int) -> Iterator[Line]:
    """Yield a table of the numbers; where that is too wide, each in words."""
    table = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        for row in rows:
            yield from _wrapped(_NAMES[row.name], _in_words(row), width, _LOOKS.get(row.verdict))
        return
    looks = [{"bold": True}, *(_LOOKS.get(row.verdict, {}) for row in rows)]
    for (label, *cells, verdict), look in zip(table, looks, strict=True):
        aligned = (f"{cell:>{wide}}" for cell, wide in zip(cells, widths[1:-1], strict=True))
        yield Line(_GAP.join([f"{label:<{widths[0]}}", *aligned, verdict]).rstrip(), dict(look))


def _cells(row: Row) -> tuple[str, ...]:
    interval = _NOTHING if row.ci95 is None else " to ".join(_change(row, end) for end in row.ci95)
    verdict = "" if row.verdict in {"same", "unknown"} else row.verdict
    return (
        _NAMES[row.name],
        _value(row, row.before),
        _value(row, row.after),
        _change(row, row.change),
        interval,
        verdict,
    )


def _in_words(row: Row) -> str:
    _, before, after, change, interval, verdict = _cells(row)
    text = f"{before} -> {after}"
    if row.change is not None:
        text += f", {change}"
    if row.ci95 is not None:
        text += f" (95% interval {interval})"
    return f"{text}, {verdict}" if verdict else text


def _value(row: Row, value: float | None) -> str:
    if value is None:
        return _NOTHING
    unit = MEASURES[row.name].unit
    return rate(value) if unit == "share" else duration(value) if unit == "ms" else f"{amount(value, 1)}/s"


def _change(row: Row, value: float | None) -> str:
    """Return a change with its sign; that of a rate in percentage points."""
    if value is None:
        return _NOTHING
    sign = "-" if value < 0 else "+" if value else ""
    unit = MEASURES[row.name].unit
    if unit == "share":
        points = abs(value) * 100
        return f"{sign}{points:.0f} pp" if points in {0, 100} else f"{sign}{points:.1f} pp"
    return f"{sign}{duration(abs(value)) if unit == 'ms' else f'{amount(abs(value), 1)}/s'}"


def _tests(tests: Flips, width: int) -> Iterator[Line]:
    left_out = f"; {amount(tests.left_out)} left out, since lost in a run" if tests.left_out else ""
    failed = f"{amount(tests.failures_after)} failed, {amount(tests.failures_before)} before"
    counts = [f"{amount(tests.in_both)} in both ({failed}{left_out})"]
    counts += [f"{amount(len(getattr(tests, name)))} {text}" for name, text in _LISTS if getattr(tests, name)]
    counts += [f"{amount(len(ids))} {name}" for name, ids in (("new", tests.new), ("gone", tests.gone)) if ids]
    yield from _wrapped("tests", ", ".join(counts), width)
    for name, text in (*_LISTS, ("changed", "changed")):
        yield from _named(
            text, [_flip(flip) for flip in getattr(tests, name)], _LOOKS["worse"] if name == "failed" else None
        )
    yield from _named("new", tests.new)
    yield from _named("gone", tests.gone)


def _flip(flip: Flip) -> str:
    return f"{flip.nodeid} ({flip.before} -> {flip.after})"


def _named(label: str, names: Sequence[str], markup: Mapping[str, bool] | None = None) -> Iterator[Line]:
    """Yield names, never wrapped, since they are copied whole."""
    for name in names[:_SHOWN]:
        text = printable(name).encode("ascii", "backslashreplace").decode()
        yield Line(f"  {label:<{_LABEL - 2}}{text}", dict(markup or {}))
    if len(names) > _SHOWN:
        yield Line(f"  {'':<{_LABEL - 2}}and {amount(len(names) - _SHOWN)} more (--json has all)")


def _wrapped(
    label: str, text: str, width: int, markup: Mapping[str, bool] | None = None, column: int = _LABEL
) -> Iterator[Line]:
    """Yield a label and its text, further lines of the text below its first."""
    wrapped = textwrap.wrap(
        printable(text), width, initial_indent=f"{label:<{column}}", subsequent_indent=" " * column,
        break_on_hyphens=False,
    )  # fmt: skip
    for line in wrapped:
        yield Line(printable(line), dict(markup or {}))  # a long word may be broken before what CI takes for a command


def _shown(name: str, value: Any) -> str:
    """Return a setting's value; one that is a number with decimals is a share or a time in seconds."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return percent(value) if name == "max_error_rate" else f"{value:g} s"
    if isinstance(value, list):
        return printable(", ".join(map(str, value)), _LONGEST) or "none"
    return "none" if value in (None, "") else printable(value, _LONGEST)
