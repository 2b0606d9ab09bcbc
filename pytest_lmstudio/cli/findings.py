"""What a check found, and how it is shown."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.report.terminal import Line

Mark = Literal["ok", "note", "mend"]
_LABEL = 12
_COLOURS = {"ok": "green", "note": "yellow", "mend": "red"}
_HANGING, _NARROWEST = 3, 20
_COMMAND = re.compile(r"`[^`]{1,60}`")
#: It cannot be in printable text.
_UNBROKEN = "\x00"
#: Paths are copied whole too, so words are never cut.
_WRAP = textwrap.TextWrapper(break_long_words=False, break_on_hyphens=False)


class Finding(NamedTuple):
    """One line of the checklist.

    Attributes:
        mark: ``ok``; ``note``, worth knowing; ``mend``, nothing works well before that is done.
        about: one word.
        text: what is.
        remedy: what to do, or empty.
        details: further lines.
    """

    mark: Mark
    about: str
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "status": self.mark,
            "about": self.about,
            "text": self.text,
            "remedy": self.remedy or None,
            "details": list(self.details),
        }

    def lines(self, width: int) -> Iterator[Line]:
        """Yield the lines to show."""
        from pytest_lmstudio.report.terminal import Line

        colour = {_COLOURS[self.mark]: True, "bold": self.mark == "mend"}
        head = f"  {self.mark.upper() if self.mark == 'mend' else self.mark:<5} {self.about:<{_LABEL}}"
        first, *rest = wrapped(self.text, width - len(head))
        indent = " " * len(head)
        yield Line(f"{head}{first}", colour)
        yield from (Line(f"{indent}{line}", colour) for line in rest)
        hints = [("", detail) for detail in self.details] + [("-> ", self.remedy)] * bool(self.remedy)
        for arrow, text in hints:
            for number, line in enumerate(wrapped(text, width - len(head) - _HANGING)):
                yield Line(f"{indent}{'   ' if number else arrow}{line}")


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines; a command stays on one line where it can, since it is copied whole."""
    _WRAP.width = max(width, _NARROWEST)
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", _UNBROKEN), printable(text))
    return [line.replace(_UNBROKEN, " ") for line in _WRAP.wrap(whole)] or [""]
