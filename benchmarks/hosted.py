"""Competitors that are timed call by call, each in a process of its own, so that none carries what another imported.

``python -m benchmarks.hosted MODULE:FUNCTION JSON`` is the child: it opens the competitor, then runs one block for each
line it reads, and ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measure import Timing, interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.measure import Block

ROOT = Path(__file__).parent.parent
#: What sets the plugin's own settings, switches plugins on or off, or keeps Python from storing what it compiled.
_FOREIGN = ("LM_", "LLM_", "LMSTUDIO_", "EVAL_", "PYTEST_", "PYTHONDONTWRITEBYTECODE")


class NotInstalledError(Exception):
    """A peer is not there; the text is its name."""


class Competitor(NamedTuple):
    """What to open, as ``module:function`` with the keywords of that function.

    The function is a context manager that yields what runs a block: it takes the block's number and returns a `Timing`.
    """

    function: str
    given: dict[str, Any]


def peer(module: str) -> Any:
    """Import a module of a peer.

    Raises:
        NotInstalledError: it is not there.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalledError(module.partition(".")[0]) from error


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child, without settings of the user's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)} | more


def take_turns(competitors: Mapping[str, Competitor], rounds: int) -> dict[str, list[Timing]]:
    """Open all competitors, let them take turns, and close them; leave out what is not installed."""
    with ExitStack() as stack:
        opened: dict[str, Block] = {}
        for name, competitor in competitors.items():
            run = stack.enter_context(_hosted(competitor))
            if run is not None:
                opened[name] = run
        return interleaved(opened, rounds)


@contextmanager
def _hosted(competitor: Competitor) -> Iterator[Block | None]:
    command = [sys.executable, "-m", "benchmarks.hosted", competitor.function, json.dumps(competitor.given)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, said = process.stdin, process.stdout

        def block(number: int) -> Timing:
            print(number, file=asked, flush=True)
            return Timing(*json.loads(said.readline()))

        try:
            first = said.readline().strip()
            assert first in {"ready", "missing"}, f"{competitor.function} did not start: see what it said above"
            yield block if first == "ready" else None
        finally:
            asked.close()


def main() -> None:
    """Run blocks of one competitor until standard input ends: the child's whole life."""
    module, _, function = sys.argv[1].partition(":")
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # peers may print
        try:
            with getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2])) as block:
                print("ready", file=answers, flush=True)
                for line in sys.stdin:
                    print(json.dumps(block(int(line))), file=answers, flush=True)
        except NotInstalledError:
            print("missing", file=answers, flush=True)


if __name__ == "__main__":
    main()
