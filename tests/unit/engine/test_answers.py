"""Answers: from the model that was asked, into the cache, and back as a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine import answers
from pytest_lmstudio.engine.attempt import Answer
from pytest_lmstudio.engine.failure import Refused
from pytest_lmstudio.engine.wire import BadAnswer
from pytest_lmstudio.records import CallOptions, Endpoint, Request
from pytest_lmstudio.reply import Reply

OPTIONS = CallOptions(timeout_s=45.0, retries=3, backoff_s=0.8, cache="readwrite", stream=True)
TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USAGE = {"prompt_tokens": 22, "completion_tokens": 9, "total_tokens": 31}
SCALARS = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def request(endpoint: Endpoint = "chat", model: str = "a/b", **body: Any) -> Request:
    content = {"input": ["a"]} if endpoint == "embeddings" else {"messages": [{"role": "user", "content": "Hi"}]}
    whole = {"model": model, **content, **body}
    return Request("c", "test_a", endpoint, model, whole, {"body": whole}, "k", 2, OPTIONS)


def completion(content: Any = "Paris.", finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"model": "a/b", "choices": [{"message": message, "finish_reason": finish_reason}], **more}


def stored(body: Any, **more: Any) -> dict[str, Any]:
    return {"answer": body, "latency_ms": 1000.0, "ttft_ms": 200.0, "pieces": [], **more}


def replied(body: dict[str, Any], **more: Any) -> Reply:
    reply = answers.reply_of(request(), stored(body, **more))
    assert reply is not None
    return reply


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("a/b", "a/b", True),
        ("a/b", "A/B", True),
        ("a/b", "a/b:2", True),
        ("a/b:2", "a/b:3", True),
        ("a/b", "a/b@q4_k_m", True),
        ("a/b@q4", "a/b@q8", True),
        ("a/b@q4_k_m:2", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "b", False),
        ("qwen:7b", "qwen:14b", False),
        ("b-1", "b-12", False),
        ("a:2/b", "a:3/b", False),
    ],
)
def test_copies_and_variants_of_a_model_are_the_model(asked: str, answered: str, same: bool) -> None:
    assert answers.same_model(asked, answered) is same
    assert answers.same_model(answered, asked) is same


@pytest.mark.parametrize("model", ["a/b", "a/b:2", "", None, 7])
def test_an_answer_of_the_model_asked_is_taken(model: object) -> None:
    body = {**completion(), "model": model}
    assert answers.check_answer(request(), body) is body
    assert answers.check_answer(request(), {"choices": completion()["choices"]})["choices"]


def test_an_answer_of_another_model_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        answers.check_answer(request(), {**completion(), "model": "c/d\x1b"})
    failure = caught.value.failure
    assert (failure.kind, failure.category, failure.retried, failure.status, failure.message) == (
        "wrong_model", "other", False, 200, r"asked for a/b, answered by c/d\x1b",
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [completion(""), {"model": "a/b"}, None, {"data": [{"embedding": [1.0]}, {"embedding": [1.0]}]}],
)
def test_what_is_no_answer_is_bad(body: object) -> None:
    for endpoint in ("chat", "embeddings"):
        with pytest.raises(BadAnswer):
            answers.check_answer(request(endpoint), body)


def test_an_answer_goes_through_the_cache_unchanged() -> None:
    body = completion(
        usage=USAGE,
        choices=[{
            "message": {"role": "assistant", "content": "Paris.", "reasoning_content": "Hm.", "tool_calls": [TOOL]},
            "finish_reason": "tool_calls",
        }],
    )  # fmt: skip
    answer = Answer(body, latency_ms=1000.04, ttft_ms=200.06, pieces=(3, 3), stale_reconnects=0)
    entry = answers.entry_of(request(), answer)
    assert json.loads(json.dumps(entry)) == {
        "asked": request().asked, "nodeid": "test_a", "answer": body, "latency_ms": 1000.0, "ttft_ms": 200.1,
        "pieces": [3, 3],
    }  # fmt: skip
    expected = Reply(
        text="Paris.", model="a/b", finish_reason="tool_calls", usage=USAGE, latency_ms=1000.0, ttft_ms=200.1,
        tokens_per_second=8 / (1000.0 - 200.1) * 1000, attempts=0, cached=True, reasoning="Hm.", tool_calls=(TOOL,),
        raw=body,
    )  # fmt: skip
    assert answers.reply_of(request(), entry, cached=True) == expected


def test_embeddings_have_vectors_and_no_text() -> None:
    body = {"model": "a/b", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 0}}
    reply = answers.reply_of(request("embeddings"), stored(body, ttft_ms=None))
    assert reply == Reply("", "a/b", None, {"prompt_tokens": 0}, latency_ms=1000.0, attempts=0, raw=body)


def test_a_reply_without_a_name_is_the_model_asked() -> None:
    assert replied({"choices": completion()["choices"]}).model == "a/b"


@pytest.mark.parametrize(
    "entry", [{}, stored(None), stored(completion("")), stored({**completion(), "model": "c"}), [], "x"]
)
def test_an_entry_that_holds_no_answer_is_a_miss(entry: Any) -> None:
    assert answers.reply_of(request(), entry) is None


@pytest.mark.parametrize("time", [None, "1", True, -1, 10**400, float("inf"), float("nan")])
def test_times_that_are_none_are_not_believed(time: Any) -> None:
    reply = replied(completion(usage=USAGE), latency_ms=time, ttft_ms=time)
    assert (reply.latency_ms, reply.ttft_ms, reply.tokens_per_second) == (0.0, None, None)


@pytest.mark.parametrize(
    ("more", "speed"),
    [
        ({"usage": USAGE}, 10.0),
        ({"usage": {"completion_tokens": 1}}, None),
        ({"usage": {"completion_tokens": 10**400}}, None),
        ({}, None),
        ({"timings": {"predicted_per_second": 93.5}, "usage": USAGE}, 93.5),
        ({"timings": {"predicted_per_second": 1e7}, "usage": USAGE}, 10.0),
        ({"timings": {"predicted_per_second": 0}, "usage": USAGE}, 10.0),
        ({"timings": "fast", "usage": USAGE}, 10.0),
        ({"stats": {"tokens_per_second": 42}}, 42.0),
        ({"stats": {"tokens_per_second": "42"}}, None),
        ({"stats": {}}, None),
    ],
)
def test_speed_is_the_servers_or_the_tokens_after_the_first(more: dict[str, Any], speed: float | None) -> None:
    assert replied(completion(**more)).tokens_per_second == speed


@pytest.mark.parametrize("ttft_ms", [None, 999.5, 1000.0, 1200.0])
def test_speed_is_not_known_without_a_time_to_measure_it_by(ttft_ms: float | None) -> None:
    assert replied(completion(usage=USAGE), ttft_ms=ttft_ms).tokens_per_second is None


@given(JSON)
def test_no_entry_of_a_foreign_cache_breaks_the_run(entry: Any) -> None:
    foreign = [
        entry,
        stored(entry),
        stored(completion(entry)),
        stored(completion(usage=entry)),
        stored(completion(model=entry)),
    ]
    foreign += [stored(completion(), latency_ms=entry, ttft_ms=entry, pieces=entry), stored({"choices": entry})]
    foreign += [stored(completion(timings=entry, stats=entry)), stored({"choices": [{"message": entry}]})]
    for one in foreign:
        for endpoint in ("chat", "embeddings"):
            reply = answers.reply_of(request(endpoint), one)
            assert reply is None or "".join(answers.pieces_of(one, reply.text)) == reply.text


@given(st.fixed_dictionaries({}, optional={"content": JSON, "reasoning": JSON, "tool_calls": JSON}), JSON, JSON)
def test_an_answer_that_was_checked_can_be_read(message: dict[str, Any], reason: Any, more: Any) -> None:
    body = {"choices": [{"message": message, "finish_reason": reason}], "usage": more, "timings": more, "model": more}
    try:
        answers.check_answer(request(), body)
    except (BadAnswer, Refused):
        return
    answer = Answer(body, latency_ms=2.0, ttft_ms=1.0, pieces=(), stale_reconnects=0)
    assert isinstance(answers.reply_of(request(), answers.entry_of(request(), answer)), Reply)


@pytest.mark.parametrize(
    ("text", "finish_reason", "tools", "cut"),
    [
        ("", "length", (), True),
        ("Par", "length", (), False),
        ("", "stop", (), False),
        ("", "length", (TOOL,), False),
    ],
)
def test_thinking_that_took_all_tokens_is_cut(
    text: str, finish_reason: str, tools: tuple[dict[str, Any], ...], cut: bool
) -> None:
    reply = Reply(text=text, model="m", finish_reason=finish_reason, reasoning="Hm.", tool_calls=tools)
    assert answers.is_cut_thinking(reply) is cut


@pytest.mark.parametrize(
    ("lengths", "pieces"),
    [
        ([3, 1, 2], ["Par", "i", "s."]),
        ([6], ["Paris."]),
        *((lengths, ["Paris."]) for lengths in ([], None, [3], [3, 4], [7, -1], [6, 0], ["6"], [3.0, 3.0], "6", 6)),
    ],
)
def test_a_text_comes_back_in_its_pieces(lengths: object, pieces: list[str]) -> None:
    assert answers.pieces_of({"pieces": lengths}, "Paris.") == pieces
    assert answers.pieces_of({"pieces": lengths}, "") == []


def test_the_texts_of_a_request_are_known() -> None:
    long, longer = "twelve chars", "thirteen char"
    body = request(
        messages=[
            {"role": "system", "content": long},
            {"role": "user", "content": [{"type": "text", "text": longer}, {"type": "image_url"}]},
            {"role": "user", "content": "eleven char"},
            {"role": "assistant", "content": None},
        ]
    ).body
    assert answers.prompt_texts(body) == [longer, long]
    assert answers.prompt_chars(body) == 12 + 13 + 11
    assert answers.prompt_texts(request("embeddings", input=[long, "short"]).body) == [long]
    assert answers.prompt_chars(request("embeddings", input=[long, "short"]).body) == 17
