"""Annotations are workflow commands that GitHub's runner reads back as meant, whatever tests and models say."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lmstudio.report.annotations import MOST, Trouble, command, commands
from pytest_lmstudio.text import printable


class Read(NamedTuple):
    """What the runner makes of a line; None in place of all when it is no command."""

    name: str
    properties: dict[str, str]
    data: str


def read(line: str) -> Read:
    """Read a command as actions/runner does: split at the first ``::``, at commas and at ``=``, then undo escapes."""
    assert line.startswith("::")
    head, _, data = line[2:].partition("::")
    name, _, rest = head.partition(" ")
    pairs = [part.split("=", 1) for part in rest.split(",") if part]
    return Read(name, {pair[0]: unescaped(pair[1], ":,") for pair in pairs}, unescaped(data))


def unescaped(text: str, further: str = "") -> str:
    for char in f"\r\n{further}%":
        text = text.replace(f"%{ord(char):02X}", char)
    return text


def trouble(n: int = 0, *, lost: bool = False, reason: str = "no") -> Trouble:
    return Trouble(f"test_x.py::test_{n}", lost, reason, "tests/test_x.py", n + 1)


def test_a_failed_test_is_an_error_and_a_lost_one_a_warning_at_its_line() -> None:
    assert list(
        commands([trouble(6, reason="assert 1 == 2"), trouble(7, lost=True, reason="[timeout] 45 s passed")])
    ) == [
        "::error file=tests/test_x.py,line=7,title=failed%3A test_x.py%3A%3Atest_6::assert 1 == 2",
        "::warning file=tests/test_x.py,line=8,title=lost%3A test_x.py%3A%3Atest_7::[timeout] 45 s passed",
    ]


def test_a_place_that_is_not_known_is_left_out() -> None:
    assert command("error", "t", "m", "a.py") == "::error file=a.py,title=t::m"
    assert command("error", "t", "m") == "::error title=t::m"


def test_the_gate_comes_first_and_counts_among_the_errors() -> None:
    lines = list(commands([trouble(n) for n in range(20)], "8% of calls lost, limit 5%"))
    assert lines[0] == "::error title=LM Studio%3A gate failed::8%25 of calls lost, limit 5%25"
    assert len(lines) == MOST


def test_no_more_of_a_level_are_told_than_github_shows() -> None:
    many = [trouble(n, lost=n % 3 == 0) for n in range(60)]
    names = [read(line).name for line in commands(many)]
    assert (names.count("error"), names.count("warning")) == (MOST, MOST)


def test_a_reason_keeps_its_lines_up_to_the_tenth() -> None:
    told = read(command("error", "t", "\n".join(map(str, range(12))))).data
    assert told == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9"


@pytest.mark.parametrize("nothing", ["", "\n", "\n \n"])
def test_a_reason_without_text_is_not_an_empty_annotation(nothing: str) -> None:
    assert read(command("error", "t", nothing)).data == "no reason was given"


@given(st.text(), st.text(), st.text(min_size=1))
@example("a.py,line=99", "::error::x", "%0A::warning::x")
@example("a%2Cb", "100%", "\r\n::stop-commands::x")
@example("a.py", "\u2028::error::", "##[error]x\n##vso[task]y")
def test_nothing_in_a_command_is_another_command(file: str, title: str, message: str) -> None:
    line = command("warning", title, message, file, 3)
    assert len(line.splitlines()) == 1
    found = read(line)
    assert found.name == "warning"
    assert list(found.properties) == ["file", "line", "title"] or not file
    assert found.properties["line"] == "3"
    if file:
        assert found.properties["file"] == printable(file)
    assert not any(part.lstrip().startswith("::") for part in found.data.split("\n"))
    assert "##[" not in line
