"""JSON from outside is read, or refused with the reason, whatever Python's parser would make of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.wire import BadAnswer, is_error, parsed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("{} {}", "is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ("[" * 201 + "]" * 201, "is nested too deeply"),
        ('{"a":[' * 100 + "[]" + "]}" * 100, "is nested too deeply"),
        ("9" * 4301, "holds a number with too many digits"),
        ("-" + "9" * 4301, "holds a number with too many digits"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_nobody_could_use_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        parsed(text)
    assert str(caught.value) == f"the answer {problem}"


@pytest.mark.parametrize("text", ["null", "[" * 200 + "]" * 200, "[[]," * 199 + "[]" + "]" * 199, "9" * 4300, '"[[["'])
def test_what_anybody_can_use_is_read(text: str) -> None:
    assert parsed(text) == json.loads(text)


@given(
    st.recursive(
        st.none() | st.text("[{") | st.integers(), lambda kids: st.lists(kids) | st.dictionaries(st.text(), kids)
    )
)
def test_json_means_what_it_says(value: object) -> None:
    assert parsed(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": "no"}, True),
        ({"error": {"message": "no"}}, True),
        ({"object": "error", "message": "no", "code": 404}, True),
        ({"error": None, "choices": []}, False),
        ({"object": "chat.completion"}, False),
        (["error"], False),
        (None, False),
    ],
)
def test_an_error_is_one_in_each_of_its_shapes(body: object, error: bool) -> None:
    assert is_error(body) is error
