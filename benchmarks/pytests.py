"""Runs of whole suites, each a process of its own, which loads the plugins it names and no others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.hosted import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Modules that a suite without LM tests has no use for.
HEAVY = ("httpx", "diskcache", "jsonschema", "asyncio", "filelock")
#: What every program ends with: its CPU time and that of its children that ended, its own peak, and what it loaded.
FOOTER = """
import json, sys, time
def children_s():
    try:
        import resource  # not on Windows
    except ImportError:
        return 0.0
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
def peak_mb():
    try:
        with open("/proc/self/status") as file:  # only Linux has it
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    except OSError:
        return None
print("\\n" + json.dumps({"cpu_s": time.process_time() + children_s(), "peak_mb": peak_mb(),
    "heavy": [name for name in HEAVY if name in sys.modules]}))
"""
_PYTEST = "import sys, pytest\nstatus = int(pytest.main(sys.argv[1:]))\n"


class Ran(NamedTuple):
    """What a run took.

    Attributes:
        wall_s: from its start to its end, Python's own included.
        cpu_s: of the process and of its children that ended.
        peak_mb: most memory of the process itself, None where the system does not tell.
        heavy: which of `HEAVY` it loaded.
        said: what it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float | None
    heavy: list[str]
    said: str


def pytest(folder: Path, *arguments: str, plugins: Sequence[str], **variables: str) -> Ran:
    """Run the suite in `folder` with these of the installed plugins.

    Args:
        folder: where ``suite.py`` lies.
        arguments: of the command line.
        plugins: by the names under which they are installed.
        variables: of the environment.
    """
    command = ["-q", "-p", "no:cacheprovider", *arguments, "suite.py"]
    only = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ",".join(map(_modules().__getitem__, plugins))}
    return python(folder, _PYTEST, *command, **only, **variables)


@cache
def _modules() -> dict[str, str]:
    """Return the module of each plugin that is installed.

    By these pytest finds them at once. For each ``-p NAME`` it would look through all that is installed for the peers,
    which takes tens of milliseconds, for some of the suites and not for others.
    """
    return {point.name: point.value for point in metadata.entry_points(group="pytest11")}


def python(folder: Path, program: str, *arguments: str, **variables: str) -> Ran:
    """Run a program, which must end with status 0, or set `status` to 0 where it runs pytest."""
    text = f"HEAVY = {HEAVY}\nstatus = 0\n{program}\n{FOOTER}\nsys.exit(status)"
    command = [sys.executable, "-c", text, *arguments]
    start_s = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - start_s
    assert done.returncode == 0, (
        f"{arguments} ended with {done.returncode}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Ran(wall_s, said=done.stdout, **found)


def suite(folder: Path, text: str) -> Path:
    """Write a suite into a folder of its own; return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    (folder / "suite.py").write_text(text, encoding="ascii")
    return folder
