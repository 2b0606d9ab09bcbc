"""A suite of LM tests, run by a pytest of its own against a stand-in server, and what it left behind."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio
import httpcore

import pytest_lmstudio
from tests.valid import checked

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.standin import StandIn

# A pytest inside this process forgets the modules that it was the first to import, but the packages around them do not:
# the second such pytest would see two of each. So all are here before the first.
for _package in (pytest_lmstudio, httpcore, anyio):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        if not _module.name.endswith("__main__"):
            with suppress(ImportError):  # parts for packages that are not installed
                importlib.import_module(_module.name)

#: Ways to run a suite: one process, two workers, xdist not there at all.
ALONE, WORKERS, NO_XDIST = ("-n0",), ("-n2",), ("-p", "no:xdist")
# Plugins that a suite may name, and that would be half of what a worker costs that starts.
_QUICK = (
    "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:cov", "-p", "no:hypothesispytest", "-p", "no:randomly",
    "-p", "no:rerunfailures", "-p", "no:timeout", "--lmstudio-backoff=0.01", "--color=no",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What a run showed and wrote.

    Attributes:
        ret: the exit status.
        out: standard output.
        err: standard error.
        home: the folder ``.lmstudio``.
    """

    ret: int
    out: str
    err: str
    home: Path

    @property
    def summary(self) -> str:
        """The outcomes in pytest's last line, such as ``1 passed, 2 skipped``."""
        found = re.findall(r"^=* ?([^=\n]+?) in [\d.]+s(?: \([\d:]+\))? ?=*$", self.out, re.MULTILINE)
        return str(found[-1]) if found else ""

    @property
    def words(self) -> dict[str, set[str]]:
        """The words that ``-v`` shows for each test, by its name without the file, teardowns included."""
        found: dict[str, set[str]] = {}
        for line in self.out.splitlines():
            alone = re.match(r"[\w/]+\.py::(\S+) ([A-Z-]{4,})", line)
            worker = re.match(r"\[gw\d+\] \[ *\d+%\] ([A-Z-]{4,}) [\w/]+\.py::(\S+)", line)
            if alone or worker:
                name, word = alone.groups() if alone else worker.groups()[::-1]  # type: ignore[union-attr]  # one is there
                found.setdefault(name, set()).add(word)
        return found

    @property
    def section(self) -> list[str]:
        """The lines of the section ``LM Studio`` at the end."""
        _, _, rest = self.out.rpartition("= LM Studio =")
        lines = rest.splitlines()[1:]
        ends = [n for n, line in enumerate(lines) if line.startswith("=")]
        return lines[: ends[0]] if ends else lines

    @property
    def folder(self) -> Path:
        """The newest run's folder."""
        return self.home / "runs" / (self.home / "runs" / "latest").read_text("utf-8").strip()

    @cached_property
    def report(self) -> dict[str, Any]:
        """The newest run's report.json."""
        return checked(json.loads((self.folder / "report.json").read_text("utf-8")))

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The newest run's events, in order."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text("utf-8").splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one name."""
        return [one for one in self.events if one["event"] == event]

    @property
    def outcomes(self) -> dict[str, int]:
        """The report's tally of tests, without the outcomes that no test had."""
        return {word: count for word, count in self.report["tests"].items() if count}


class Suite:
    """Writes tests and runs them."""

    def __init__(self, pytester: pytest.Pytester, server: StandIn) -> None:
        self.pytester = pytester
        self.server = server

    def write(self, source: str, name: str = "test_suite") -> None:
        """Write a test file."""
        self.pytester.makepyfile(**{name: textwrap.dedent(source)})

    def conftest(self, source: str) -> None:
        """Write the conftest."""
        self.pytester.makeconftest(textwrap.dedent(source))

    def arguments(self, *args: str) -> list[str]:
        """Return the command line: quick retries, fixed order, this server."""
        return [*_QUICK, f"--lmstudio-url={self.server.url}", *args]

    def run(self, *args: str) -> Ran:
        """Run in this process, with or without workers, as `args` say."""
        return self.ran(self.pytester.runpytest_inprocess(*self.arguments(*args)))

    def run_apart(self, *args: str) -> Ran:
        """Run in a process of its own."""
        return self.ran(self.pytester.runpytest_subprocess(*self.arguments(*args)))

    def ran(self, result: pytest.RunResult) -> Ran:
        """Return what a run of this suite showed and wrote."""
        return Ran(
            int(result.ret), "\n".join(result.outlines), "\n".join(result.errlines), self.pytester.path / ".lmstudio"
        )
