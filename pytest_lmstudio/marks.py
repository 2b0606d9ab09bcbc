"""Marks of tests: which tests are LM tests, and what their ``llm`` marks say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_lmstudio import values
from pytest_lmstudio.keywords import MARK_KEYWORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MARKER = "llm"
#: Fixtures whose tests are LM tests; what `lm_session` does is booked to a test, but need not be what it tests.
_MARKING = frozenset({"lm", "alm", "reply"})
_OWN_CALLS = frozenset({"lm", "alm", "lm_session"})


class _Known(NamedTuple):
    """The checked keywords of an LM test's marks, and how many marks of any name it had then."""

    options: Mapping[str, Any]
    marks: int


#: One for all tests.
_MARK = pytest.mark.llm
_KNOWN = pytest.StashKey[_Known]()


def mark_items(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that use the model, and check all marks.

    Raises:
        ValueError: a mark is wrong; the text names the test.
    """
    seen: dict[tuple[int, str], _Known] = {}  # most tests have the same, and each is an object to be kept
    above: dict[Any, tuple[bool, int]] = {}  # whether what holds a test is marked, and its marks
    for item in items:
        uses_model = not _MARKING.isdisjoint(getattr(item, "fixturenames", ()))
        holder = item.parent
        if holder not in above:
            above[holder] = holder is not None and holder.get_closest_marker(MARKER) is not None, _count(holder)
        marked = above[holder][0] or any(mark.name == MARKER for mark in item.own_markers)
        if uses_model and not marked:
            item.add_marker(_MARK)
        if uses_model or marked:
            options, marks = _merged(item) if marked else {}, above[holder][1] + len(item.own_markers)
            key = marks, repr(options) if options else ""
            if key not in seen:
                seen[key] = _Known(options, marks)
            item.stash[_KNOWN] = seen[key]


def options_of(item: pytest.Item | None) -> Mapping[str, Any]:
    """Return the checked keywords of a test's marks, those included that a conftest added after collection.

    Raises:
        pytest.UsageError: such a mark is wrong.
    """
    if item is None:
        return {}
    known = item.stash.get(_KNOWN, None)
    if known is not None and known.marks == _count(item):
        return known.options
    try:
        return _merged(item)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def is_llm(item: pytest.Item) -> bool:
    """Tell whether a test is an LM test, as `mark_items` found; asked several times a test, in every suite."""
    return _KNOWN in item.stash


def is_declared(item: pytest.Item) -> bool:
    """Tell whether the only call of a test is that of its declared case."""
    return asks_case(item) and _OWN_CALLS.isdisjoint(getattr(item, "fixturenames", ()))


def asks_case(item: pytest.Item) -> bool:
    """Tell whether a test takes the answer to its declared case."""
    return "reply" in getattr(item, "fixturenames", ())


def said(item: pytest.Item, keyword: str) -> str | None:
    """Return what the marks of an LM test say, also those that a conftest gave it since they were checked."""
    own = (mark.kwargs.get(keyword) for mark in item.own_markers if mark.name == MARKER)
    return next((word for word in own if isinstance(word, str)), item.stash[_KNOWN].options.get(keyword))


def has_place(item: pytest.Item) -> bool:
    """Tell whether a test may go elsewhere in the order for what it asks: a model that it names, or a case."""
    return is_llm(item) and (asks_case(item) or said(item, "model") is not None)


def needs_server(item: pytest.Item) -> bool:
    """Tell whether a test may make a call."""
    return is_llm(item) or "lm_session" in getattr(item, "fixturenames", ())


def _count(node: Any) -> int:
    """Return how many marks a node of pytest's tree has, with those of what holds it."""
    return 0 if node is None else sum([len(one.own_markers) for one in node.iter_parents()])


def _merged(item: pytest.Item) -> dict[str, Any]:
    """Return the keywords of all marks of a test; the closest wins."""
    merged: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers(MARKER))):
        if mark.args:
            raise ValueError(_text(item, f"takes keywords only, got {values.quoted(mark.args[0])}"))
        merged |= {name: _checked(item, name, value) for name, value in mark.kwargs.items()}
    return merged


def _checked(item: pytest.Item, name: str, value: object) -> Any:
    if name not in MARK_KEYWORDS:
        import difflib

        near = difflib.get_close_matches(name, MARK_KEYWORDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(_text(item, f"unknown keyword {name!r}; {hint}allowed: {', '.join(MARK_KEYWORDS)}"))
    try:
        return MARK_KEYWORDS[name](value)
    except ValueError as error:
        raise ValueError(
            _text(item, f"{name}={values.quoted(value)}: {error}; allowed keywords: {', '.join(MARK_KEYWORDS)}")
        ) from None


def _text(item: pytest.Item, problem: str) -> str:
    return f"{item.nodeid}: @pytest.mark.{MARKER} {problem}"
