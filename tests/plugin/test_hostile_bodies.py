"""Bodies, events and heads made to break a client: each is an answer or an error of its kind, and the run goes on."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.standin import embedding, gzip, raw, reply, status, tool_call, wrong_model
from tests.standin.hostile import bomb, dumped, flood, one_line, patched, verbatim

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.suite import Ran, Suite
    from tests.standin import Received, Step

DEEP = b"[" * 100_000 + b"]" * 100_000
DIGITS = b"9" * 5000
NO_OBJECT = "invalid_response: the stream holds an event that is no JSON object"
TOO_DEEP = "invalid_response: the answer is nested too deeply"
NO_MESSAGE = "invalid_response: the answer holds no message"
EMPTY = "invalid_response: the answer is empty: neither text nor reasoning nor tool calls"
NO_HTTP = "disconnect: RemoteProtocolError"
TOO_LARGE = "invalid_response: the answer is larger than 32 MiB"
BODY = {"model": "test-model", "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
JSON = json.dumps(BODY).encode()


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def length(n: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % n


class Hostile(NamedTuple):
    """What a server sends, and what comes of it, in a stream and whole: the text of the answer, or kind and message."""

    step: Step
    streamed: str
    whole: str | None = None


def bodies() -> dict[str, Hostile]:
    """Return answers that are strange JSON, or none."""
    return {
        "deep": Hostile(verbatim(DEEP), NO_OBJECT, TOO_DEEP),
        "deep object": Hostile(verbatim(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), NO_OBJECT, TOO_DEEP),
        "deep choices": Hostile(verbatim(b'{"choices":' + DEEP + b"}"), NO_OBJECT, TOO_DEEP),
        "201 levels": Hostile(patched({"more": nested(200)}), NO_OBJECT, TOO_DEEP),
        "200 levels": Hostile(patched({"more": nested(199)}), "fine"),
        "deep error": Hostile(verbatim(b'{"error":' + DEEP + b"}"), NO_OBJECT, TOO_DEEP),
        "deep refusal": Hostile(status(400, b'{"error":' + DEEP + b"}"), 'bad_request: {"error":' + "[" * 291),
        "deep text": Hostile(reply("[" * 100_000), "[" * 100_000),
        "deep tool": Hostile(reply("", tool_calls=[tool_call("f", DEEP.decode())]), ""),
        "brackets": Hostile(reply("[{" * 500), "[{" * 500),
        "digits": Hostile(
            verbatim(JSON[:-1] + b', "created": ' + DIGITS + b"}"),
            NO_OBJECT,
            "invalid_response: the answer holds a number with too many digits",
        ),
        "digits refused": Hostile(status(500, b'{"error": ' + DIGITS + b"}"), 'server_error: {"error": ' + "9" * 290),
        "nan": Hostile(
            patched({"usage": {"prompt_tokens": float("nan")}, "timings": {"predicted_per_second": 1e999}}), "fine"
        ),
        "text for numbers": Hostile(
            patched({"usage": {"prompt_tokens": "9" * 5000, "completion_tokens": "many"}}), "fine"
        ),
        "negative": Hostile(patched({"usage": {"prompt_tokens": -1, "completion_tokens": -(10**18)}}), "fine"),
        "huge counts": Hostile(patched({"usage": {"prompt_tokens": 10**300, "completion_tokens": 10**18}}), "fine"),
        "true counts": Hostile(patched({"usage": {"prompt_tokens": True, "completion_tokens": 1.5}}), "fine"),
        "no usage": Hostile(patched({"usage": ["prompt_tokens"], "stats": 5, "timings": "fast"}), "fine"),
        "zero speed": Hostile(
            patched({"timings": {"predicted_per_second": -1e308}, "stats": {"tokens_per_second": 0}}), "fine"
        ),
        "model is a number": Hostile(patched({"model": 5}), "fine"),
        "model is a list": Hostile(patched({"model": ["test-model"]}), "fine"),
        "duplicates": Hostile(verbatim(b'{"error": "no", "error": null, ' + JSON[1:]), "fine"),
        "a name of megabytes": Hostile(
            wrong_model("@a" * 2**20 + "!"),
            "wrong_model: asked for test-model, answered by " + "@a" * 48 + "@...",
        ),
        "a reason of megabytes": Hostile(patched({"choice": {"finish_reason": "no" * 2**20}}), "fine"),
        "null": Hostile(verbatim(b"null"), NO_OBJECT, "invalid_response: the answer is no JSON object"),
        "list": Hostile(verbatim(b"[]"), NO_OBJECT, "invalid_response: the answer is no JSON object"),
        "choices is an object": Hostile(verbatim(dumped(BODY | {"choices": {}})), EMPTY, NO_MESSAGE),
        "choices holds null": Hostile(verbatim(dumped(BODY | {"choices": [None]})), EMPTY, NO_MESSAGE),
        "message is null": Hostile(patched({"choice": {"message": None, "delta": None}}), "fine", NO_MESSAGE),
        "message is a list": Hostile(patched({"choice": {"message": [], "delta": []}}), "fine", NO_MESSAGE),
        "content is a number": Hostile(
            patched({"choice": {"message": {"content": 5}, "delta": {"content": 5}}}), "fine", EMPTY
        ),
        "content in parts": Hostile(
            patched({"choice": {"message": {"content": [{"text": "fi"}, 5, {"text": "ne"}]}, "delta": {"a": 1}}}),
            "fine",
        ),
        "tools are text": Hostile(
            patched({"choice": {"message": {"content": "fine", "tool_calls": "f"}, "delta": {"tool_calls": "f"}}}),
            "fine",
        ),
        "tools are odd": Hostile(
            patched({"choice": {"delta": {"tool_calls": [5, {}, {"index": -1, "function": []}, {"index": 10**30}]}}}),
            "fine",
        ),
        "finish is a list": Hostile(patched({"choice": {"finish_reason": ["stop"]}}), "fine"),
        "surrogates": Hostile(reply("\ud800 \udfff"), "\ud800 \udfff"),
        "no utf-8": Hostile(
            verbatim(b'{"a": "\xff"}'),
            "invalid_response: the stream holds bytes that are no UTF-8",
            "invalid_response: the answer holds bytes that are no UTF-8",
        ),
        "cut utf-8": Hostile(
            verbatim(JSON + b"\xe2\x82", [JSON, b"\xe2\x82"]),
            "invalid_response: the stream holds bytes that are no UTF-8",
            "invalid_response: the answer holds bytes that are no UTF-8",
        ),
        "vectors": Hostile(embedding(), NO_MESSAGE),
    }


def heads() -> dict[str, Hostile]:
    """Return answers whose head lies, or is absurd; they never stream."""
    chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(JSON), JSON)
    whole = length(len(JSON)) + JSON
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 10_000
    undecoded = "invalid_response: the answer cannot be decoded: "
    steps = {
        "one long header": (HEAD + b"X: " + b"x" * 1_000_000 + b"\r\n" + whole, NO_HTTP),
        "many headers": (HEAD + b"X: y\r\n" * 100_000 + whole, NO_HTTP),
        "shorter than it says": (HEAD + length(len(JSON) + 1) + JSON, NO_HTTP),
        "longer than it says": (HEAD + whole + b"more", "fine"),
        "two lengths": (HEAD + b"Content-Length: 1\r\n" + whole, NO_HTTP),
        "less than no length": (HEAD + b"Content-Length: -5\r\n\r\n{}", NO_HTTP),
        "endless length": (HEAD + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n{}", NO_HTTP),
        "no status": (b"HTTP/1.1 OK\r\n\r\n", NO_HTTP),
        "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", NO_HTTP),
        "escapes": (b"HTTP/1.1 200 \x1b[31m\r\n\r\n", "invalid_response: the answer is no JSON"),
        "trailers": (chunks + b"X: y\r\n\r\n", "fine"),
        "many trailers": (chunks + b"X: y\r\n" * 100_000 + b"\r\n", NO_HTTP),
        "broken chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", NO_HTTP),
        "huge chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n{}", NO_HTTP),
        "early hints": (hints + HEAD + whole, "fine"),
        "upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", NO_HTTP),
        "not packed": (HEAD + b"Content-Encoding: gzip\r\n" + whole,
                       undecoded + "Error -3 while decompressing data: incorrect header check"),
        "packed otherwise": (HEAD + b"Content-Encoding: br\x80\r\n" + whole,
                             undecoded + r"nobody asked for the encoding br\x80"),
        "packed twice": (HEAD + b"Content-Encoding: gzip, gzip\r\n" + whole,
                         undecoded + "nobody asked for the encoding gzip, gzip"),
        "packed not at all": (HEAD + b"Content-Encoding: Identity\r\n" + whole, "fine"),
    }  # fmt: skip
    return {name: Hostile(raw(data), told) for name, (data, told) in steps.items()}


def floods() -> dict[str, Hostile]:
    """Return answers of megabytes."""
    return {
        "a million events": Hostile(flood(1_000_000), TOO_LARGE, "x" * 1_000_000),
        "a hundred thousand events": Hostile(flood(100_000), "x" * 100_000),
        "one line": Hostile(one_line(30_000_000), "x" * 30_000_000),
        "one line too long": Hostile(one_line(50_000_000), TOO_LARGE),
        "bomb": Hostile(bomb(2**28), TOO_LARGE),
        "packed megabytes": Hostile(gzip(reply("x" * 2**20)), "x" * 2**20),
    }


SUITE = """
    import json
    import pytest
    from pytest_lmstudio import LMError
    FOUND = {{}}
    @pytest.mark.parametrize("name", {names!r})
    def test_it(lm, name):
        try:
            text = lm(name).text
            FOUND[name] = text if len(text) < 200_000 else f"{{text[0]}} * {{len(text)}}"
        except LMError as error:
            FOUND[name] = error.kind
    def test_told(lm):
        with open("found.json", "w", encoding="ascii") as file:
            json.dump(FOUND, file)
"""


def asks(prompt: str) -> Callable[[Received], bool]:
    return lambda received: received.text == prompt


def found(suite: Suite, hostile: dict[str, Hostile], *, stream: bool) -> tuple[Ran, dict[str, str]]:
    """Let a suite meet hostile answers; return the run, and what came of each."""
    for name, one in hostile.items():
        suite.server.when(asks(name), one.step)
    suite.write(SUITE.format(names=list(hostile)))
    how = "--lmstudio-stream" if stream else "--no-lmstudio-stream"
    ran = suite.run("-n0", how, "--lmstudio-retries=0", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%")
    came = json.loads((suite.pytester.path / "found.json").read_text("ascii"))
    for event in ran.named("gen_error"):
        name = str(event["nodeid"]).partition("[")[2].removesuffix("]")
        assert came[name] == event["error_kind"]
        # What a library says behind the name of its error is its own affair.
        came[name] = re.sub(r"(?<=ProtocolError): .*", "", f"{event['error_kind']}: {event['message']}")
    return ran, came


def expected(hostile: dict[str, Hostile], *, stream: bool) -> dict[str, str]:
    texts = {name: one.streamed if stream or one.whole is None else one.whole for name, one in hostile.items()}
    return {name: text if len(text) < 200_000 else f"{text[0]} * {len(text)}" for name, text in texts.items()}


BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@BOTH
def test_a_strange_body_is_an_answer_or_an_error(suite: Suite, stream: bool) -> None:
    ran, came = found(suite, bodies(), stream=stream)
    assert came == expected(bodies(), stream=stream)
    assert ran.outcomes == {"passed": len(came) + 1}
    assert ran.report["tokens"]["in"] < 10**9
    assert max(len(json.dumps(event)) for event in ran.events) < 2000


def test_a_strange_head_is_an_answer_or_an_error(suite: Suite) -> None:
    ran, came = found(suite, heads(), stream=True)
    assert came == expected(heads(), stream=True)
    assert ran.outcomes == {"passed": len(came) + 1}


@BOTH
def test_megabytes_are_an_answer_or_an_error(suite: Suite, stream: bool) -> None:
    ran, came = found(suite, floods(), stream=stream)
    assert came == expected(floods(), stream=stream)
    assert ran.outcomes == {"passed": len(came) + 1}
