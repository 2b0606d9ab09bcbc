"""Lost and failed tests as annotations of a GitHub job: workflow commands of ours, in which no other can hide.

How they are spelled and escaped: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands, and
``ActionCommand.cs`` of actions/runner, which reads them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Level = Literal["error", "warning"]

#: So many of each level are shown for one step.
MOST = 10
_TITLE_CHARS = 200
_LINE_CHARS = 300
_MOST_LINES = 10
#: The percent sign first: it begins every escape.
_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_DATA, (":", "%3A"), (",", "%2C"))


class Trouble(NamedTuple):
    """A test that was lost or failed.

    Attributes:
        nodeid: the test.
        lost: whether it was lost, and so neither passed nor failed.
        reason: what its error says; it may hold what a model said, and have several lines.
        file: where it stands, as the repository knows it.
        line: the line in that file, from 1; None when it is not known.
    """

    nodeid: str
    lost: bool
    reason: str
    file: str
    line: int | None = None


def commands(troubles: Iterable[Trouble], gate: str | None = None) -> Iterator[str]:
    """Yield one workflow command a line, no more of a level than GitHub shows.

    Args:
        troubles: the tests, the most important ones first.
        gate: why the gate failed, None when it did not.
    """
    shown: Counter[Level] = Counter()
    if gate is not None:
        shown["error"] += 1
        yield command("error", "LM Studio: gate failed", gate)
    for trouble in troubles:
        level: Level = "warning" if trouble.lost else "error"
        shown[level] += 1
        if shown[level] <= MOST:
            title = f"{'lost' if trouble.lost else 'failed'}: {trouble.nodeid}"
            yield command(level, title, trouble.reason, trouble.file, trouble.line)


def command(level: Level, title: str, message: str, file: str | None = None, line: int | None = None) -> str:
    """Return a workflow command; the message may have several lines, of which the first ten are shown."""
    known = {"file": file, "line": line, "title": printable(title, _TITLE_CHARS)}
    given = [f"{name}={_escaped(printable(value), _PROPERTY)}" for name, value in known.items() if value is not None]
    lines = [printable(text, _LINE_CHARS) for text in message.strip().splitlines()[:_MOST_LINES]]
    return f"::{level} {','.join(given)}::{_escaped(chr(10).join(lines) or 'no reason was given', _DATA)}"


def _escaped(text: str, escapes: Iterable[tuple[str, str]]) -> str:
    for char, escape in escapes:
        text = text.replace(char, escape)
    return text
