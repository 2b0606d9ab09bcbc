"""Bodies on the wire: what is sent, and which answers are whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_lmstudio.engine import wire

NO_MESSAGE = "the answer holds no message"
EMPTY = "the answer is empty: neither text nor reasoning nor tool calls"


def completion(message: object, finish_reason: object = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    ("stream", "sent"),
    [
        (True, b'{"model":"m","top_p":0.5,"stream":true,"stream_options":{"include_usage":true}}'),
        (False, b'{"model":"m","top_p":0.5,"stream":false}'),
        (None, b'{"model":"m","top_p":0.5}'),
    ],
)
def test_a_request_says_explicitly_whether_it_streams(stream: bool | None, sent: bytes) -> None:
    body = {"model": "m", "top_p": 0.5}
    assert wire.encode(body, stream=stream) == sent
    assert body == {"model": "m", "top_p": 0.5}


def test_a_request_is_ascii_whatever_the_prompt_holds() -> None:
    body = {"messages": [{"role": "user", "content": "漢字 \ud800 \0"}]}
    assert json.loads(wire.encode(body, stream=None)) == body
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        wire.encode({"temperature": float("nan")}, stream=None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "text"}, "text"),
        ({"error": {"message": "text", "type": "t", "code": None}}, "text"),
        ({"error": {"message": "text"}, "message": "other"}, "text"),
        ({"type": "error", "error": {"type": "api_error", "message": "text"}}, "text"),
        ({"message": "text"}, "text"),
        ({"error": None, "message": "text"}, "text"),
        ({"error": {"message": None, "type": "t"}}, '{"message": null, "type": "t"}'),
        ({"error": {"message": {"a": 1}}}, '{"a": 1}'),
        ({"detail": "Not Found"}, '{"detail": "Not Found"}'),
        ({"error": 7}, "7"),
        ({}, "{}"),
        ([1], "[1]"),
        ("text", "text"),
        (None, "null"),
        ({"error": {"message": "x" * 5000}}, "x" * 5000),
        ({"error": ["x" * 5000]}, '["' + "x" * 998),
    ],
)
def test_every_shape_of_an_error_has_a_text(body: object, message: str) -> None:
    assert wire.error_message(body) == message


def test_an_error_without_end_has_a_text_too() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert wire.error_message({"error": nested}) == "an error that is nested too deeply to be shown"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("text", "text"),
        (None, ""),
        (7, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": None}, "b", {"text": "c"}], "ac"),
        ([{"text": [{"text": "nested"}]}], ""),
    ],
)
def test_content_is_a_text_or_a_list_of_parts(content: object, text: str) -> None:
    assert wire.text_of(content) == text


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "now"}, "now"),
        ({"reasoning": "0.3.23"}, "0.3.23"),
        ({"reasoning_content": "", "reasoning": "b"}, "b"),
        ({"reasoning_content": None, "reasoning": None}, ""),
        ({}, ""),
    ],
)
def test_reasoning_has_had_two_names(message: dict[str, Any], reasoning: str) -> None:
    assert wire.reasoning_of(message) == reasoning


@pytest.mark.parametrize(
    "body",
    [
        completion({"role": "assistant", "content": "Paris."}),
        completion({"content": [{"type": "text", "text": "Paris."}]}),
        completion({"content": "", "reasoning_content": "Hm."}),
        completion({"content": None, "reasoning": "Hm."}),
        completion({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"),
        completion({"content": ""}, "length"),
        completion({"content": "Paris."}, None),
        {"error": None, **completion({"content": "Paris."})},
    ],
)
def test_an_answer_holds_text_reasoning_or_tool_calls_or_was_cut(body: dict[str, Any]) -> None:
    assert wire.check_completion(body) is body


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (None, "the answer is no JSON object"),
        ([completion({"content": "Paris."})], "the answer is no JSON object"),
        ("Paris.", "the answer is no JSON object"),
        ({}, NO_MESSAGE),
        ({"choices": None}, NO_MESSAGE),
        ({"choices": []}, NO_MESSAGE),
        ({"choices": ["a"]}, NO_MESSAGE),
        (completion("a"), NO_MESSAGE),
        ({"choices": [{"text": "Paris."}]}, NO_MESSAGE),
        *((completion(m), EMPTY) for m in ({}, {"content": None}, {"content": "", "tool_calls": []}, {"content": 7})),
        (completion({"content": "", "reasoning_content": ""}, "tool_calls"), EMPTY),
        (completion({"content": "", "tool_calls": "none"}, None), EMPTY),
    ],
)
def test_what_is_no_answer_is_refused(body: object, problem: str) -> None:
    with pytest.raises(wire.BadAnswer) as caught:
        wire.check_completion(body)
    assert str(caught.value) == problem


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop"), ("", None), (None, None), (7, None)])
def test_a_finish_reason_is_a_word(reason: object, told: str | None) -> None:
    assert wire.finish_reason_of(completion({}, reason)) == told


def test_embeddings_are_a_vector_for_each_text() -> None:
    body = {"data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": [-1.0, 0]}]}
    assert wire.check_embeddings(body, 2) is body


@pytest.mark.parametrize(
    "body", [None, {}, {"data": {}}, {"data": []}, {"data": [{"embedding": [1.0]}, {"embedding": [1.0]}]}]
)
def test_other_than_one_vector_a_text_is_no_answer(body: object) -> None:
    with pytest.raises(wire.BadAnswer, match=r"^the answer does not hold 1 embeddings$"):
        wire.check_embeddings(body, 1)


@pytest.mark.parametrize("row", [None, {}, {"embedding": []}, {"embedding": "AAAA"}, {"embedding": [1.0, None]}])
def test_a_vector_is_a_list_of_numbers(row: object) -> None:
    with pytest.raises(wire.BadAnswer, match=r"^the answer holds an embedding that is no list of numbers$"):
        wire.check_embeddings({"data": [row]}, 1)


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({"completion_tokens": 8}, 8),
        ({"completion_tokens": 0}, 0),
        ({}, None),
        *(({"completion_tokens": value}, None) for value in (None, "8", 8.0, True, -1, 10**400)),
    ],
)
def test_a_token_count_is_a_whole_number_or_unknown(usage: dict[str, Any], count: int | None) -> None:
    assert wire.token_count(usage, "completion_tokens") == count


@pytest.mark.parametrize(
    ("body", "usage"), [({"usage": {"total_tokens": 1}}, {"total_tokens": 1}), ({"usage": None}, {}), ({}, {})]
)
def test_usage_is_empty_where_the_server_sent_none(body: dict[str, Any], usage: dict[str, Any]) -> None:
    assert wire.usage_of(body) == usage
