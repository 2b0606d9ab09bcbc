"""Answers as lines: what is written reads back, and what anybody else wrote is refused with the reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.archive import (
    Entry,
    Header,
    Remembered,
    UnfitError,
    entry_line,
    header_line,
    model_line,
    read_line,
)
from pytest_lmstudio.engine.key import cache_key, question

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_795_350_000,
    "model": "qwen",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Pâris"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def entry(prompt: str = "hi", *, version: str = "v1", nodeid: str = "test_a.py::test_b", **body: Any) -> Entry:
    whole = {"model": "qwen", "messages": [{"role": "user", "content": prompt}], **body}
    asked = question(version, "chat", whole, 0)
    times = {"latency_ms": 12.5, "ttft_ms": None, "pieces": [5]}
    return Entry(cache_key(asked), {"asked": asked, "nodeid": nodeid, "answer": copy.deepcopy(ANSWER), **times})


def embedded() -> Entry:
    asked = question("v1", "embeddings", {"model": "nomic", "input": ["a"]}, 0)
    answer = {"object": "list", "model": "nomic", "data": [{"index": 0, "embedding": [0.5, 1.0]}]}
    value = {"asked": asked, "nodeid": "t", "answer": answer, "latency_ms": 1, "ttft_ms": None, "pieces": []}
    return Entry(cache_key(asked), value)


def changed(**fields: Any) -> str:
    """Return a good line with fields replaced; those that are `...` are taken out."""
    found = {**json.loads(entry_line(entry())), **fields}
    return json.dumps({name: value for name, value in found.items() if value is not ...})


def asking(**fields: Any) -> str:
    """Return a line with another question, whose key is right."""
    asked = {**entry().value["asked"], **fields}
    asked = {name: value for name, value in asked.items() if value is not ...}
    return changed(asked=asked, key=cache_key(asked))


def fault(line: str) -> str:
    with pytest.raises(UnfitError) as found:
        read_line(line)
    return str(found.value)


@pytest.mark.parametrize(
    "one", [entry(), entry("\ud800 \x00"), entry(temperature=0.5, tools=[{"a": [{}]}]), embedded()]
)
def test_an_entry_reads_back_without_the_moment_of_its_answer(one: Entry) -> None:
    timeless = {**one.value["answer"], "created": 0} if "created" in one.value["answer"] else one.value["answer"]
    assert read_line(entry_line(one)) == Entry(one.key, {**one.value, "answer": timeless})


def test_a_line_is_canonical_ascii_without_a_line_break() -> None:
    line = entry_line(entry("a\nb"))
    assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"))
    assert line.isascii()
    assert line.splitlines() == [line]


def test_the_same_answer_at_another_moment_is_the_same_line() -> None:
    later = entry()
    later.value["answer"]["created"] += 1000
    assert entry_line(later) == entry_line(entry())


def test_the_first_line_tells_the_format() -> None:
    assert header_line() == '{"format":"pytest-lmstudio cache","version":1}'
    assert read_line(header_line()) == Header(1)


def test_a_model_reads_back_without_user_and_password() -> None:
    line = model_line(Remembered("http://me:secret@127.0.0.1:1234", "chat", "qwen"))
    assert line == '{"endpoint":"chat","model":"qwen","url":"http://127.0.0.1:1234"}'
    assert read_line(line) == Remembered("http://127.0.0.1:1234", "chat", "qwen")


@pytest.mark.parametrize("secret", ["sk-lm-abcdefgh:0123456789", "hunter2hunter2"])
@pytest.mark.parametrize("where", ["question", "answer"])
def test_an_entry_that_holds_a_token_is_not_written(secret: str, where: str) -> None:
    one = entry(f"my token is {secret}" if where == "question" else "hi")
    if where == "answer":
        one.value["answer"]["choices"][0]["message"]["content"] = f"it is {secret}."
    with pytest.raises(UnfitError, match="holds what looks like an API token"):
        entry_line(one, ["hunter2hunter2"])


def test_an_entry_that_somebody_changed_is_not_written() -> None:
    one = entry()
    one.value["asked"]["body"]["messages"][0]["content"] = "another question"
    with pytest.raises(UnfitError, match="has a key that is not that of its question"):
        entry_line(one)


def test_an_answer_with_a_number_that_json_does_not_have_is_not_written() -> None:
    one = entry()
    one.value["answer"]["usage"]["cost"] = float("inf")
    with pytest.raises(UnfitError, match="holds what JSON does not have"):
        entry_line(one)


def test_a_question_with_a_number_above_all_others_has_no_key() -> None:
    asked = {**entry().value["asked"], "body": {**entry().value["asked"]["body"], "temperature": 7777}}
    assert fault(changed(asked=asked).replace("7777", "1e999")) == "has a key that is not that of its question"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "is no JSON"),
        ("<<<<<<< HEAD", "is no JSON"),
        ('{"a": NaN}', "is no JSON"),
        ('{"a": 1' + "0" * 5000 + "}", "is no JSON"),
        ("[1]", "is no object"),
        ("7", "is no object"),
        ("{}", "lacks 'answer'"),
        ("[" * 200_000, "is nested too deeply"),
        ('{"format":"pytest-lmstudio cache","version":2}', "tells of another format"),
        ('{"format":"other","version":1}', "tells of another format"),
        (changed(extra=1), "has an unknown field, 'extra'"),
        (changed(nodeid=...), "lacks 'nodeid'"),
        (changed(key="0" * 64), "has a key that is not that of its question"),
        (changed(key="../" * 20), "has a key that is none"),
        (changed(key=7), "has a key that is none"),
        (changed(asked=[]), "has a question that is none"),
        (asking(sample=-1), "has a question that is none"),
        (asking(sample=True), "has a question that is none"),
        (asking(sample=...), "has a question that is none"),
        (asking(more=1), "has a question that is none"),
        (asking(endpoint="completions"), "has a question that is none"),
        (asking(endpoint="embeddings"), "has a question that is none"),
        (asking(endpoint=["chat"]), "has a question that is none"),
        (asking(pipeline_version=None), "has a question that is none"),
        (asking(body={"messages": []}), "has a question that is none"),
        (asking(body={"model": "m", "messages": "hi"}), "has a question that is none"),
        (changed(nodeid=None), "has a test or a time that is none"),
        (changed(nodeid="x" * 10_001), "has a test or a time that is none"),
        (changed(latency_ms="1"), "has a test or a time that is none"),
        (changed(latency_ms=-1), "has a test or a time that is none"),
        (changed(ttft_ms=True), "has a test or a time that is none"),
        (changed(pieces=[1.5]), "has pieces that are no lengths"),
        (changed(pieces={}), "has pieces that are no lengths"),
        (changed(answer=None), "has no answer to its question"),
        (changed(answer={}), "has no answer to its question"),
        (changed(answer={**ANSWER, "choices": []}), "has no answer to its question"),
        (changed(answer={**ANSWER, "choices": [{"message": 7}]}), "has no answer to its question"),
        (changed(answer={**ANSWER, "model": "another"}), "has no answer to its question"),
        (changed(answer={**ANSWER, "x": json.loads("[" * 150 + "]" * 150)}), "is nested too deeply"),
    ],
)  # fmt: skip
def test_a_line_that_is_none_of_ours_is_refused_with_the_reason(line: str, told: str) -> None:
    assert fault(line).startswith(told)


@pytest.mark.parametrize(
    ("url", "endpoint", "model"),
    [
        ("ftp://x", "chat", "m"), ("http://u:p@x", "chat", "m"), ("http://x", "other", "m"), ("http://x", "chat", ""),
        ("http://x", "chat", "a\nb"), ("http://x", ["chat"], "m"), (None, "chat", "m"), ("http://x\x1b", "chat", "m"),
    ],
)  # fmt: skip
def test_a_remembered_model_that_is_none_is_refused(url: Any, endpoint: Any, model: Any) -> None:
    told = fault(json.dumps({"url": url, "endpoint": endpoint, "model": model}))
    assert told.startswith(("is no model of a URL", "has a URL that is none: "))


def test_what_is_quoted_of_a_line_is_short_and_printable() -> None:
    told = fault(changed(**{"\x1b[31m" * 500: 1}))
    assert told.isprintable()
    assert len(told) < 100


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(
    st.dictionaries(
        st.sampled_from(["key", "asked", "answer", "nodeid", "pieces", "latency_ms", "url", "format"]), _JSON
    )
)
def test_anything_reads_as_a_line_or_is_refused(fields: dict[str, Any]) -> None:
    for line in (
        json.dumps(fields),
        changed(**{name: value for name, value in fields.items() if name in {"answer", "nodeid"}}),
    ):
        try:
            found = read_line(line)
        except UnfitError:
            continue
        if isinstance(found, Entry):
            assert read_line(entry_line(found)) is not None


@given(st.text(max_size=40), st.text(max_size=10), st.dictionaries(st.text(max_size=5), _JSON, max_size=3))
def test_any_question_that_a_run_can_ask_makes_the_round_trip(prompt: str, version: str, extra: dict[str, Any]) -> None:
    one = entry(prompt, version=version, **{f"x{name}": value for name, value in extra.items()})
    found = read_line(entry_line(one))
    assert isinstance(found, Entry)
    assert found.key == one.key
    assert found.value["asked"] == one.value["asked"]
