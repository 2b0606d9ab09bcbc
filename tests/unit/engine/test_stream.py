"""Event streams: whatever they are cut into, they add up to the body that would have come whole."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.wire import BadAnswer, EventStream, StreamError, check_completion

HEAD = {"id": "chatcmpl-1", "created": 1790614494, "model": "a/b", "system_fingerprint": "a/b"}
USAGE = {"prompt_tokens": 22, "completion_tokens": 8, "total_tokens": 30}
EARLY = "the stream ended before the answer was whole"
DONE = b"data: [DONE]\n\n"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["text", "id"]), part, max_size=2),
    max_leaves=4,
)
FRAGMENTS = st.fixed_dictionaries({}, optional={"index": JSON, "id": JSON, "function": JSON | st.just({"name": 7})})
DELTAS = st.fixed_dictionaries({}, optional={"content": JSON, "reasoning": JSON, "tool_calls": st.lists(FRAGMENTS)})
CHOICES = JSON | st.lists(st.fixed_dictionaries({}, optional={"delta": JSON | DELTAS, "finish_reason": JSON}))
CHUNKS = JSON | st.fixed_dictionaries({}, optional={"choices": CHOICES, "usage": JSON, "model": JSON, "error": JSON})


def event(body: object, name: str = "") -> bytes:
    lines = f"event: {name}\n" if name else ""
    return f"{lines}data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish_reason}
    return event({**HEAD, "object": "chat.completion.chunk", "choices": [choice]})


class Read(NamedTuple):
    """What a stream came to."""

    body: dict[str, Any]
    pieces: list[str]
    done: bool


def read(*chunks: bytes) -> Read:
    events, pieces = EventStream(), list[str]()
    for chunk in chunks:
        pieces += events.feed(chunk)
    pieces += events.close()
    return Read(events.body(), pieces, events.done)


def whole(
    text: str, finish_reason: str | None = "stop", tool_calls: list[dict[str, Any]] | None = None, **message: Any
) -> dict[str, Any]:
    return {
        **HEAD,
        "object": "chat.completion",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text, **message, "tool_calls": tool_calls or []},
            "finish_reason": finish_reason,
        }],
    }  # fmt: skip


def tool(index: Any = None, id_: str | None = None, name: str | None = None, arguments: str | None = None) -> bytes:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fragment = {"index": index, "id": id_, "type": "function", "function": function}
    return delta(tool_calls=[{key: value for key, value in fragment.items() if value is not None}])


def called(id_: str | None, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


LM_STUDIO = (
    delta(role="assistant", reasoning_content="Hm…")
    + delta(content="Grüße, ")
    + delta(content="漢字 🙂")
    + delta(content="")
    + delta("stop")
    + event({**HEAD, "choices": [], "usage": USAGE})
    + DONE
)
LM_STUDIO_BODY = {**whole("Grüße, 漢字 🙂", reasoning_content="Hm…"), "usage": USAGE}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_cut_anywhere_gives_the_same_body(newline: bytes) -> None:
    data = LM_STUDIO.replace(b"\n", newline)
    expected = Read(LM_STUDIO_BODY, ["Grüße, ", "漢字 🙂"], done=True)
    assert read(data) == expected
    assert [at for at in range(len(data)) if read(data[:at], data[at:]) != expected] == []
    assert read(*(data[at : at + 1] for at in range(len(data)))) == expected


@given(st.lists(st.integers(0, len(LM_STUDIO)), max_size=20))
def test_a_stream_in_any_packets_gives_the_same_body(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(LM_STUDIO)]
    assert read(*(LM_STUDIO[start:end] for start, end in pairwise(ends))).body == LM_STUDIO_BODY


def test_a_stream_cut_short_anywhere_is_whole_or_an_error() -> None:
    finished = LM_STUDIO.index(delta("stop")) + len(delta("stop"))
    for at in range(len(LM_STUDIO)):
        if at >= finished - 2:  # the finish reason's event needs no blank line behind it
            assert check_completion(read(LM_STUDIO[:at]).body)["choices"] == LM_STUDIO_BODY["choices"]
        else:
            with pytest.raises(BadAnswer, match=f"^{EARLY}$"):
                read(LM_STUDIO[:at])


@pytest.mark.parametrize(
    ("data", "body"),
    [
        # Nothing but the text, and only one of the two ends.
        (delta(content="a") + delta("stop"), whole("a")),
        (delta(content="a") + DONE, whole("a", None)),
        (delta(content="a") + delta("stop").rstrip(), whole("a")),
        (delta(content="a") + delta("") + delta("length"), whole("a", "length")),
        # 0.3.13 says the role each time; llama.cpp begins with null.
        (delta(role="assistant", content="a") + delta(role="assistant", content="b") + delta("stop"), whole("ab")),
        (delta(role="assistant", content=None) + delta(content="a") + delta("stop"), whole("a")),
        # Comments, other fields, several data lines, no space, and events without data.
        (b": ping\n\nid: 7\nretry: 1\n\ndata\n\ndata:\n\n" + delta("stop", content="a"), whole("a")),
        (b'data:{"choices":\ndata:[{"delta":{"content":"a"},\ndata: "finish_reason":"stop"}]}\n\n', None),
        # Chunks that hold no choice, or none that can be read.
        (
            b"".join(event({"choices": c}) for c in (None, [], ["a"], [{"delta": None}], [{"delta": "a"}]))
            + delta("stop", content="a"),
            whole("a"),
        ),
        # What comes after [DONE] is not part of the answer.
        (delta("stop", content="a") + DONE + delta(content="b") + event({"error": "late"}), whole("a")),
        # The older names of the reasoning.
        (delta(reasoning="Hm.") + delta("stop", content="a"), whole("a", reasoning_content="Hm.")),
        (delta(content=[{"type": "text", "text": "a"}]) + delta("stop"), whole("a")),
        (delta("length", reasoning_content="Hm."), whole("", "length", reasoning_content="Hm.")),
    ],
)
def test_streams_of_all_servers_add_up(data: bytes, body: dict[str, Any] | None) -> None:
    expected = body or {key: value for key, value in whole("a").items() if key not in HEAD}
    assert read(data).body == expected


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        # 0.4: exactly two fragments a call; parallel calls one after the other.
        (
            [tool(0, "1", "f", ""), tool(0, arguments='{"a":1}'), tool(1, "2", "g", ""), tool(1, arguments="{}")],
            [called("1", "f", '{"a":1}'), called("2", "g", "{}")],
        ),
        # 0.3: arguments in many pieces, the name empty from the second on.
        ([tool(0, "1", "f", "{"), tool(0, None, "", '"a":'), tool(0, None, "", "1}")], [called("1", "f", '{"a":1}')]),
        # Pieces of two calls mixed, the second first.
        (
            [tool(1, "2", "g", "{"), tool(0, "1", "f", "{"), tool(1, arguments="}"), tool(0, arguments="}")],
            [called("1", "f", "{}"), called("2", "g", "{}")],
        ),
        # Servers that number no calls.
        ([tool(None, "1", "f", "{}"), tool(None, "2", "g", "{}")], [called("1", "f", "{}"), called("2", "g", "{}")]),
        ([tool("0", "1", "f", "{"), tool(None, None, None, "}")], [called("1", "f", "{}")]),
        ([tool(None, None, "f", "{}")], [called(None, "f", "{}")]),
        # A server that sends a name where the function belongs.
        (
            [delta(tool_calls=[{"index": 0, "id": "1", "function": "f"}]), tool(0, None, "g", "{}")],
            [called("1", "g", "{}")],
        ),
    ],
)
def test_fragments_of_tool_calls_add_up(fragments: list[bytes], calls: list[dict[str, Any]]) -> None:
    assert read(*fragments, delta("tool_calls"), DONE).body == whole("", "tool_calls", calls)


def test_what_servers_add_beside_the_choices_is_kept() -> None:
    timings = {"predicted_per_second": 93.5}
    data = delta("stop", content="a") + event({"choices": [], "usage": USAGE, "timings": timings, "stats": {}})
    assert read(data).body == {**whole("a"), "usage": USAGE, "timings": timings}
    assert read(delta("stop", content="a") + event({"usage": USAGE}) + event({"usage": None})).body["usage"] == USAGE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (event({"error": {"message": "Compute error."}, "message": "Compute error."}, "error"), "Compute error."),
        (event({"error": {"message": "m", "code": 500}}), "m"),
        (event({"error": "m"}), "m"),
        (event({"message": "m"}, "error"), "m"),
        (event("m", "error"), "m"),
        (event(["m"], "error"), '["m"]'),
        (b"event: error\ndata: m\n\n", "m"),
        (b"event:error\r\ndata: m\r\n\r\n", "m"),
        (event({"error": "m"}).rstrip(), "m"),
        (delta("stop") + event({"error": "m"}), "m"),
    ],
)
def test_an_error_event_ends_the_stream(data: bytes, message: str) -> None:
    with pytest.raises(StreamError) as caught:
        read(delta(content="a"), data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"data: {\n\n", "the stream holds an event that is no JSON object"),
        (b"data: [1]\n\n", "the stream holds an event that is no JSON object"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "the stream holds an event that is no JSON object"),
        (b"data: \xff\n\n", "the stream holds bytes that are no UTF-8"),
        (b"", EARLY),
        (delta(content="a"), EARLY),
        (delta("", content="a"), EARLY),
        (delta(content="a") + b'data: {"choi', EARLY),
        (b"<html>no stream</html>", EARLY),
    ],
)
def test_what_is_no_whole_stream_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read(data)
    assert str(caught.value) == problem


@given(st.lists(st.binary(max_size=20) | CHUNKS.map(event), max_size=4).map(b"".join))
def test_no_stream_breaks_the_client(data: bytes) -> None:
    try:
        body = read(data + DONE).body
    except (BadAnswer, StreamError):
        return
    assert json.loads(json.dumps(body))["object"] == "chat.completion"


def test_a_stream_of_nothing_is_whole_but_no_answer() -> None:
    body = read(DONE).body
    with pytest.raises(BadAnswer, match=r"^the answer is empty: neither text nor reasoning nor tool calls$"):
        check_completion(body)


@pytest.mark.parametrize(
    ("data", "started"),
    [
        (delta(role="assistant", content=""), False),
        (delta(content="a"), True),
        (delta(reasoning_content="Hm."), True),
        (tool(0, "1", "f", ""), True),
        (event({"choices": [], "usage": USAGE}), False),
    ],
)
def test_the_first_token_is_text_reasoning_or_a_tool_call(data: bytes, started: bool) -> None:
    events = EventStream()
    events.feed(data)
    assert bool(events.tokens) is started
