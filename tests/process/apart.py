"""A pytest in a process group of its own, to be interrupted and killed, and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.plugin.suite import Ran

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

_DEADLINE_S = 60.0
_POLL_S = 0.05
# anyio's alone would be half of what a pytest costs that starts, and each worker is one.
WITHOUT = ("anyio", "asyncio", "cacheprovider", "cov", "hypothesispytest", "randomly", "rerunfailures", "timeout")
# Every process of the run tells its pid, which is the other way to find it besides its group.
CONFTEST = """
    import os, pathlib

    def pytest_configure(config):
        with pathlib.Path(__file__).with_name("pids").open("a") as pids:
            pids.write(f"{getattr(config, 'workerinput', {}).get('workerid', 'main')} {os.getpid()}\\n")
"""
#: Put into a suite, it lets the first interrupt wait for calls in flight as good as for ever.
PATIENT = "from pytest_lmstudio import runtime; runtime.DRAIN_S = runtime._WORKER_DRAIN_S = 600.0\n"


class Process(NamedTuple):
    """A line of `ps`."""

    pid: int
    group: int
    args: str


class Apart:
    """A pytest that runs `source` against a server.

    Args:
        folder: where the suite is written and run.
        source: the test file.
        url: the server's, or ``embedded``.
        args: further arguments.
        plugins: plugins of others that the suite needs, by name.
        before: a command to be run with pytest's command line behind it.
        temporary: where the run puts its temporary folders; by default where everyone does.
        out: where standard output and error go; by default `wait` returns them.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        url: str,
        *args: str,
        plugins: Sequence[str] = (),
        before: Sequence[str] = (),
        temporary: Path | None = None,
        out: int = subprocess.PIPE,
    ) -> None:
        (folder / "test_suite.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST), encoding="utf-8")
        self._folder = folder
        without = [argument for name in WITHOUT if name not in plugins for argument in ("-p", f"no:{name}")]
        command = [sys.executable, "-m", "pytest", *without, "--lmstudio-backoff=0.01", f"--lmstudio-url={url}", *args]
        self._process = subprocess.Popen(
            [*before, *command],
            cwd=folder,
            # Output is buffered, as it is where nobody turned that off.
            env=os.environ
            | {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": ""}
            | ({"TMPDIR": str(temporary)} if temporary else {}),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out if out != subprocess.PIPE else subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no process of the run behind, whatever the test found."""
        for process in self.left():
            os.kill(process.pid, signal.SIGKILL)
        self._process.communicate()

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to the whole group, as a terminal's Ctrl-C does, or to pytest's first process alone."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> Ran:
        """Wait for the end; return what the run showed and wrote.

        Raises:
            AssertionError: it does not end; the text tells what each of its threads does.
        """
        try:
            out, _ = self._process.communicate(timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:
            for process in sorted(self.left(), reverse=True):  # workers first, while somebody reads what they say
                os.kill(process.pid, signal.SIGABRT)
                time.sleep(_POLL_S)
            msg = f"the run does not end: {self._process.communicate()[0]}"
            raise AssertionError(msg) from None
        return Ran(self._process.returncode, out or "", "", self._folder / ".lmstudio")

    def wait_until(self, fact: Callable[[], object]) -> None:
        """Wait for something that the run does.

        Raises:
            AssertionError: it never happens.
        """
        wait_until(fact, lambda: f"the run has ended: {self.wait().out}" if self._process.poll() is not None else "")

    def pids(self, worker: str = "") -> list[int]:
        """Return the processes that ran pytest's hooks, as they told; of one worker, or of all."""
        pids = self._folder / "pids"
        lines = pids.read_text(encoding="ascii").splitlines() if pids.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(worker)]

    def servers(self) -> list[int]:
        """Return the embedded servers of the run."""
        parent = f"--parent-pid {self.pid}"
        return [one.pid for one in processes() if "server.embedded" in one.args and one.args.endswith(parent)]

    def left(self) -> list[Process]:
        """Return what is left of the run: of its group, of its servers, and by the pids that it told."""
        told = {self.pid, *self.pids(), *self.servers()}
        return [process for process in processes() if process.group == self.pid or process.pid in told]

    def wait_until_gone(self) -> None:
        """Wait until no process of the run is left.

        Raises:
            AssertionError: one stays.
        """
        wait_until(lambda: not self.left(), lambda: "")


def wait_until(fact: Callable[[], object], hopeless: Callable[[], str] = lambda: "") -> None:
    """Wait for a fact; `hopeless` says why it will never be one, empty as long as it may."""
    until_s = time.monotonic() + _DEADLINE_S
    while not fact():
        why = hopeless()
        assert not why, why
        assert time.monotonic() < until_s, "it never came true"
        time.sleep(_POLL_S)


def processes() -> Iterator[Process]:
    """Yield the processes of this machine that are no zombies, which only wait for their parent to look."""
    command = ["ps", "-ww", "-eo", "pid=,pgid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, group, state, *args = line.split(maxsplit=3)
        if not state.startswith("Z"):
            yield Process(int(pid), int(group), args[0].rstrip() if args else "")
