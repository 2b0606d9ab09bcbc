"""From a case's fields to what is asked."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.cases.source import BadCases
from pytest_lmstudio.cases.template import Question, Template

ROW = {"text": "It rains.", "n": 2, "who": {"name": "Ada"}}


def asked(row: dict[str, Any] | None = None, /, **given: Any) -> Question:
    return Template(given).question(ROW if row is None else row)


def test_fields_fill_prompt_system_and_the_texts_of_a_conversation() -> None:
    assert asked(prompt="{who[name]}: {text} {n:03d} {{}}", system="You are {who[name]}.") == Question(
        "Ada: It rains. 002 {}", "You are Ada.", None, {}
    )
    image = {"type": "image_url", "image_url": {"url": "data:{text}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "{text}"}, image]},
        {"role": "assistant", "content": "{n}"},
    ]
    assert asked(messages=messages).prompt == [
        {"role": "user", "content": [{"type": "text", "text": "It rains."}, image]},
        {"role": "assistant", "content": "2"},
    ]


def test_what_the_mark_does_not_say_the_case_does() -> None:
    row = {"prompt": "Hi {x}", "system": "Be {brief}.", "schema": {"type": "object"}, "params": {"seed": 2}}
    assert asked(row, seed=1, max_tokens=5) == Question(
        "Hi {x}", "Be {brief}.", {"type": "object"}, {"seed": 2, "max_tokens": 5}
    )
    assert asked(row, prompt="Ho", system="", schema={}) == Question("Ho", "", {}, {"seed": 2})
    messages = [{"role": "user", "content": "{as it is}"}]
    assert asked({"messages": messages}).prompt == messages


def test_functions_of_the_case_may_say_all() -> None:
    question = asked(
        prompt=lambda case: case["text"].upper(),
        system=lambda case: case["who"]["name"],
        schema=lambda case: {"const": case["n"]},
    )
    assert question == Question("IT RAINS.", "Ada", {"const": 2}, {})


@pytest.mark.parametrize(
    ("row", "given", "problem"),
    [
        ({"a": 1}, {"prompt": "{b}"}, "the field 'b' is missing; it has: a"),
        ({}, {"prompt": "{b}"}, "the field 'b' is missing; it has: none"),
        (
            {"a": 1},
            {"prompt": "{a:.1d}"},
            (
                "prompt cannot be filled: Precision not allowed in integer format specifier (a brace that is meant is "
                "written twice)"
            ),
        ),
        (
            {"a": 1},
            {"system": "x"},
            "it says nothing to ask: give the mark a prompt or messages, or the case a field of that name",
        ),
        ({"prompt": 5}, {}, "messages must be a list of message objects, got 5"),
        ({"prompt": "x", "system": 5}, {}, "system must be a text, got 5"),
        ({"prompt": "x", "schema": 5}, {}, "schema must be an object with named fields, got 5"),
        ({"prompt": "x", "params": [1]}, {}, "params must be an object with named fields, got [1]"),
    ],
)
def test_a_case_that_cannot_be_asked_is_told(row: dict[str, Any], given: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadCases) as caught:
        Template(given).check(row)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"prompt": "a", "messages": []}, "takes prompt or messages, not both"),
        (
            {"prompt": "{"},
            "prompt is no template: Single '{' encountered in format string (a brace that is meant is written twice)",
        ),
        ({"prompt": "{}"}, "prompt must name its fields, as in {text}"),
        ({"id": "{0}"}, "id must name its fields, as in {text}"),
        ({"system": 5}, "system must be a text or a function of the case, got 5"),
        ({"schema": 5}, "schema must be an object with named fields, got 5"),
    ],
)
def test_a_mark_that_cannot_be_used_is_told(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadCases) as caught:
        Template(given)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("row", "given", "name"),
    [
        ({"a": 1}, {}, "line7"),
        ({"id": "x"}, {}, "x"),
        ({"id": 5}, {}, "5"),
        ({"id": ""}, {}, "line7"),
        ({"id": [1]}, {}, "line7"),
        ({"id": "x", "a": "y"}, {"id": "a"}, "y"),
        ({"a": "x", "b": 2}, {"id": "{a}-{b}"}, "x-2"),
        ({"a": "x"}, {"id": lambda case: case["a"] * 2}, "xx"),
    ],
)
def test_a_case_is_named_by_the_mark_its_id_or_its_place(row: dict[str, Any], given: dict[str, Any], name: str) -> None:
    assert Template(given).id_of(row, "line7") == name


def test_a_field_that_should_name_a_case_must_be_there() -> None:
    with pytest.raises(BadCases, match=r"^the field 'name' is missing; it has: a$"):
        Template({"id": "name"}).id_of({"a": 1}, "line7")


def test_functions_are_not_called_for_a_check() -> None:
    Template({"prompt": lambda _: pytest.fail("called")}).check({})


@pytest.mark.parametrize(
    ("given", "system"),
    [
        ({"prompt": "x"}, None),
        ({"prompt": "x", "system": "Be {who[name]}."}, "Be Ada."),
        ({"prompt": lambda case: case["no"], "system": "Be {who[name]}."}, "Be Ada."),
        ({"prompt": "x", "system": lambda case: case["no"]}, None),
        ({"messages": [{"role": "system", "content": "{n}"}], "system": "unused"}, "2"),
        ({"messages": [{"role": "user", "content": "{n}"}], "system": "used"}, "used"),
    ],
)
def test_the_system_prompt_of_a_case_is_known_without_calling_functions(
    given: dict[str, Any], system: str | None
) -> None:
    assert Template(given).check(ROW) == system


def test_a_system_prompt_that_is_no_text_is_told_even_if_the_prompt_is_a_function() -> None:
    with pytest.raises(BadCases, match="system must be a text, got 5"):
        Template({"prompt": lambda case: case["text"]}).check({"text": "t", "system": 5})
