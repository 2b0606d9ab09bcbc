"""What becomes of every error that servers are known to answer with, by status, headers, JSON, page or event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.engine.classify import classify
from pytest_lmstudio.engine.failure import Failure
from pytest_lmstudio.errors import KINDS, ErrorKind
from tests.unit.engine import errors_elsewhere as elsewhere
from tests.unit.engine import errors_known as known
from tests.unit.engine.errors_known import Known, llama, obj, wrapped

EVERY = known.LM_STUDIO + elsewhere.OTHERS


def failure_of(status: int, body: object, headers: dict[str, str] | None = None, sent: bytes = b"") -> Failure:
    if isinstance(body, str):
        return classify(status, headers or {}, None, body, sent)
    return classify(status, headers or {}, body, "" if body is None else json.dumps(body), sent)


@pytest.mark.parametrize("one", EVERY, ids=[f"{one.kind}-{one.status}" for one in EVERY])
def test_every_known_error_has_its_kind(one: Known) -> None:
    failure = failure_of(one.status, one.body)
    assert (failure.kind, failure.status, failure.phase) == (one.kind, one.status, "receiving")
    assert failure.retried is KINDS[ErrorKind(one.kind)].retried
    assert failure.shared_context is (one in known.SHARED_CONTEXT)
    assert failure.awaits_model is (one.kind == "model_lost")


def test_every_kind_that_a_server_can_tell_is_among_them() -> None:
    told = {ErrorKind(one.kind) for one in EVERY}
    assert set(ErrorKind) - told == {
        ErrorKind.CONNECT, ErrorKind.DISCONNECT, ErrorKind.INVALID_RESPONSE, ErrorKind.CIRCUIT_OPEN,
        ErrorKind.UNREACHABLE, ErrorKind.WRONG_MODEL, ErrorKind.CACHE_MISS, ErrorKind.CANCELLED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers", "facts"),
    [
        (503, {}, ("server_error", None)),
        (503, {"retry-after": "2"}, ("rate_limited", 2.0)),
        (503, {"retry-after": "soon"}, ("server_error", None)),
        (503, {"retry-after": "-1"}, ("server_error", None)),
        (503, {"retry-after": ""}, ("server_error", None)),
        (503, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, ("rate_limited", 0.0)),
        (503, {"retry-after": "9" * 400}, ("rate_limited", 1e9)),
        (500, {"retry-after": "2"}, ("server_error", 2.0)),
        (429, {"retry-after": "0"}, ("rate_limited", 0.0)),
    ],
)
def test_a_server_that_asks_to_wait_is_full(
    status: int, headers: dict[str, str], facts: tuple[str, float | None]
) -> None:
    failure = failure_of(status, None, headers)
    assert (failure.kind, failure.retry_after_s) == facts


@pytest.mark.parametrize(
    ("message", "headers", "kind"),
    [
        ("Loading model", {}, "server_error"),
        ("Model is still loading", {}, "server_error"),
        ("Loading model", {"retry-after": "5"}, "rate_limited"),
        ("The model is loading, no models loaded", {}, "server_error"),
    ],
)
def test_a_server_that_still_loads_is_waited_for(message: str, headers: dict[str, str], kind: str) -> None:
    failure = failure_of(503, {"error": {"message": message, "type": "unavailable_error", "code": 503}}, headers)
    assert (failure.kind, failure.awaits_model, failure.retried) == (kind, True, True)


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (500, "<!DOCTYPE html>\n<title>Error</title>\n<pre>Internal Server Error</pre>", "server_error",
         "Error Internal Server Error"),
        (502, "<html><body><h1>502 Bad Gateway</h1>\r\n<hr>nginx</body></html>", "server_error",
         "502 Bad Gateway nginx"),
        (504, "upstream request timeout", "timeout", "upstream request timeout"),
        (404, "404 page not found", "wrong_url", "404 page not found"),
        (400, "", "bad_request", "HTTP 400"),
        (400, "The model has crashed", "model_lost", "The model has crashed"),
        (502, elsewhere.PAGES[3].body, "server_error", "502 Bad Gateway 502 Bad Gateway nginx/1.25.3"),
        (524, elsewhere.PAGES[10].body, "server_error",
         "api.example.org | 524: A timeout occurred A timeout occurred Ray ID: 8f &•"),
        (500, "<style>Channel Error", "server_error", "HTTP 500"),
        (500, "<!-- Channel Error", "server_error", "HTTP 500"),
        (500, "x" * 5000, "server_error", "x" * 300),
        (500, "<" * 5000, "server_error", "<" * 300),
        (500, '"text"', "server_error", '"text"'),
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_is_read_as_text(status: int, text: str, kind: str, message: str) -> None:
    failure = classify(status, {}, None, text)
    assert (failure.kind, failure.message) == (kind, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (obj("text", "model_not_found"), "model_not_found: text"),
        (obj("text: model_not_found", "model_not_found"), "text: model_not_found"),
        (obj("text", "400"), "text"),
        (llama(400, "text"), "text"),
        ({"error": "text"}, "text"),
        ({"error": None, "message": "text"}, "text"),
        (["text"], '["text"]'),
    ],
)
def test_the_message_is_what_the_server_said(body: object, message: str) -> None:
    assert failure_of(400, body).message == message


def test_a_forgiven_failure_counts_as_network() -> None:
    full = failure_of(400, {"error": "Context size has been exceeded."})
    forgiven = Failure(full.kind, full.message, shared_context=True, forgiven=True)
    assert [(f.category, f.retried) for f in (full, forgiven)] == [("other", False), ("network", True)]


def test_a_redirect_tells_where_to() -> None:
    failure = failure_of(308, "<h1>Moved</h1>", {"location": "https://me:secret@host/v1"})
    assert (failure.kind, failure.message) == ("wrong_url", "HTTP 308 redirects to https://host/v1")


def test_an_error_while_loading_is_no_server_that_still_loads() -> None:
    failure = failure_of(503, {"error": "Error loading model."})
    assert (failure.kind, failure.awaits_model) == ("out_of_memory", False)


SAYINGS = [
    "Unexpected endpoint or method", "exceed_context_size_error", "Context size has been exceeded",
    "n_keep (2) >= n_ctx", "prompt is too long: 9", "Jinja template", "failed to parse grammar",
    "Error: Operation canceled", "out of memory", "Failed to load model", "No models loaded", "model_not_found",
    "model 'x' not found", "the model has crashed", "Model unloaded", "Channel Error", "(Exit code: 6)",
    "Compute error", "peer_keepalive_timeout",
]  # fmt: skip


def sent(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, separators=(",", ":")).encode()


@pytest.mark.parametrize("saying", SAYINGS)
@pytest.mark.parametrize("shape", ["string", "object", "wrapped", "page", "cut", "escaped"])
def test_a_prompt_that_an_error_quotes_does_not_change_its_kind(saying: str, shape: str) -> None:
    prompt = f'Why does it say "{saying}" (or \u00ab{saying}\u00bb)? Tell me all about it, please.'
    quoting = f"Something is wrong with \u00ab{prompt}\u00bb"
    body: Any = {
        "string": {"error": quoting},
        "object": obj(quoting),
        "wrapped": wrapped(400, quoting),
        "page": f"<h1>400 Bad Request</h1><p>{quoting}</p>",
        "cut": {"error": f"Something is wrong with it: ...{prompt[10:-20]}..."},
        "escaped": {"error": f"Something is wrong with {json.dumps(prompt)}"},
    }[shape]
    assert failure_of(400, body, sent=sent(prompt)).kind == "bad_request"
    assert failure_of(400, body).kind == failure_of(400, {"error": f"{saying}: 1"}).kind


@pytest.mark.parametrize("saying", SAYINGS)
def test_an_error_that_the_prompt_is_about_keeps_its_kind(saying: str) -> None:
    """The server says in its own words what the prompt asks about."""
    error = {"error": f"{saying}: 1, and so it goes on and on."}
    alone = failure_of(400, error).kind
    assert failure_of(400, error, sent=sent(f"What does {saying} mean?")).kind == alone
    assert failure_of(400, error, sent=sent(f"It said: {error['error']} What does that mean?")).kind == alone
    later = {"error": f"It failed, {error['error']}"}
    assert failure_of(400, later, sent=sent(f"What does {saying}: mean?")).kind == alone


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("'content' must be a string, got: n_ctx", "bad_request"),
        ("Tool 'jinja' was not found", "bad_request"),
        ("The tool that the model named was not found", "bad_request"),
        ("Cannot convert exit code: 3", "bad_request"),
        ("Unknown parameter: 'messages'", "bad_request"),
        ("A channel errored", "bad_request"),
        ("remodel unloaded goods", "bad_request"),
        ("'stop' must not exceed context", "bad_request"),
        ("Your maximum context length is unknown", "bad_request"),
    ],
)
def test_words_that_only_sound_like_a_known_error_change_no_kind(message: str, kind: str) -> None:
    assert failure_of(400, {"error": message}).kind == kind


def test_a_name_that_sounds_like_an_error_is_a_name() -> None:
    name = "jinja template (exit code: 1) out of memory"
    request = json.dumps({"model": name, "messages": []}).encode()
    assert failure_of(400, {"error": f"Cannot use {name!r} here"}, sent=request).kind == "bad_request"
    assert failure_of(404, obj(f'Model "{name}" not found.'), sent=request).kind == "no_model"


@given(
    st.text() | st.from_regex(r"(?:model|jinja|<|\{|\"|error|engine protocol predict| ){1,60}"),
    st.sampled_from([200, 400, 503]),
)
def test_no_error_breaks_the_classification(text: str, status: int) -> None:
    for body in (None, {"error": text}, {"error": {"message": text, "type": text, "code": text}}, {"object": text}):
        assert classify(status, {}, body, text, text.encode()).kind in ErrorKind


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "hostile", ["{", "<", "model ", "@a", "engine protocol predict", '"code": ', "<!--", "<style>", "&#1"]
)
def test_an_error_of_megabytes_is_classified_at_once(hostile: str) -> None:
    text = hostile * (4 * 2**20 // len(hostile))
    for body in (None, {"error": text}):
        assert failure_of(500, body or text).kind == "server_error"


@pytest.mark.parametrize("code", [True, None, [], {}, 4000, -400, "40x", 10**3000, "9" * 5000, 1.5])
def test_a_code_that_is_no_status_counts_for_nothing(code: Any) -> None:
    assert failure_of(200, {"error": {"message": "what?", "code": code}}).kind == "server_error"
