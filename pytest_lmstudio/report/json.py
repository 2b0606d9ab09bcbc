"""report.json: the report for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.report.files import plain, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_report(report: Mapping[str, Any], path: str | Path) -> Path:
    """Write a report as JSON (RFC 8259, UTF-8, LF), whole or not at all; return the path.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, [report_text(report).encode("utf-8")])


def report_text(report: Mapping[str, Any]) -> str:
    """Return a report as JSON text in the order of its keys."""
    return json.dumps(plain(dict(report)), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def schema_text() -> str:
    """Return the JSON Schema (draft 2020-12) of a report as JSON text; it comes with the package."""
    from importlib.resources import files

    return (files("pytest_lmstudio.report") / "report.schema.json").read_text("utf-8")
