"""The result as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Row, Spread

_HEAD = """# Benchmarks

Written by `python -m benchmarks --markdown docs/benchmarks.md` (or `tox -e bench`), all figures in one run.

The stand-in for a model server is a process of its own, and so is each thing measured. Competitors take turns in
rounds; a figure is the median of its rounds, a ratio (or a difference, which has a unit) is taken round by round, with
the least and the most in brackets.
"""
#: From which size on a figure has how many digits behind its point.
_DIGITS = ((100, 0), (10, 1), (0.1, 2), (0.0001, 4), (0, 0))
_COLUMNS = "| measured | pytest-lmstudio | next to | it takes | ratio or difference | target | met |"
_ALIGNED = "|---|---:|---|---:|---:|---:|---|"


def markdown(rows: Sequence[Row], how: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        rows: in order.
        how: each topic of the rows, and how it was measured.
        facts: about the machine, the run and the versions.
    """
    parts = [_HEAD, _verdict(rows)]
    for topic, text in how.items():
        lines = ["| " + " | ".join(_cells(row)) + " |" for row in rows if row.topic == topic]
        if lines:
            parts.append("\n".join([f"\n## {topic}\n\n{text}\n", _COLUMNS, _ALIGNED, *lines]))
    told = (f"- {name.replace('_', ' ')}: {_told(fact)}" for name, fact in facts.items())
    parts.append("\n".join(["\n## The machine and the versions\n", *told, ""]))
    return "\n".join(parts)


def _verdict(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    missed = [f"{row.what} next to {row.peer}" if row.peer else row.what for row in judged if not row.met]
    said = f"{len(judged) - len(missed)} of {len(judged)} targets are met"
    return f"{said}; missed: {'; '.join(missed)}." if missed else f"{said}."


def _cells(row: Row) -> list[str]:
    if row.ours is None:
        return [row.what, row.note, row.peer, "", "", _target(row), ""]
    base = _figure(row.base.median, row.unit) if row.base else ""
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    return [row.what, _figure(row.ours.median, row.unit), row.peer, base, _compared(row), _target(row), met]


def _compared(row: Row) -> str:
    if row.compared is None:
        return f"({_range(row.ours, row.unit)})" if row.ours else ""
    unit = row.unit if row.is_difference else ""
    return f"{_figure(row.compared.median, unit)} ({_range(row.compared, unit)})"


def _range(spread: Spread, unit: str) -> str:
    return f"{_figure(spread.lowest, '')} to {_figure(spread.highest, '')}{f' {unit}' if unit else ''}"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    unit = row.unit if row.is_difference or not row.peer else ""
    return f"{'at least' if row.at_least else 'at most'} {row.target:g}{f' {unit}' if unit else ''}"


def _figure(value: float, unit: str) -> str:
    """Return a figure with about three digits that tell, and no exponent."""
    size = abs(value)
    digits = next(digits for least, digits in _DIGITS if size >= least)
    return f"{value:,.{digits}f}{f' {unit}' if unit else ''}"


def _told(fact: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in fact.items()) if isinstance(fact, dict) else str(fact)
