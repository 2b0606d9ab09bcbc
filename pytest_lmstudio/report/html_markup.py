"""HTML built from calls: every text is escaped as it goes in, so that no text from outside becomes markup."""

from __future__ import annotations

import html
import re
from itertools import islice
from typing import TYPE_CHECKING

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LONGEST = 500
_CODE = re.compile(r"(`[^`]+`|--[a-z][\w=-]*)")
_VOID = frozenset({"meta"})


class Markup(str):
    """Text that is markup already; only this module makes it."""

    __slots__ = ()


#: What an element may hold: markup stays as it is, None is left out, all else is text.
Child = Markup | str | int | float | None


def escaped(text: object, limit: int = _LONGEST) -> Markup:
    """Return text as HTML shows it: one line, no control characters, at most so many characters long."""
    return Markup(html.escape(printable(text, limit)))


def multiline(text: str) -> Markup:
    """Return a text of several lines as it is to stand in an element that keeps them; the text's length is its own."""
    return Markup("\n".join(html.escape(printable(line)) for line in text.split("\n")))


def prose(text: str) -> Markup:
    """Return our own advice with its commands (between backticks) and options (``--name``) as code."""
    parts = _CODE.split(printable(text, _LONGEST))
    return joined(tag("code", part.strip("`")) if i % 2 else part for i, part in enumerate(parts))


def joined(children: Iterable[Child]) -> Markup:
    """Return the markup of several children one after another."""
    kept = (child for child in children if child is not None)
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in kept))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        name: the element's name, from code alone.
        children: what it holds.
        attributes: their names with ``_`` for ``-``, a trailing ``_`` is dropped (``class_``); None leaves one out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{joined(children)}</{name}>")


def style(sheet: str) -> Markup:
    """Return a style element; a sheet is code, and the one text that is not escaped.

    Raises:
        ValueError: the sheet would end its element.
    """
    if "<" in sheet:
        msg = "a style sheet may not hold <"
        raise ValueError(msg)
    return Markup(f"<style>{sheet}</style>")


def section(heading: str, *children: Child) -> Markup | None:
    """Return a section under a heading, None when it holds nothing."""
    inner = joined(children)
    return tag("section", tag("h2", heading), inner) if inner else None


def pairs(rows: Iterable[tuple[str, Child]]) -> Markup:
    """Return a list of terms and what they are."""
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", value)) for term, value in rows))


def table(
    caption: str,
    texts: Sequence[str],
    numbers: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    most: int = 50,
) -> Markup | None:
    """Return a table, None without rows.

    Args:
        caption: what it shows.
        texts: headings of the first columns, which hold text; the first of all names its row.
        numbers: headings of the columns after them, which are set flush right.
        rows: their cells.
        most: rows to show; how many are left out is told below.
    """
    if not rows:
        return None
    heads = [*(tag("th", name, scope="col") for name in texts), *(_number("th", n, scope="col") for n in numbers)]
    left_out = len(rows) - most
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *(_row(row, len(texts)) for row in islice(rows, most))),
            class_="wide" if len(texts) > 1 and numbers else None,
        ),
        tag("p", f"{left_out:,} more are not shown.", class_="quiet") if left_out > 0 else None,
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def _row(cells: Sequence[Child], texts: int) -> Markup:
    words = [tag("td", cell) for cell in cells[1:texts]]
    return tag("tr", tag("th", cells[0], scope="row"), *words, *(_number("td", cell) for cell in cells[texts:]))


def _number(name: str, cell: Child, /, **attributes: str) -> Markup:
    return tag(name, cell, class_="number", **attributes)
