"""``--lmstudio-url=embedded``: one real server for a whole run, gone when the run is, however it went."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.inner import QUIET as INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.usefixtures("model"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc"),
]

QUIET = (*INNER, "--lmstudio-url=embedded")
SUITE = """
    import pytest

    ANSWERS = {"France": "Paris", "Italy": "Rome"}

    @pytest.mark.parametrize("country", ANSWERS)
    def test_capital(lm, country):
        reply = lm(
            f"What is the capital of {country}?",
            system="Answer the question in one short sentence.",
            max_tokens=24,
            temperature=0,
        )
        assert ANSWERS[country] in reply
        assert reply.model == "smollm2-135m-instruct"
"""
READY = re.compile(
    r"lmstudio: embedded server with smollm2-135m-instruct ready at (http://127\.0\.0\.1:\d+) after \d+\.\d s"
)
GONE_WITHIN_S = 30.0  # a limit for a hang, not a measurement


def servers() -> dict[int, int]:
    """Return pid and parent of every embedded server on this machine."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            stat = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if b"pytest_lmstudio.server.embedded" in command and stat[0] != "Z":
            at = command.index(b"--parent-pid")
            found[int(folder.name)] = int(command[at + 1])
    return found


def wait_until(fact: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_WITHIN_S
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def children_of(parent: int) -> list[int]:
    return [pid for pid, started_by in servers().items() if started_by == parent]


def is_served(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def start(pytester: pytest.Pytester) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts pytest in a process of its own; none is left when the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(*args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pytest", *QUIET, *args]
        with Path("out.txt").open("wb") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.wait()


def report_of(folder: Path) -> dict[str, Any]:
    runs = folder / ".lmstudio" / "runs"
    name = (runs / "latest").read_text("utf-8").strip()
    found: dict[str, Any] = json.loads((runs / name / "report.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize(("args", "workers"), [(("-n0",), 0), ((), 4), (("-p", "no:xdist"), 0)])
def test_a_run_has_one_real_server_of_its_own(args: tuple[str, ...], workers: int, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(*QUIET, *args)
    result.assert_outcomes(passed=2)
    urls = [found[1] for line in result.outlines if (found := READY.fullmatch(line))]
    assert len(urls) == 1
    created = [line for line in result.outlines if line.startswith("created: ")]
    assert created == ([f"created: {workers}/{workers} workers"] if workers else [])
    report = report_of(pytester.path)
    assert (report["server"]["url"], report["calls"]["sent"], report["calls"]["ok"]) == (urls[0], 2, 2)
    assert not is_served(urls[0])


@pytest.mark.parametrize("args", ["-n0", "-n2"])
def test_a_server_dies_with_a_run_that_is_killed(
    args: str, pytester: pytest.Pytester, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    pytester.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_goes_on(lm, n):
            for piece in lm.stream(f"Write a very long story about {n}.", max_tokens=1500, timeout=200):
                pathlib.Path("streaming").touch()
        """
    )
    process = start(args)
    assert wait_until((pytester.path / "streaming").exists), Path("out.txt").read_text("utf-8")
    running = children_of(process.pid)
    assert len(running) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not set(running) & servers().keys())


@pytest.mark.parametrize("args", ["-n0", "-n2"])
def test_ctrl_c_ends_the_run_and_its_server(
    args: str, pytester: pytest.Pytester, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    pytester.makepyfile(
        """
        import pathlib

        def test_goes_on(lm):
            for piece in lm.stream("Write a very long story.", max_tokens=1500, timeout=200):
                pathlib.Path("streaming").touch()
        """
    )
    process = start(args)
    assert wait_until((pytester.path / "streaming").exists), Path("out.txt").read_text("utf-8")
    running = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 2, Path("out.txt").read_text("utf-8")
    assert len(running) == 1
    assert not set(running) & servers().keys()


def test_offline_replays_a_run_without_a_server(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    pytester.runpytest_subprocess(*QUIET, "-n0").assert_outcomes(passed=2)
    result = pytester.runpytest_subprocess(*QUIET, "-n0", "--lmstudio-cache=offline")
    result.assert_outcomes(passed=2)
    assert not any("embedded server" in line for line in result.outlines)
    calls = report_of(pytester.path)["calls"]
    assert (calls["sent"], calls["cached"]) == (0, 2)


def test_a_model_that_llama_cpp_cannot_load_is_one_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pytester.path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    monkeypatch.setenv("LMSTUDIO_EMBEDDED_MODEL", str(broken))
    pytester.makepyfile(SUITE)
    for workers in ("-n0", "-n2"):
        result = pytester.runpytest_subprocess(*QUIET, workers)
        lines = [line for line in [*result.outlines, *result.errlines] if "llama.cpp could not serve" in line]
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert len(lines) == 1
        assert lines[0].startswith(f"ERROR: llama.cpp could not serve {broken}: it exited with status 1; ")
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
