"""The ``llm`` mark: who has it, and what the marks of module, class and test add up to."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pytest_lmstudio import marks

ALLOWED = (
    "timeout, first_token_timeout, inter_token_timeout, retries, backoff, model, cache, stream, max_tokens, "
    "temperature, seed, system"
)


class FakeItem:
    """As much of an item as marks need; its marks are given from the closest to the farthest."""

    nodeid = "test_a.py::test_one"
    parent = None

    def __init__(self, *found: Any, fixturenames: tuple[str, ...] = ()) -> None:
        self.marks = self.own_markers = [mark.mark for mark in found]
        self.fixturenames = fixturenames
        self.stash = pytest.Stash()

    def iter_parents(self) -> list[FakeItem]:
        return [self]

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self.marks if mark.name == name]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next(iter(self.iter_markers(name)), None)

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.marks.append(marker.mark)


def marked(*found: Any, fixturenames: tuple[str, ...] = ()) -> pytest.Item:
    item = cast("pytest.Item", FakeItem(*found, fixturenames=fixturenames))
    marks.mark_items([item])
    return item


@pytest.mark.parametrize(
    ("fixturenames", "is_llm", "needs_server"),
    [
        (("tmp_path", "lm"), True, True),
        (("alm",), True, True),
        (("reply",), True, True),
        (("lm_session",), False, True),
        (("tmp_path",), False, False),
    ],
)
def test_a_test_that_asks_the_model_is_an_lm_test(
    fixturenames: tuple[str, ...], is_llm: bool, needs_server: bool
) -> None:
    item = marked(fixturenames=fixturenames)
    assert (marks.is_llm(item), marks.needs_server(item), marks.options_of(item)) == (is_llm, needs_server, {})


def test_the_closest_mark_wins_and_the_others_add() -> None:
    item = marked(pytest.mark.llm(timeout=1), pytest.mark.llm(retries=2, timeout=2), pytest.mark.llm(timeout=3, seed=3))
    assert marks.options_of(item) == {"timeout": 1.0, "retries": 2, "seed": 3}
    assert marks.options_of(None) == {}


def test_a_mark_added_after_collection_counts() -> None:
    item = marked(pytest.mark.llm(timeout=1), fixturenames=("lm",))
    fake = cast("FakeItem", item)
    fake.marks.insert(0, pytest.mark.llm(timeout=2).mark)
    assert marks.options_of(item) == {"timeout": 2.0}
    fake.marks.insert(0, pytest.mark.llm(timeout=-2).mark)
    with pytest.raises(
        pytest.UsageError, match=r"^test_a\.py::test_one: @pytest\.mark\.llm timeout=-2: expected seconds"
    ):
        marks.options_of(item)


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        (pytest.mark.llm(90), "takes keywords only, got 90"),
        (pytest.mark.llm(max_token=1), f"unknown keyword 'max_token'; did you mean 'max_tokens'? allowed: {ALLOWED}"),
        (pytest.mark.llm(zzz=1), f"unknown keyword 'zzz'; allowed: {ALLOWED}"),
        (
            pytest.mark.llm(timeout="90"),
            f"timeout='90': expected seconds above 0 and up to 86400, or 'auto'; allowed keywords: {ALLOWED}",
        ),
        (pytest.mark.llm(seed=1.5), f"seed=1.5: expected a whole number; allowed keywords: {ALLOWED}"),
        (pytest.mark.llm(cache=0), f"cache=0: expected True or False; allowed keywords: {ALLOWED}"),
    ],
)  # fmt: skip
def test_a_wrong_mark_names_the_test_and_what_is_allowed(mark: pytest.MarkDecorator, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        marked(pytest.mark.llm(timeout=1), mark)
    assert str(caught.value) == f"test_a.py::test_one: @pytest.mark.llm {problem}"
