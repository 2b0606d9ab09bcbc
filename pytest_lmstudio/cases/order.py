"""The order of tests: those that ask one model together, and of these the declared cases with one system prompt."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio import marks
from pytest_lmstudio.cases.declare import FIXTURES, case_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import pytest


class _Asks(NamedTuple):
    """What decides where a test of ours goes.

    Attributes:
        model: the model it names; None is the one that is loaded.
        system: equal for declared cases with one system prompt, None where there is none or it is not known.
    """

    model: str | None
    system: int | None


class _Placed(NamedTuple):
    """A test, and what it asks; None for a test that asks no model."""

    item: pytest.Item
    asks: _Asks | None


def by_affinity(items: Sequence[pytest.Item], model: str | None) -> list[pytest.Item]:
    """Return tests with those of one model next to each other, models in the order of their first tests.

    Tests that ask the same keep their order, those that ask no model their places: in their file, and files without a
    model in the run. A file moves as a whole, in as many parts as it asks models; so does a class of a file that asks
    several. Of the tests of one model, declared cases with one system prompt come next to each other, as far as they
    need not leave their file, their class or the parameters of a fixture for that.

    Args:
        items: the tests, in order; their marks are checked.
        model: the one that tests ask which name none; None is the one that is loaded.
    """
    found = [_asks(item, model) for item in items]
    asked = {asks for asks in found if asks is not None}
    if len(asked) < 2:  # noqa: PLR2004  # nothing to tell apart
        return list(items)
    placed = list(map(_Placed, items, found))
    if len({asks.model for asks in asked}) > 1:
        placed = list(chain.from_iterable(_by_model(placed, _LEVELS)))
    if sum(asks.system is not None for asks in asked) > 1:
        placed = _by_system(placed, _LEVELS)
    return [one.item for one in placed]


def _asks(item: pytest.Item, model: str | None) -> _Asks | None:
    if not marks.is_llm(item):
        return None
    case = case_of(item) if marks.asks_case(item) else None
    system = None if case is None else case.system
    if case is not None and system is None and (said := marks.said(item, "system")) is not None:
        system = hash(said)
    return _Asks(marks.said(item, "model") or model, system)


def _other_parameters(item: pytest.Item) -> Hashable:
    indices: dict[str, int] = getattr(getattr(item, "callspec", None), "indices", {})
    return tuple([pair for pair in indices.items() if pair[0] not in FIXTURES])


#: What tests have in common, the widest first: leaving it early makes pytest set up fixtures once more. pytest has put
#: the tests of one parameter of a module's fixture next to each other by now.
_LEVELS: tuple[Callable[[pytest.Item], Hashable], ...] = (
    lambda item: item.path,
    lambda item: item.parent,
    _other_parameters,
)
_Levels = tuple["Callable[[pytest.Item], Hashable]", ...]


def _runs(placed: Sequence[_Placed], levels: _Levels) -> list[list[_Placed]]:
    """Return the runs of tests that have the widest level in common, single tests where there is none left."""
    if not levels:
        return [[one] for one in placed]
    return [list(run) for _, run in groupby(placed, lambda one: levels[0](one.item))]


def _by_model(placed: list[_Placed], levels: _Levels) -> list[list[_Placed]]:
    """Return tests in stretches of one model each; first those of each class, then of each file, then of all files."""
    if len({one.asks.model for one in placed if one.asks is not None}) < 2:  # noqa: PLR2004  # two models
        return [placed]
    parts = [part for run in _runs(placed, levels) for part in _by_model(run, levels[1:])]
    return _stretches(_dealt(parts, [_model_of(part) for part in parts]))


def _model_of(part: Sequence[_Placed]) -> tuple[str | None] | None:
    """Return the model that a part asks, as a key; None when it asks none."""
    return next(((one.asks.model,) for one in part if one.asks is not None), None)


def _stretches(parts: Sequence[list[_Placed]]) -> list[list[_Placed]]:
    """Join parts of one model, and those of none to what stands before them."""
    joined: list[list[_Placed]] = [[]]
    model = None
    for part in parts:
        asked = _model_of(part)
        if asked is not None and model is not None and asked != model:
            joined.append([])
        joined[-1].extend(part)
        model = asked or model
    return joined


def _by_system(placed: list[_Placed], levels: _Levels) -> list[_Placed]:
    """Put cases of one system prompt together inside each run, and runs that have but one inside the run around."""
    if len({one.asks for one in placed if one.asks is not None}) < 2:  # noqa: PLR2004  # two prompts
        return placed
    runs = _runs(placed, levels)
    return [one for run in _dealt(runs, [_system_of(run) for run in runs]) for one in _by_system(run, levels[1:])]


def _system_of(run: Sequence[_Placed]) -> Hashable:
    """Return the model and the system prompt that all of a run asks, None when there is no such."""
    asked = {one.asks for one in run if one.asks is not None}
    only = asked.pop() if len(asked) == 1 else None
    return only if only is not None and only.system is not None else None


def _dealt(runs: list[list[_Placed]], keys: Sequence[Hashable]) -> list[list[_Placed]]:
    """Deal the runs that have a key to the places of these, those of one key together; the others stay."""
    groups: dict[Hashable, list[list[_Placed]]] = {}
    for run, key in zip(runs, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(run)
    in_turn = chain.from_iterable(groups.values())
    return [run if key is None else next(in_turn) for run, key in zip(runs, keys, strict=True)]
