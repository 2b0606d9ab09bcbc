"""The table of faults in docs/faults.md: ``python -m tests.faults_table`` runs them all and writes it anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pytest_lmstudio.errors import KINDS, ErrorKind

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
WRITE = "LMSTUDIO_TESTS_WRITE_FAULTS"
RETRIES = 3
INTRO = """\
# What goes wrong, and what you see

Each fault below was played by a server and met by a test, as the plugin's own tests do on every change; the line is the
one that a test gets, in its error and in the reason of an `lm-error`. Kinds of category `network` are lost, not failed.
"""
_COUNTS = {0: "no", 1: "once", 2: "twice"}
_LOCAL = "http://127.0.0.1:1234"


class Met(NamedTuple):
    """What became of a fault.

    Attributes:
        does: what the server does.
        sees: the line that the user sees.
        kind: the kind of error, empty where the call was answered.
        category: the category that the error counted in.
        retries: how often the call was tried again.
        mode: ``stream``, ``whole``, or empty where nothing was sent.
        why: why it was not tried again, or not as often as others of its kind.
    """

    does: str
    sees: str
    kind: str
    category: str
    retries: int
    mode: str
    why: str = ""


def masked(text: str, url: str) -> str:
    """Return a line without what differs from machine to machine: ports, and the words of operating systems."""
    text = text.replace(url, _LOCAL).replace(url.removeprefix("http://"), _LOCAL.removeprefix("http://"))
    text = re.sub(r"no connection: \[.*?(?=;| \(model)", "no connection: [Errno 111] Connect call failed", text)
    text = re.sub(r"(?<=complete message body) \([^()]*\)", "", text)
    return re.sub(
        r"Connection(?:Reset|Aborted)Error: [^()]*(?= \()",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        text,
    )


def merged(met: list[Met]) -> list[Met]:
    """Return faults in their order, with one row where it makes no difference whether the answer streams."""
    rows: dict[Met, list[str]] = {}
    for one in met:
        rows.setdefault(one._replace(mode=""), []).append(one.mode)
    order = [one.does for one in met]
    whole = [row._replace(mode=modes[0] if len(modes) == 1 else "both") for row, modes in rows.items()]
    return sorted(whole, key=lambda row: order.index(row.does))


def rendered(met: list[Met]) -> str:
    """Return the page: an overview of the kinds, then a table for each kind, then what is no error."""
    rows = merged(met)
    kinds = [kind for kind in ErrorKind if any(row.kind == kind for row in rows)]
    parts = [INTRO, _overview(kinds)]
    parts += [_section(kind, [row for row in rows if row.kind == kind]) for kind in kinds]
    parts.append(_answered([row for row in rows if not row.kind]))
    return "\n".join(parts)


def _overview(kinds: list[ErrorKind]) -> str:
    lines = ["| kind | category | tried again | what to do |", "| --- | --- | --- | --- |"]
    for kind in kinds:
        spec = KINDS[kind]
        again = "yes" if spec.retried else "no"
        lines.append(f"| [`{kind}`](#{kind}) | {spec.category} | {again} | {_cell(spec.advice)} |")
    lines.append("\nOther things that look wrong [are no errors](#no-errors).")
    return "\n".join([*lines, ""])


def _section(kind: ErrorKind, rows: list[Met]) -> str:
    spec = KINDS[kind]
    head = f"## {kind}\n\nCategory `{spec.category}`: the server {spec.title}.\n"
    lines = ["| what the server does | what you see | tried again | how it travels |", "| --- | --- | --- | --- |"]
    lines += [f"| {_cell(row.does)} | {_code(row.sees)} | {_again(row)} | {_mode(row)} |" for row in rows]
    return "\n".join([head, *lines, ""])


def _answered(rows: list[Met]) -> str:
    lines = ["| what the server does | what you get | how it travels |", "| --- | --- | --- |"]
    lines += [f"| {_cell(row.does)} | {_cell(row.sees)} | {_mode(row)} |" for row in rows]
    return "\n".join(["## No errors\n", *lines, ""])


def _again(row: Met) -> str:
    times = _COUNTS.get(row.retries, f"{row.retries} times")
    if row.why:
        return f"{times}: {row.why}"
    return f"{times}, as `--lmstudio-retries` says" if row.retries == RETRIES else times


def _mode(row: Met) -> str:
    return row.mode or "nothing was sent"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _code(text: str) -> str:
    """Return a line as code; one that holds a backtick needs two around it."""
    ticks = "``" if "`" in text else "`"
    return f"{ticks} {_cell(text)} {ticks}" if ticks == "``" else f"`{_cell(text)}`"


def main() -> int:
    """Let the test that compares the page write it; return the exit status of its pytest."""
    test = Path(__file__).parent / "plugin" / "test_faults_table.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(test)]
    return subprocess.run(command, env={**os.environ, WRITE: "1"}, cwd=PAGE.parents[1], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
