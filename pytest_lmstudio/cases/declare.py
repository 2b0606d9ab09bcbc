"""The mark ``llm_cases``: from the cases it names to one test each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.cases.source import BadCases, source_of
from pytest_lmstudio.cases.template import Template
from pytest_lmstudio.flags import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_lmstudio.cases.source import Row, Source
    from pytest_lmstudio.cases.template import Question

MARKER = "llm_cases"
#: The case of a test is the parameter of the first of these that it takes.
FIXTURES = ("reply", "case")


class Case(NamedTuple):
    """One case; its fields stay in their file until they are asked for.

    Attributes:
        config: of the pytest that collected it.
        source: where its fields are.
        template: how it is asked.
        offset: where in the source.
        line: where a reader of the source finds it.
        system: equal for cases with one system prompt, None where there is none or only a function knows it.
    """

    config: pytest.Config
    source: Source
    template: Template
    offset: int
    line: int
    system: int | None = None

    def row(self) -> Row:
        """Return the fields, as an object of the caller's own.

        Raises:
            BadCases: the file was changed.
        """
        return self.source.at(self.offset)

    def question(self) -> Question:
        """Return what it asks.

        Raises:
            BadCases: the file was changed, or a function of the user's returned something that cannot be asked.
        """
        return self.template.question(self.row())

    def __repr__(self) -> str:
        """Return where it stands."""
        return f"<case {self.source.name}:{self.line}>"


def declare(metafunc: pytest.Metafunc, mark: pytest.Mark) -> None:
    """Make one test of each case that a mark names."""
    problems = metafunc.config.stash.setdefault(PROBLEMS, [])  # that it is there tells that there are cases
    try:
        cases, ids = _read(metafunc, mark)
    except BadCases as error:
        problems.append(f"{metafunc.definition.nodeid}: @pytest.mark.{MARKER}: {error}")
        cases, ids = [], []
    taken = _taken(metafunc)
    if taken is not None:
        metafunc.parametrize(taken, cases, ids=ids, indirect=True)


def case_of(item: pytest.Item) -> Case | None:
    """Return the case of a test, None when it has none."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    for name in FIXTURES:
        if isinstance(case := params.get(name), Case):
            return case
    return None


def _taken(metafunc: pytest.Metafunc) -> str | None:
    return next((name for name in FIXTURES if name in metafunc.fixturenames), None)


def _read(metafunc: pytest.Metafunc, mark: pytest.Mark) -> tuple[list[Case], list[str]]:
    if _taken(metafunc) is None:
        msg = "the test takes neither `reply` nor `case`; name one of them as its argument"
        raise BadCases(msg)
    if len(mark.args) != 1:
        msg = f"takes one path, or one list of dicts, before its keywords; got {len(mark.args)}"
        raise BadCases(msg)
    template = Template(mark.kwargs)
    source = source_of(mark.args[0], Path(metafunc.definition.path).parent)
    found = list(_cases(metafunc.config, source, template))
    if not found:
        msg = f"{source.name} holds no case"
        raise BadCases(msg)
    return [case for case, _ in found], [name for _, name in found]


def _cases(config: pytest.Config, source: Source, template: Template) -> Iterator[tuple[Case, str]]:
    for row, line, offset in source.scan():
        try:
            system = template.check(row)
            name = template.id_of(row, f"line{line}")
        except BadCases as error:
            msg = f"{source.name}, {source.unit} {line}: {error}"
            raise BadCases(msg) from None
        yield Case(config, source, template, offset, line, None if system is None else hash(system)), name
