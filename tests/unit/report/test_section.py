"""The section of a failed test, as it stands in the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.errors import ErrorKind, make_error
from pytest_lmstudio.records import Attempt, Call, CallOptions, Endpoint, Request
from pytest_lmstudio.reply import Reply
from pytest_lmstudio.report.section import render

OPTIONS = CallOptions(timeout_s=45.0, retries=3, backoff_s=0.8, cache="readwrite", stream=True)
LATE = Attempt(1, 1000.4, 0.0, ErrorKind.TIMEOUT, "waiting", "1 s passed")
GOOD = Attempt(2, 20.6, 800.2)


def request(body: dict[str, Any], endpoint: Endpoint = "chat", model: str = "m") -> Request:
    return Request(
        call_id="c",
        nodeid="t",
        endpoint=endpoint,
        model=model,
        body={"model": model, **body},
        asked={},
        key="k",
        prompt_chars=0,
        options=OPTIONS,
    )


def chat(*contents: object, role: str = "user") -> Request:
    return request({"messages": [{"role": role, "content": content} for content in contents]})


def reply(text: str = "Paris.", **more: Any) -> Reply:
    return Reply(**{"text": text, "model": "m", "finish_reason": "stop", "latency_ms": 20.6, **more})


def test_an_answered_call_shows_prompt_attempts_and_reply() -> None:
    body = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?\nOf France."}]
    }
    call = Call(request(body), (LATE, GOOD), reply(reasoning="Hm.", tool_calls=({"id": "1"},)))
    assert render([call]).splitlines() == [
        "call 1: m, answered in 21 ms, finish_reason stop",
        "  system: Be brief.",
        "  user: Capital?",
        "    Of France.",
        "  attempt 1: timeout (waiting) after 1 s: 1 s passed",
        "  attempt 2: waited 800 ms, then answered in 21 ms",
        "  reasoning: Hm.",
        "  tool calls: [{'id': '1'}]",
        "  reply: Paris.",
    ]


def test_a_failed_call_shows_its_error() -> None:
    call = Call(chat("Hi"), (LATE,), error=make_error(ErrorKind.TIMEOUT, "[timeout] the server\nis slow"))
    assert render([call]).splitlines() == [
        "call 1: m, failed: timeout",
        "  user: Hi",
        "  attempt 1: timeout (waiting) after 1 s: 1 s passed",
        "  error: [timeout] the server",
        "    is slow",
    ]


def test_cached_unfinished_and_nameless_calls_say_so() -> None:
    calls = [
        Call(chat("Hi"), (), reply(cached=True)),
        Call(chat("Hi"), ()),
        Call(request({"messages": []}, model=""), (), error=make_error(ErrorKind.NO_MODEL, "none")),
        Call(chat("Hi"), (), reply("", finish_reason=None)),
    ]
    assert [line for line in render(calls).splitlines() if line.startswith("call")] == [
        "call 1: m, cached",
        "call 2: m, failed: no answer",
        "call 3: (no model), failed: no_model",
        "call 4: m, answered in 21 ms",
    ]


def test_embeddings_show_their_first_texts_and_no_vectors() -> None:
    texts = ["a", "b", "c", "d"]
    call = Call(request({"input": texts}, "embeddings"), (), reply("", finish_reason=None))
    assert render([call]).splitlines() == ["call 1: m, answered in 21 ms", "  input: a", "  input: b", "  input: c"]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (None, "  user: "),
        ([{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "data:AAAA"}}, "this"],
         "  user: What is (image_url) this"),
        ({"odd": 1}, "  user: {'odd': 1}"),
        ("\x1b[31mred\u202e", r"  user: \x1b[31mred\u202e"),
        ("a\r\nb", "  user: a\n    b"),
        ("x" * 2001, f"  user: {'x' * 2000}\n    ... (1 more character)"),
    ],
)  # fmt: skip
def test_content_of_every_shape_is_shown_safely(content: object, shown: str) -> None:
    assert f"{shown}\n  reply: Paris." in render([Call(chat(content), (), reply())])


def test_what_the_server_says_cannot_drive_the_terminal() -> None:
    call = Call(chat("Hi", role="us\x1ber"), (), reply("\x1b]0;title\x07", finish_reason="st\x1bop", reasoning="\x9b"))
    text = render([call])
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    assert r"reply: \x1b]0;title\x07" in text


@pytest.mark.parametrize("place", ["tools", "content", "part", "text", "type"])
def test_what_is_nested_too_deeply_to_be_shown_is_named(place: str) -> None:
    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    asked = {"content": deep, "part": [deep], "text": [{"text": deep}], "type": [{"type": deep}]}.get(place, "Hi")
    call = Call(chat(asked), (), reply(tool_calls=({"f": deep},) if place == "tools" else ()))
    assert "list that cannot be shown" in render([call])


def test_no_line_is_a_command_to_a_ci_system() -> None:
    lines = render([Call(chat("a\n::error::b\n  ##[error]c"), (), reply("::debug::d\n::add-mask::e"))]).splitlines()
    assert lines[1:] == [
        "  user: a", r"    \x3a:error::b", r"      \x23#[error]c", r"  reply: \x3a:debug::d", r"    \x3a:add-mask::e",
    ]  # fmt: skip


def test_of_many_calls_the_last_are_shown() -> None:
    lines = render([Call(chat(f"prompt {n}"), (), reply()) for n in range(1, 24)]).splitlines()
    assert lines[:3] == [
        "(the last 20 of 23 calls)",
        "call 4: m, answered in 21 ms, finish_reason stop",
        "  user: prompt 4",
    ]
    assert lines[-2:] == ["  user: prompt 23", "  reply: Paris."]
    assert render([]) == ""


def test_of_a_prompt_that_is_too_long_the_beginning_is_enough() -> None:
    body = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x" * 5000}]}
    call = Call(request(body), (), error=make_error(ErrorKind.CONTEXT_OVERFLOW, "[context_overflow] too long"))
    assert render([call]).splitlines() == [
        "call 1: m, failed: context_overflow",
        "  system: Be brief.",
        f"  user: {'x' * 200}",
        "    ... (4,800 more characters)",
        "  error: [context_overflow] too long",
    ]
