"""Pytests inside tests of settings and start-up: the command line holds nothing but what the test put there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Plugins of this project's own tests that would only slow a run inside a test down, or write to standard error.
QUIET = (
    "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:randomly",
    "-p", "no:rerunfailures", "-p", "no:timeout", "--color=no",
)  # fmt: skip
TELLS_SETTINGS = """
    import json, pathlib

    def test_tells(lm):
        pathlib.Path("settings.json").write_text(json.dumps(lm.settings.as_dict()), encoding="utf-8")
"""


def run(pytester: pytest.Pytester, *args: str, plugins: Sequence[object] = ()) -> pytest.RunResult:
    """Run pytest in this process."""
    return pytester.runpytest_inprocess(*QUIET, *args, plugins=plugins)


def settings_of(pytester: pytest.Pytester, *args: str) -> dict[str, Any]:
    """Return ``lm.settings`` as a test sees it."""
    pytester.makepyfile(test_tells=TELLS_SETTINGS)
    result = run(pytester, *args)
    result.assert_outcomes(passed=1)
    found: dict[str, Any] = json.loads((pytester.path / "settings.json").read_text("utf-8"))
    return found


def header_of(result: pytest.RunResult) -> list[str]:
    """Return the plugin's lines in pytest's header."""
    return [line for line in result.outlines if line.startswith("lmstudio: ")]


def refusal(result: pytest.RunResult) -> str:
    """Return the line with which pytest refused to run; there must be no other, and no test may have run."""
    lines = [line for line in result.errlines if line.strip()]
    assert result.ret == pytest.ExitCode.USAGE_ERROR, (result.outlines, lines)
    assert len(lines) == 1, lines
    assert lines[0].startswith("ERROR: ")
    assert not any("passed" in line or "INTERNALERROR" in line for line in result.outlines), result.outlines
    return lines[0].removeprefix("ERROR: ")
