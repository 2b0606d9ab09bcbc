"""Answers against their schema: what is accepted, and what is said of one that breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.client.schema import check_schema, parse, response_format
from pytest_lmstudio.errors import LMSchemaError
from pytest_lmstudio.reply import Reply

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    "required": ["name"],
}


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, model="m", finish_reason=finish_reason)


@pytest.mark.parametrize(
    ("text", "schema", "found"),
    [
        ('{"name": "Ada", "tags": ["a"]}', PERSON, {"name": "Ada", "tags": ["a"]}),
        ('\n\n {"name": "Ada"}\n', PERSON, {"name": "Ada"}),
        ('```json\n{"name": "Ada"}\n```', PERSON, {"name": "Ada"}),
        ('```\n{"name": "Ada"}\n```\n', PERSON, {"name": "Ada"}),
        ("null", {}, None),
        ("7", {"type": "integer"}, 7),
        ('[{"name": "Ada"}]', {"items": {"$ref": "#/$defs/p"}, "$defs": {"p": PERSON}}, [{"name": "Ada"}]),
        ("[1]", {"$schema": "http://json-schema.org/draft-04/schema#", "items": {"type": "integer"}}, [1]),
    ],
)
def test_an_answer_that_follows_its_schema_is_returned(text: str, schema: dict[str, Any], found: object) -> None:
    check_schema(schema)
    assert parse(reply(text), schema) == found


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [
        ("Sure!", "stop", "the answer is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("", "stop", "the answer is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"name": NaN}', "stop", "the answer is no JSON: NaN is no JSON"),
        ("-Infinity", "stop", "the answer is no JSON: -Infinity is no JSON"),
        ("{} {}", "stop", "the answer is no JSON: Extra data: line 1 column 4 (char 3)"),
        (
            '{"name": "A',
            "length",
            (
                "the answer is no JSON: Unterminated string starting at: line 1 column 10 (char 9)"
                "; the answer was cut by max_tokens (finish_reason length): raise it"
            ),
        ),
        ("{}", "stop", "the answer breaks its schema at $: 'name' is a required property (rule required)"),
        (
            '{"name": 7}',
            "stop",
            "the answer breaks its schema at $.name: 7 is not of type 'string' (rule properties/name/type)",
        ),
        (
            '{"name": "", "tags": ["a", "\\u001b[31m"]}',
            "stop",
            (
                r"the answer breaks its schema at $.tags[1]: '\x1b[31m' is not one of ['a', 'b'] "
                "(rule properties/tags/items/enum)"
            ),
        ),
        (
            "[]",
            "length",
            (
                "the answer breaks its schema at $: [] is not of type 'object' (rule type)"
                "; the answer was cut by max_tokens (finish_reason length): raise it"
            ),
        ),
    ],
)
def test_an_answer_that_breaks_its_schema_tells_place_and_rule(text: str, finish_reason: str, problem: str) -> None:
    with pytest.raises(AssertionError) as caught:
        parse(reply(text, finish_reason), PERSON)
    assert type(caught.value) is LMSchemaError
    assert (str(caught.value), caught.value.reply) == (problem, reply(text, finish_reason))


@pytest.mark.parametrize(
    ("text", "schema", "problem"),
    [
        ("[" * 100_000, {}, "the answer is nested too deeply to be read"),
        ("9" * 10_000, {}, "the answer is no JSON: it holds a number with too many digits"),
        ("-" + "9" * 10_000, {}, "the answer is no JSON: it holds a number with too many digits"),
        ("[" * 400 + "]" * 400, {"items": {"$ref": "#"}}, "the answer cannot be checked against its schema: "),
        ("{}", {"$ref": "#"}, "the answer cannot be checked against its schema: "),
        ("1" + "0" * 400, {"multipleOf": 0.01}, "the answer cannot be checked against its schema: "),
        (f'"{"x" * 5000}"', {"maxLength": 1}, "the answer breaks its schema at $: 'xxx"),
    ],
)
def test_an_answer_of_any_size_breaks_the_eval_and_not_the_run(text: str, schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(LMSchemaError) as caught:
        parse(reply(text), schema)
    assert str(caught.value).startswith(problem)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("ref", "shown"), [("https://example.com/s.json", None), ("#/$defs/no", "/$defs/no"), ("#no", None)]
)
def test_a_reference_is_never_fetched(ref: str, shown: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        parse(reply("{}"), {"$ref": ref})
    assert str(caught.value) == f"the schema refers to {shown or ref}, which it does not hold"


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (None, "a schema is a dict, got NoneType"),
        ([], "a schema is a dict, got list"),
        ({"type": 7}, "this is no JSON schema: 7 is not valid under any of the given schemas (at $.type)"),
        (
            {"properties": {"a": {"required": "a"}}},
            "this is no JSON schema: 'a' is not of type 'array' (at $.properties.a.required)",
        ),
        ({"pattern": "["}, "this is no JSON schema: '[' is not a 'regex' (at $.pattern)"),
        ({"$schema": 7}, "this is no JSON schema: its $schema is no text"),
        ({"$schema": ["http://json-schema.org/draft-07/schema#"]}, "this is no JSON schema: its $schema is no text"),
    ],
)
def test_what_is_no_schema_is_refused_before_it_is_sent(schema: object, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_schema(schema)
    assert str(caught.value) == problem


def test_the_request_asks_for_the_schema_strictly() -> None:
    assert response_format(PERSON) == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": PERSON},
    }
