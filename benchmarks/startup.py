"""What the plugin costs a suite that has no LM tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measure import Row, Timing, compared, interleaved

if TYPE_CHECKING:
    from pathlib import Path

TESTS = 200
LEAST_ROUNDS = 15
MOST_MS = 10.0
HEAVY = ("httpx", "diskcache", "jsonschema", "asyncio", "filelock")
#: Plugins other than these are left out of both runs: some cost ten times what is measured.
_KEPT = {"lmstudio", "xdist", "xdist.looponfail"}
_PROGRAM = """
import json, sys, time
import pytest
status = pytest.main(sys.argv[2:])
heavy = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print("\\n" + json.dumps({"status": int(status), "cpu_s": time.process_time(), "heavy": heavy}))
"""
#: What switches plugins on or off, sets the plugin's own settings, or keeps Python from storing what it compiled.
_FOREIGN = ("LM_", "LLM_", "LMSTUDIO_", "EVAL_", "PYTEST_", "PYTHONDONTWRITEBYTECODE")


class StartUp(NamedTuple):
    """The rows, and which heavy modules the plugin adds to a run."""

    rows: list[Row]
    imported: list[str]


def start_up(folder: Path, rounds: int) -> StartUp:
    """Run a suite of empty tests with the plugin and with ``-p no:lmstudio``, taking turns."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    (folder / "suite.py").write_text("".join(f"def test_{n}(): pass\n" for n in range(TESTS)), encoding="ascii")
    heavy: dict[str, list[str]] = {}

    def run(name: str, *more: str) -> Timing:
        start_s = time.perf_counter()
        found = _pytest(folder, more)
        heavy[name] = found["heavy"]
        return Timing((time.perf_counter() - start_s) * 1e6, found["cpu_s"] * 1e6)

    timings = interleaved(
        {"with": lambda _: run("with"), "without": lambda _: run("without", "-p", "no:lmstudio")},
        max(rounds, LEAST_ROUNDS),
        blocks=1,
    )
    rows = []
    for n, kind in ((1, "CPU"), (0, "wall")):
        ours_ms, base_ms = ([t[n] / 1e3 for t in timings[name]] for name in ("with", "without"))
        what = f"suite of {TESTS} empty tests: {kind}"
        rows.append(compared(what, ours_ms, base_ms, unit="ms", how=sub, most=MOST_MS))
    return StartUp(rows, [name for name in heavy["with"] if name not in heavy["without"]])


def _without_others() -> list[str]:
    names = {point.name for point in metadata.entry_points(group="pytest11")} - _KEPT
    return [argument for name in sorted(names | {"cacheprovider"}) for argument in ("-p", f"no:{name}")]


def _pytest(folder: Path, more: tuple[str, ...]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")  # the first block fills it
    command = [sys.executable, "-c", _PROGRAM, json.dumps(HEAVY), "-q", "suite.py", *_without_others(), *more]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == 0, done.stdout
    return found
