"""``python -m benchmarks``: measure everything in one run, print a Markdown table, write it as JSON if told where."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import calls, engine, server, startup

if TYPE_CHECKING:
    from benchmarks.measure import Row, Spread

_ROUNDS = 9


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="the more, the steadier the medians")
    parser.add_argument("--json", type=Path, metavar="PATH", help="such as benchmarks/results.json")
    given = parser.parse_args()
    load = _load()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, server.running() as url:
        folder = Path(name)
        rows = calls.uncached(url, folder / "uncached", given.rounds)
        rows += calls.cached(url, folder / "cached", given.rounds)
        started = startup.start_up(folder / "start-up", given.rounds)
        rows += started.rows
        rows += engine.engine(folder / "engine", given.rounds)
    facts = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "rounds": given.rounds,
        "load_before": load,
        "load_after": _load(),
        "imported_by_plugin": started.imported,
    }
    print(_markdown(rows, facts))
    if given.json:
        plain = {**facts, "rows": [{**asdict(row), "met": row.met} for row in rows]}
        given.json.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _load() -> float | None:
    """Return the load of the last minute, None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _markdown(rows: list[Row], facts: dict[str, Any]) -> str:
    lines = [
        "| measured | with the plugin | without | ratio or difference (min to max) | target | met |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    imported = ", ".join(facts["imported_by_plugin"]) or "none"
    lines += ["", f"Of {', '.join(startup.HEAVY)} the plugin adds to a suite without LM tests: {imported}."]
    lines += ["; ".join(f"{name.replace('_', ' ')}: {fact}" for name, fact in facts.items())]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    unit = "" if row.unit == "µs" and row.compared else f" {row.unit}"
    digits = 2 if row.unit == "µs" else 1
    compared = row.compared
    return [
        row.what,
        f"{row.ours.median:.0f} {row.unit}" if row.compared else f"{_range(row.ours, 0)} {row.unit}",
        f"{row.base.median:.0f} {row.unit}" if row.base else "",
        f"{_range(compared, digits)}{unit}" if compared else "",
        "" if row.target is None else f"{row.target:g}{unit}",
        {True: "yes", False: "**no**", None: ""}[row.met],
    ]


def _range(figure: Spread, digits: int) -> str:
    return f"{figure.median:.{digits}f} ({figure.lowest:.{digits}f} to {figure.highest:.{digits}f})"


if __name__ == "__main__":
    main()
