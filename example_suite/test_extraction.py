"""Facts out of a sentence: the schema gives the shape, the test looks at the values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio import LM

# A free string needs a maxLength: without one a small model may go on writing inside it until max_tokens cuts the JSON.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "city": {"type": "string", "maxLength": 20},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


@pytest.mark.llm(timeout=90)
@pytest.mark.parametrize(
    ("text", "person"),
    [
        ("Anna is 34 years old and lives in Berlin.", {"name": "Anna", "age": 34, "city": "Berlin"}),
        ("Peter is 52 years old and lives in Madrid.", {"name": "Peter", "age": 52, "city": "Madrid"}),
        ("John, who is 41, lives in London.", {"name": "John", "age": 41, "city": "London"}),
    ],
)
def test_extracts_a_person(lm: LM, text: str, person: dict[str, str | int]) -> None:
    system = "Extract the name, the age and the city of the person as JSON."
    assert lm.json(text, PERSON, system=system, max_tokens=96, temperature=0) == person
