"""A pytest in a process group of its own, to be interrupted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Self

from tests.plugin.suite import Ran

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_DEADLINE_S = 60.0


class Apart:
    """A pytest that runs `source` against a server.

    Args:
        folder: where the suite is written and run.
        source: the test file.
        url: the server's.
        args: further arguments.
    """

    def __init__(self, folder: Path, source: str, url: str, *args: str) -> None:
        (folder / "test_suite.py").write_text(textwrap.dedent(source), encoding="utf-8")
        self._folder = folder
        plugins = ("randomly", "cov", "hypothesispytest", "asyncio", "cacheprovider")
        without = [argument for name in plugins for argument in ("-p", f"no:{name}")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *without, "--lmstudio-backoff=0.01", f"--lmstudio-url={url}", *args],
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no process of the group behind, whatever the test found."""
        if self.alive():
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to the whole group, as a terminal's Ctrl-C does, or to pytest's first process alone."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    def wait(self) -> Ran:
        """Wait for the end; return what the run showed and wrote."""
        out, _ = self._process.communicate(timeout=_DEADLINE_S)
        return Ran(self._process.returncode, out, "", self._folder / ".lmstudio")

    def alive(self) -> bool:
        """Tell whether a process of the group is still there."""
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def wait_until_gone(self) -> None:
        """Wait until no process of the group is left.

        Raises:
            AssertionError: one stays.
        """
        until_s = time.monotonic() + _DEADLINE_S
        while self.alive():
            assert time.monotonic() < until_s, "a process of the run is still there"
            time.sleep(0.05)
