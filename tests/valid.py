"""Reports are held to their schema wherever a test makes or reads one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_lmstudio.report.files import plain
from pytest_lmstudio.report.json import schema_text


@cache
def validator() -> Draft202012Validator:
    """Return what checks a report."""
    schema = json.loads(schema_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def checked(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report that follows its schema; fail on one that does not, with every place."""
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(plain(report))]
    if found:
        pytest.fail("the report breaks report.schema.json:\n" + "\n".join(found), pytrace=False)
    return report
