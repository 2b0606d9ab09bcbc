"""What reaches the server for what a test asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.standin import Model, reply, tool_call

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

USAGE = {"stream_options": {"include_usage": True}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "test-model", "messages": [USER], "stream": True, **USAGE, **changes}


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("lm('hi')", body()),
    (
        "lm('hi', timeout=9, retries=0, backoff=0.5, cache=False)",
        body(),
    ),
    ("lm('hi', model='second')", body(model="second")),
    (
        "lm('hi', max_tokens=5, temperature=0, seed=7, stop=['x'], top_p=0.5)",
        body(max_tokens=5, temperature=0, seed=7, stop=["x"], top_p=0.5),
    ),
    ("lm('hi', extra_body={'min_keep': 3, 'top_k': 1})", body(min_keep=3, top_k=1)),
    ("lm('hi', temperature=None)", body()),
    ("lm('hi', system='Be short.')", body(messages=[{"role": "system", "content": "Be short."}, USER])),
    (f"lm.chat([{{'role': 'user', 'content': {IMAGE!r}}}])", body(messages=[{"role": "user", "content": IMAGE}])),
    (f"lm.chat([{USER!r}], tools=[{TOOL!r}], tool_choice='auto')", body(tools=[TOOL], tool_choice="auto")),
    (f"lm.json('hi', {SCHEMA!r})", body(response_format=FORMAT)),
    (f"lm.chat([{USER!r}], schema={SCHEMA!r})", body(response_format=FORMAT)),
    ("list(lm.stream('hi', stream=False))", body()),
    ("lm.embed('one')", {"model": "embedder", "input": ["one"]}),
    ("lm.embed(['one', 'two'], model='other')", {"model": "other", "input": ["one", "two"]}),
]
WHOLE = {"model": "test-model", "messages": [USER], "stream": False}


@pytest.fixture
def models(suite: Suite) -> None:
    suite.server.default = reply('{"n": 1}')
    loaded = [Model("embedder", type="embedding")]
    others = [Model("second", loaded=False), Model("other", type="embedding", loaded=False)]
    suite.server.models.extend(loaded + others)


def test_each_call_sends_what_it_was_asked_to(suite: Suite, models: None) -> None:
    suite.write("\n".join(f"def test_{n:02}(lm): {call}" for n, (call, _) in enumerate(CALLS)))
    ran = suite.run("-n0", "--lmstudio-cache=off")
    assert ran.summary == f"{len(CALLS)} passed"
    sent = [request.body for request in suite.server.requests if request.body.get("max_tokens") != 1]  # no warm-ups
    assert sent == [expected for _, expected in CALLS]


def test_stream_false_is_said_too(suite: Suite, models: None) -> None:
    suite.write("""
        import pytest
        def test_call(lm): lm("hi", stream=False)
        @pytest.mark.llm(stream=False)
        def test_marker(lm): lm("hi")
        @pytest.mark.llm(stream=False)
        def test_call_beats_marker(lm): lm("hi", stream=True)
    """)
    suite.run("-n0", "--lmstudio-cache=off")
    assert [request.body for request in suite.server.requests] == [WHOLE, WHOLE, body()]


def test_marker_keywords_reach_the_body_only_where_they_belong(suite: Suite, models: None) -> None:
    suite.write("""
        import pytest
        @pytest.mark.llm(timeout=9, retries=1, backoff=0.5, cache=False, max_tokens=5, temperature=0.5, seed=1)
        @pytest.mark.llm(system="S")
        class TestAll:
            def test_marker(self, lm): lm("hi")
            @pytest.mark.llm(max_tokens=6)
            def test_closest(self, lm): lm("hi")
            def test_call(self, lm): lm("hi", max_tokens=7, system="T")
    """)
    assert suite.run("-n0").summary == "3 passed"

    def expected(tokens: int, system: str) -> dict[str, Any]:
        messages = [{"role": "system", "content": system}, USER]
        return body(messages=messages, max_tokens=tokens, temperature=0.5, seed=1)

    assert [request.body for request in suite.server.requests] == [expected(5, "S"), expected(6, "S"), expected(7, "T")]


WRONG = [
    ("lm('hi', temprature=0)", "TypeError", "unknown keyword 'temprature'; did you mean 'temperature'?"),
    ("lm('hi', retry=0)", "TypeError", "unknown keyword 'retry'; did you mean 'retries'?"),
    ("lm.map(['hi'], max_token=0)", "TypeError", "unknown keyword 'max_token'; did you mean 'max_tokens'?"),
    ("lm.embed('hi', tiemout=0)", "TypeError", "unknown keyword 'tiemout'; did you mean 'timeout'?"),
    ("lm('hi', zzzz=0)", "TypeError", "unknown keyword 'zzzz' (a parameter that only your server knows goes into"),
    ("lm('hi', timeout='soon')", "ValueError", "timeout='soon'"),
    ("lm('hi', retries=-1)", "ValueError", "retries=-1"),
    ("lm('hi', extra_body={'stream': True})", "TypeError", "extra_body: stream cannot be set there"),
    ("lm(['hi'])", "TypeError", "a prompt is a str, a conversation a list of message dicts"),
    ("lm.chat([{'content': 'x'}])", "TypeError", "each message needs a 'role'"),
    ("lm.map('hi')", "TypeError", "map takes a list of prompts"),
    ("lm.embed([])", "TypeError", "embed takes a str or a list of str"),
    ("lm.json('hi', None)", "ValueError", "a schema is a dict, got NoneType"),
    ("lm.json('hi', {'type': 'nonsense'})", "ValueError", "this is no JSON schema"),
    ("lm('hi', stop=object())", "TypeError", "the request holds something that JSON cannot carry"),
    ("lm('hi', logit_bias=float('nan'))", "TypeError", "the request holds something that JSON cannot carry"),
]


def test_a_wrong_call_says_so_and_sends_nothing(suite: Suite) -> None:
    lines = ["import re, pytest"]
    for n, (call, error, text) in enumerate(WRONG):
        lines += [f"def test_{n:02}(lm):", f"    with pytest.raises({error}, match=re.escape({text!r})): {call}"]
    suite.write("\n".join(lines))
    ran = suite.run("-n0")
    assert ran.summary == f"{len(WRONG)} passed", ran.out
    assert suite.server.requests == []


def test_map_says_that_a_prompt_is_no_json(suite: Suite) -> None:
    suite.write("""
        import pytest
        def test_it(lm):
            with pytest.raises(TypeError, match="the request holds something that JSON cannot carry"):
                lm.map([[{"role": "user", "content": object()}]])
    """)
    assert suite.run("-n0").summary == "1 passed"


def test_tool_calls_come_back(suite: Suite) -> None:
    suite.server.default = reply("", tool_calls=[tool_call("weather", '{"city": "Oslo"}', "1")])
    suite.write("""
        import pytest
        @pytest.mark.parametrize("stream", [True, False])
        def test_it(lm, stream):
            reply = lm("hi", stream=stream)
            (call,) = reply.tool_calls
            assert (call["id"], call["function"]) == ("1", {"name": "weather", "arguments": '{"city": "Oslo"}'})
            assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    """)
    assert suite.run("-n0", "--lmstudio-cache=off").summary == "2 passed"
