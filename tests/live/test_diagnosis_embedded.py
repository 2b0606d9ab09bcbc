"""What the diagnosis says of a real llama.cpp server: a prompt too long for it, and its death."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.inner import QUIET as INNER

pytestmark = [
    pytest.mark.usefixtures("model"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc"),
]

QUIET = (*INNER, "--lmstudio-url=embedded", "-n0")
DIES = """
    import os, pathlib, pytest, signal

    def server():
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\\0")
            except OSError:
                continue
            if b"pytest_lmstudio.server.embedded" in command and str(os.getpid()).encode() in command:
                yield int(folder.name)

    def test_before(lm):
        lm("Say hi.", max_tokens=4)

    def test_kill():
        (pid,) = server()
        os.kill(pid, signal.SIGKILL)

    @pytest.mark.parametrize("n", range(3))
    def test_after(lm, n):
        lm(f"Say {n}.", max_tokens=4)
"""


def report_of(pytester: pytest.Pytester, suite: str, *args: str) -> dict[str, Any]:
    pytester.makepyfile(suite)
    result = pytester.runpytest_subprocess(*QUIET, "--lmstudio-pipeline-version=1", "--lmstudio-backoff=0.01", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (path,) = (pytester.path / ".lmstudio" / "runs").glob("*/report.json")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def symptoms(report: dict[str, Any]) -> list[str]:
    return [row["symptom"] for row in report["diagnosis"] if row["symptom"] != "answers are cut by their length"]


def test_a_prompt_that_does_not_fit_is_told_with_what_the_server_s_log_has_of_it(pytester: pytest.Pytester) -> None:
    report = report_of(pytester, 'def test_long(lm):\n    lm("word " * 5000)\n')
    assert symptoms(report) == ["prompts do not fit into the model's context"]
    (row,) = report["diagnosis"]
    assert row["evidence"].endswith("; the server's log has in this run's time: 1 x context exceeded")
    assert row["fix"].startswith("shorten the prompts")
    assert report["server"]["log"]["source"] == "embedded"


def test_the_death_of_the_server_is_told_and_its_log_is_kept(pytester: pytest.Pytester) -> None:
    report = report_of(pytester, DIES, "--lmstudio-breaker=off", "--lmstudio-retries=0")
    assert symptoms(report) == ["the run's own server died"]
    assert report["server"]["log"]["exited"] is True
    (kept,) = (pytester.path / ".lmstudio" / "runs").glob("*/embedded.log")
    assert "model loaded" in kept.read_text("utf-8")
