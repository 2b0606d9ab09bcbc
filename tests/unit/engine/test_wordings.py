"""How an error that an engine wrapped into the text of another is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.wordings import unwrapped


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("plain", []),
        ("returned 400: {not json}", []),
        ('a: {"error": {"message": "b", "type": "t"}}', ["t: b"]),
        ('a: {"error": {"message": "b"}}', ["b"]),
        ('{"error": "b: {\\"error\\": \\"c\\"}"} z', ['b: {"error": "c"}', "c"]),
        ("a: " + "{" * 3, []),
        ("a: " + '{"error":' * 100_000, []),
        ('{"error": ' * 8 + '"deep"' + "}" * 8, ['{"error": ' * 7 + '"deep"' + "}" * 7]),
    ],
    ids=str,
)  # fmt: skip
def test_json_wrapped_into_a_text_is_read_too(message: str, parts: list[str]) -> None:
    assert unwrapped(message)[1:2] == parts[:1]
    assert unwrapped(message)[0] == message


@given(st.text('{}[]":,error messgtyp\\1') | st.integers(1, 3000).map(lambda depth: '{"error":' * depth))
def test_no_message_breaks_the_unwrapping(message: str) -> None:
    assert unwrapped(message)[0] == message
    assert len(unwrapped(message)) <= 5
