"""Two runs side by side: verdict first, then their numbers, the tests that flipped, and what was set otherwise."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.compare import MEASURES
from pytest_lmstudio.report.figures import counted, duration, rate
from pytest_lmstudio.report.terminal import Line
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lmstudio.record.compare import Comparison, Flip, Flips, Row

_LABEL = 22
_COLUMN = 10
_INTERVAL = 21
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
#: Tests named of each list; the JSON form has all.
_SHOWN = 10
_NOTHING = "-"
_LONGEST = 60
_LOOKS = {"worse": {"red": True}, "better": {"green": True}}
_LISTS = (("failed", "now failing"), ("passed", "mended"), ("lost", "now lost"), ("regained", "regained"))


def lines(found: Comparison, *, width: int = 80) -> Iterator[Line]:
    """Yield the lines of a comparison; texts fill the columns, the table takes 80."""
    yield from _verdict(found, width)
    for label, head in (("before", found.before), ("after", found.after)):
        yield from _wrapped(f"{label:<{_LABEL}}", _run(head), width)
    header = "".join(f"{name:>{_COLUMN}}" for name in ("before", "after", "change"))
    yield Line(f"{'':<{_LABEL}}{header}{'95% interval':>{_INTERVAL}}", {"bold": True})
    yield from (_row(row) for row in found.rows if (row.before, row.after) != (None, None))
    for name, before, after in found.conditions:
        change = f"{_shown(before)} -> {_shown(after)}"
        yield from _wrapped(f"{'set otherwise':<{_LABEL}}", f"{printable(name, _LONGEST)}: {change}", width)
    if found.tests is None:
        yield from _wrapped(f"{'tests':<{_LABEL}}", "not compared: that takes the events.jsonl of both runs", width)
    else:
        yield from _tests(found.tests, width)


def _verdict(found: Comparison, width: int) -> Iterator[Line]:
    if not found.regressions:
        yield Line("no regression", {"green": True})
    worse = ", ".join(_NAMES[name] for name in found.regressions)
    yield from _wrapped("REGRESSION: ", worse, width, {"red": True, "bold": True})


def _run(head: Mapping[str, Any]) -> str:
    tests = ", ".join(f"{count} {word}" for word, count in head["tests"].items() if count)
    verdict = {True: "; gate failed", None: "; interrupted"}.get(head["gate_failed"], "")
    calls = f"{counted(head['sent'], 'call')} sent, {head['cached']} cached"
    return f"{head['run_id']}: {calls}; tests: {tests or 'none'}{verdict}"


def _row(row: Row) -> Line:
    ends = [_NOTHING] if row.ci95 is None else [_change(row, end) for end in row.ci95]
    interval = " to ".join([end.removesuffix(" pp") for end in ends[:-1]] + ends[-1:])
    cells = (_value(row, row.before), _value(row, row.after), _change(row, row.change))
    verdict = "" if row.verdict in {"same", "unknown"} else f"  {row.verdict}"
    text = (
        f"{_NAMES[row.name]:<{_LABEL}}{''.join(f'{cell:>{_COLUMN}}' for cell in cells)}{interval:>{_INTERVAL}}{verdict}"
    )
    return Line(text, dict(_LOOKS.get(row.verdict, {})))


def _value(row: Row, value: float | None) -> str:
    if value is None:
        return _NOTHING
    unit = MEASURES[row.name].unit
    return rate(value) if unit == "share" else duration(value) if unit == "ms" else f"{value:.1f}"


def _change(row: Row, value: float | None) -> str:
    """Return a change with its sign; that of a rate in percentage points."""
    if value is None:
        return _NOTHING
    sign = "-" if value < 0 else "+"
    unit = MEASURES[row.name].unit
    if unit == "share":
        return f"{sign}{abs(value) * 100:.1f} pp"
    return f"{sign}{duration(abs(value)) if unit == 'ms' else f'{abs(value):.1f}'}"


def _tests(tests: Flips, width: int) -> Iterator[Line]:
    counts = [f"{tests.in_both} in both ({tests.failures_after} failed, {tests.failures_before} before)"]
    counts += [f"{len(getattr(tests, name))} {text}" for name, text in _LISTS if getattr(tests, name)]
    counts += [f"{len(nodeids)} {name}" for name, nodeids in (("new", tests.new), ("gone", tests.gone)) if nodeids]
    yield from _wrapped(f"{'tests':<{_LABEL}}", ", ".join(counts), width)
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
        yield Line(f"  {'':<{_LABEL - 2}}and {len(names) - _SHOWN} more (--json has all)")


def _wrapped(label: str, text: str, width: int, markup: Mapping[str, bool] | None = None) -> Iterator[Line]:
    if not text:
        return
    below = " " * len(label)
    for line in textwrap.wrap(printable(text), width, initial_indent=label, subsequent_indent=below):
        yield Line(printable(line), dict(markup or {}))  # a long word may be broken before what CI takes for a command


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(map(str, value)), _LONGEST) or "none"
    return "none" if value in (None, "") else printable(value, _LONGEST)
