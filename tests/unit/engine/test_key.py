"""The cache key: the same for the same question, another for any other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.client.asking import effective, sorted_out
from pytest_lmstudio.engine.key import cache_key, canonical, question
from pytest_lmstudio.settings import Settings

BODY: dict[str, Any] = {
    "model": "a/b",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "text", "text": "ü"}]}],
    "temperature": 0.5,
    "max_tokens": 16,
    "stop": ["\n"],
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.sampled_from(["model", "messages", "stop", "ü"])
JSON = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part), max_leaves=8)
BODIES = st.dictionaries(NAMES, JSON)


def key(body: dict[str, Any], version: str = "v1", endpoint: str = "chat", sample: int = 0) -> str:
    return cache_key(question(version, endpoint, body, sample))


def mirrored(value: Any) -> Any:
    """Return the same data with its dicts the other way round, tuples for lists and floats for whole numbers."""
    if isinstance(value, dict):
        return {name: mirrored(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return tuple(mirrored(part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


def test_the_key_is_the_sha_256_of_sorted_compact_json() -> None:
    asked = question("v1", "chat", {"b": [1.0, 0.5], "a": "ü"}, 2)
    text = r'{"body":{"a":"\u00fc","b":[1,0.5]},"endpoint":"chat","pipeline_version":"v1","sample":2}'
    assert cache_key(asked) == hashlib.sha256(text.encode()).hexdigest()


@given(BODIES)
def test_the_key_knows_no_order_and_no_spelling_of_numbers(body: dict[str, Any]) -> None:
    assert key(mirrored(body)) == key(body)


@given(BODIES)
def test_the_key_survives_json(body: dict[str, Any]) -> None:
    asked = question("v1", "chat", body, 0)
    assert cache_key(json.loads(json.dumps(asked))) == cache_key(asked)


@given(BODIES, BODIES)
def test_other_questions_have_other_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(other), sort_keys=True)
    assert (key(one) == key(other)) is same


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "timeout": st.floats(0.1, 100) | st.just("auto"),
            "retries": st.integers(0, 9),
            "backoff": st.floats(0, 9),
            "cache": st.booleans(),
            "stream": st.booleans(),
        },
    )
)
def test_how_a_call_travels_is_no_part_of_its_key(transport: dict[str, Any]) -> None:
    plain = sorted_out(Settings(), {}, {"seed": 1}).params
    for settings, marker, keywords in (
        (Settings(), {}, transport),
        (Settings(), transport, {}),
        (effective(Settings(url="http://h", retries=9), transport), {}, {}),
    ):
        assert key(sorted_out(settings, marker, {"seed": 1, **keywords}).params) == key(plain)


@pytest.mark.parametrize(
    "other",
    [
        key(BODY, version="v2"),
        key(BODY, version=""),
        key(BODY, endpoint="embeddings"),
        key(BODY, sample=1),
        key({**BODY, "model": "a/c"}),
        key({**BODY, "temperature": 0.51}),
        key({**BODY, "temperature": True}),
        key({**BODY, "temperature": "0.5"}),
        key({**BODY, "max_tokens": None}),
        key({**BODY, "stop": []}),
        key({**BODY, "seed": 0}),
        key({**BODY, "messages": BODY["messages"][::-1]}),
        key({**BODY, "messages": [BODY["messages"][0]]}),
        key({name: BODY[name] for name in BODY if name != "stop"}),
    ],
)
def test_each_part_of_a_question_is_part_of_its_key(other: str) -> None:
    assert other != key(BODY)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [(1.0, 1), (-0.0, 0), (1e21, 10**21), (0.1, 0.1), (True, True), ((1, 2.0), [1, 2]), ({"a": (1.0,)}, {"a": [1]})],
)
def test_whole_numbers_and_lists_have_one_spelling(value: object, spelled: object) -> None:
    assert json.dumps(canonical(value)) == json.dumps(spelled)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, object()])
def test_what_json_cannot_carry_has_no_key(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        key({"model": "m", "seed": value})


def test_a_question_keeps_no_hold_of_the_body() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    asked = question("", "chat", body, 0)
    body["messages"][0]["content"] = "changed"
    assert asked["body"]["messages"] == [{"role": "user", "content": "Hi"}]
