"""Prompts and replies for the page: of bounded size, without secrets, and never part of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.report.masking import masked
from pytest_lmstudio.report.section import answered, asked
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lmstudio.records import Call

#: Label and text of each part of a call, in order; plain data, since it travels from worker to controller.
Parts = list[list[str]]

#: What one text, and the texts of one report of a test, may have at most, characters.
_TEXT_CHARS, _TEST_CHARS = 4_000, 100_000
_LABEL_CHARS = 20


def parts_of(calls: Iterable[Call], secrets: tuple[str, ...]) -> dict[str, Parts]:
    """Return what calls asked and were answered, by call id; those that are too much are left out.

    Args:
        calls: of one test.
        secrets: what may stand nowhere, see `masking.secrets_of`.
    """
    found: dict[str, Parts] = {}
    left_chars = _TEST_CHARS
    for call in calls:
        parts = [[printable(label, _LABEL_CHARS), _shown(text, secrets)] for label, text in _parts(call)]
        left_chars -= size_of(parts)
        if left_chars < 0:
            break
        found[call.request.call_id] = parts
    return found


def size_of(parts: Parts) -> int:
    """Return how many characters the texts of a call have."""
    return sum(len(text) for _, text in parts)


def _parts(call: Call) -> Iterator[tuple[str, str]]:
    yield from asked(call)
    yield from answered(call)


def _shown(text: str, secrets: tuple[str, ...]) -> str:
    """Return the beginning of a text, its lines without control characters."""
    # Masked before it is cut: half a secret may not look like one.
    clean = masked(text[: 2 * _TEXT_CHARS], secrets)[:_TEXT_CHARS]
    lines = [printable(line) for line in clean.splitlines()]
    if len(text) > _TEXT_CHARS:
        lines.append(f"... ({len(text) - _TEXT_CHARS:,} more characters)")
    return "\n".join(lines)
