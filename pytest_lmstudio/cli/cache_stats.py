"""The cache in numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_lmstudio.engine.upkeep import Row
    from pytest_lmstudio.report.terminal import Line

_LABEL = 18
_LONGEST = 60
#: What the newest run used, what the one before it did, and the rest.
_USES = ("newest", "one_before", "earlier")
_UNITS = ("bytes", "KB", "MB", "GB")
_STEP = 1000


def stats(rows: Iterable[Row], newest: int, models: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the numbers of a cache, plain data.

    Args:
        rows: its entries.
        newest: the number of its newest run.
        models: URL, endpoint and model of each that is remembered.
    """
    counts = {name: Counter[str]() for name in ("by_model", "by_pipeline_version", "by_endpoint", "last_used_by")}
    runs: list[int] = []
    total = size_bytes = unreadable = 0
    for row in rows:
        total, size_bytes = total + 1, size_bytes + row.size_bytes
        if row.run is not None:
            runs.append(row.run)
        counts["last_used_by"][_USES[min(max(newest - (row.run or 0), 0), 2)]] += 1
        asked = (row.value or {}).get("asked")
        if not isinstance(asked, dict):
            unreadable += 1
            continue
        body = asked.get("body")
        counts["by_model"][str(body.get("model") if isinstance(body, dict) else None)] += 1
        counts["by_pipeline_version"][str(asked.get("pipeline_version"))] += 1
        counts["by_endpoint"][str(asked.get("endpoint"))] += 1
    return {
        "entries": total,
        "bytes": size_bytes,
        "unreadable": unreadable,
        "newest_run": newest,
        "oldest_use": min(runs, default=None),
        "newest_use": max(runs, default=None),
        "last_used_by": {name: counts["last_used_by"][name] for name in _USES},
        **{name: dict(counts[name].most_common()) for name in ("by_model", "by_pipeline_version", "by_endpoint")},
        "remembered_models": [{"url": url, "endpoint": name, "model": model} for url, name, model in models],
    }


def lines(folder: Path, told: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the numbers, a line each."""
    from pytest_lmstudio.report.terminal import Line

    for label, text in _rows(told):
        yield Line(f"{label:<{_LABEL}}{printable(text)}")
    yield Line(f"{'folder':<{_LABEL}}{printable(folder)}")


def _rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "entries", f"{told['entries']:,}, {_size(told['bytes'])}"
    if told["unreadable"]:
        yield "unreadable", f"{told['unreadable']:,}"
    if told["entries"]:
        uses = told["last_used_by"]
        yield (
            "used by",
            f"the newest run {uses['newest']:,}, the one before {uses['one_before']:,}, earlier {uses['earlier']:,}",
        )
        yield "runs", f"{told['newest_run']} so far; the oldest use was by run {told['oldest_use']}"
    for label, name in (
        ("model", "by_model"),
        ("pipeline version", "by_pipeline_version"),
        ("endpoint", "by_endpoint"),
    ):
        for what, count in told[name].items():
            yield label, f"{printable(what, _LONGEST) or '(empty)'}: {count:,}"
    for found in told["remembered_models"]:
        yield "remembered", f"{found['model']} for {found['endpoint']} at {found['url']}"


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < _STEP:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= _STEP
    return f"{size_bytes:.1f} {_UNITS[-1]}"
