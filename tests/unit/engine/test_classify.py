"""Every error that LM Studio 0.2 to 0.4, its engines and llama.cpp are known to answer with, and the kind it has.

The wordings are quoted from recordings, documentation and users' reports.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_lmstudio.engine.classify import Failure, classify

NO_TOKEN = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the "
    "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). Learn more at: "
    "https://lmstudio.ai/docs/developer/core/authentication."
)
NO_PLUGIN = (
    "Permission denied to use plugin 'mcp/playwright'. Ensure that the server configuration allows plugin usage and, "
    "if using an API token, it has the necessary permissions."
)
NOT_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
GUARDRAIL = (
    'Failed to load model "X". Error: Model loading was stopped due to insufficient system resources. Under the '
    "current settings, this model requires approximately 273.25 GB of memory, and continuing to load it would likely "
    "overload your system and cause it to freeze."
)
OVERFLOWS = (
    "<LM Studio error> Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded "
    "with context length of only 4096 tokens, which is not enough. Try to load the model with a larger context length, "
    "or provide a shorter input. Error Data: n/a, Additional Data: n/a"
)
N_KEEP = (
    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: "
    "4096). Try to load the model with a larger context length, or provide a shorter input."
)
MLX = "Input does not fit in context length. The input has 31430 tokens, but the context length only supports 30000."
TOO_LONG = "request (36377 tokens) exceeds the available context size (4096 tokens), try increasing it"
PARSER = "Unable to generate parser for this template. "
JSON_ERROR = "[json.exception.type_error.302] type must be number, but is string"


def obj(message: str, code: str | None = None, type_: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": "model", "code": code}}


def llama(status: int, message: str, type_: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": type_}}


def engine(status: int, message: str, type_: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    inner = json.dumps({"error": {"code": status, "message": message, "type": type_, **more}})
    return {"error": f"Engine protocol predict request returned {status}: {inner}"}


def stream(message: str) -> dict[str, Any]:
    return {"error": {"message": message}, "message": message}


def streamed_engine(status: int, message: str) -> dict[str, Any]:
    return stream(f"Engine protocol predict stream returned an error: {json.dumps(llama(status, message))}")


AUTH = [
    (401, {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": NO_TOKEN}}),
    (401, obj("Malformed LM Studio API token provided: sk-lm-AbCd********. Ensure you are using a valid token.")),
    (401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}),
    (403, {"error": {"message": NO_PLUGIN, "type": "invalid_request", "param": "integrations", "code": None}}),
    (401, None),
]
NO_MODEL = [
    (400, obj(NOT_LOADED)),
    (400, {"error": NOT_LOADED}),
    (404, {"error": NOT_LOADED.replace("'", "`")}),
    (404, obj('Model "default" not found. Please specify a valid model.\n\nYour models:\n\na\nb', "model_not_found")),
    (
        400,
        obj(
            'Invalid model identifier "o4-mini". Please specify a valid downloaded model (e.g., a).', "model_not_found"
        ),
    ),
    (404, obj('Invalid model identifier "x". There are no downloaded llm models. Please download a model.')),
    (400, obj("Multiple models are loaded. Please specify a model by providing a 'model' field.", "model_not_found")),
    (404, obj("Multiple models are loaded. Please specify a model by providing a 'model' field.")),
    (500, {"error": "Model with key 'a/b' not loaded."}),
    (400, llama(400, "model 'nope' not found")),
    (400, llama(400, "model name is missing from the request")),
    (400, obj("Nothing there", "model_not_found")),
]
OUT_OF_MEMORY = [
    (400, obj(GUARDRAIL)),
    (400, obj("Model loading aborted due to insufficient system resources. Overloading the system…")),
    (400, obj('Failed to load model "X". Error: Error loading model.')),
    (400, obj('Failed to load model "X". Error: Failed to load model.')),
    (400, obj("Error loading model. (Exit code: 18446744072635810000). Unknown error. Try a different model.")),
    (400, obj("Error loading model. (Exit code: 6). Please check settings and try loading the model again.")),
    (400, obj("error loading model: unable to allocate CUDA0 buffer")),
    (400, obj("Attempt to pull a snapshot of system resources failed. Error: 'Utility process is not defined.'")),
]
MODEL_LOST = [
    (400, {"error": "The model has crashed without additional information. (Exit code: null)"}),
    (400, {"error": "The model has crashed without additional information. (Exit code: 18446744072635812000)"}),
    (400, {"error": "Engine protocol predict request returned 500: The model has crashed without additional info…"}),
    (200, stream("The model has crashed without additional information. (Exit code: null)")),
    (400, {"error": "Model unloaded."}),
    (400, {"error": "Model reloaded."}),
    (200, stream("Model reloaded.")),
    (400, {"error": "Model is unloaded."}),
    (400, {"error": "Channel Error"}),
    (400, obj('Failed to load model "X". Error: Operation canceled.')),
]
CONTEXT_OVERFLOW = [
    (400, {"error": OVERFLOWS}),
    (400, {"error": N_KEEP}),
    (400, {"error": "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"}),
    (200, stream(MLX)),
    (400, {"error": MLX}),
    (400, engine(400, TOO_LONG, "exceed_context_size_error", n_prompt_tokens=36377, n_ctx=4096)),
    (500, engine(400, TOO_LONG, "exceed_context_size_error", n_prompt_tokens=36377, n_ctx=4096)),
    (400, engine(400, "too long", "exceed_context_size_error")),
    (400, llama(400, TOO_LONG, "exceed_context_size_error")),
    (
        200,
        stream("Reached context length of 32000 tokens with model (arch: gpt-oss) that does not currently support …"),
    ),
]
SHARED_CONTEXT = [
    (400, engine(500, "Context size has been exceeded.", "server_error")),
    (200, streamed_engine(500, "Context size has been exceeded.")),
    (400, {"error": "Context size has been exceeded."}),
    (500, {"error": "Context size has been exceeded."}),
]
BAD_REQUEST = [
    (400, obj("Invalid 'reasoning_effort' value: 'off'. Supported values: none, minimal, low.", "invalid_value")),
    (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
    (400, {"error": "'messages' field is required"}),
    (400, obj("Invalid discriminator value. Expected 'text' | 'image'", "invalid_union", "invalid_request")),
    (400, obj("Unrecognized key(s) in object: 'seed'", None, "invalid_request")),
    (400, obj('"model" is required', "missing_required_parameter", "invalid_request")),
    (400, obj("Model 'a/b' does not support reasoning configuration.", "invalid_value", "invalid_request")),
    (400, engine(400, "Failed to initialize samplers: failed to parse grammar")),
    (500, engine(400, "Failed to initialize samplers: failed to parse grammar")),
    (400, {"error": "Error rendering prompt with jinja template: Unknown StringValue filter: trim"}),
    (400, engine(400, f"{PARSER}… Jinja Exception: System message must be at the beginning.")),
    (400, {"error": "Error: Channel Error. Jinja Exception: No user query found in messages."}),
    (200, stream("Error rendering prompt with jinja template: Expected a string")),
    (400, engine(400, "Failed to load image or audio file")),
    (400, {"error": "_0x48eeaf is not iterable"}),
    (400, llama(400, "'messages' is required")),
    (400, llama(400, "Expected 'messages' to be an array")),
    (400, llama(400, f"Field 'temperature': {JSON_ERROR}")),
    (400, llama(400, "Field 'max_tokens': Value must be between -1 <= value <= 2147483647, but got -5")),
    (400, llama(400, f"{PARSER}Automatic parser generation failed: JSON schema error at #: unrecognized type no")),
    (400, llama(400, 'response_format type must be one of "text" or "json_object", but got: nonsense')),
    (400, llama(400, "Pooling type 'none' is not OAI compatible. Please use a different pooling type")),
    (501, llama(501, "This server does not support embeddings. Start it with `--embeddings`", "not_supported_error")),
    (400, {"error": {}}),
    (400, None),
    (413, None),
    # An unknown wording: what the engine said counts, not the status around it.
    (200, streamed_engine(400, "Something else is wrong")),
    (200, llama(400, "Something else is wrong")),
    (500, engine(400, "Something else is wrong")),
]  # fmt: skip
SERVER_ERROR = [
    (200, stream("Compute error.")),
    (400, {"error": "Compute error."}),
    (502, {"error": "peer_keepalive_timeout"}),
    (500, {"error": "MCP error -32001: Request timed out"}),
    (500, {"error": "fetch failed"}),
    (500, llama(500, "model limit reached, try again later", "server_error")),
    (500, {"type": "error", "error": {"type": "api_error", "message": "Something"}}),
    (500, None),
    (502, None),
    (503, None),
    (507, None),
    (200, stream("Something")),
    (400, engine(500, "Something", "server_error")),
    (200, streamed_engine(500, "Something")),
    (200, llama(503, "Something", "unavailable_error")),
]
WRONG_URL = [
    (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    (404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}),
    (404, {"detail": "Not Found"}),
    (404, None),
    (405, None),
    (301, None),
    (307, None),
]
TIMEOUT = [(408, None), (504, None), (504, obj("upstream timed out"))]
RATE_LIMITED = [(429, obj("Rate limit reached")), (429, obj(NOT_LOADED)), (429, None)]
TABLE: dict[str, list[tuple[int, Any]]] = {
    "auth": AUTH,
    "no_model": NO_MODEL,
    "out_of_memory": OUT_OF_MEMORY,
    "model_lost": MODEL_LOST,
    "context_overflow": CONTEXT_OVERFLOW + SHARED_CONTEXT,
    "bad_request": BAD_REQUEST,
    "server_error": SERVER_ERROR,
    "wrong_url": WRONG_URL,
    "timeout": TIMEOUT,
    "rate_limited": RATE_LIMITED,
}
RETRIED = {"model_lost", "server_error", "timeout", "rate_limited"}


def failure_of(status: int, body: object, headers: dict[str, str] | None = None) -> Failure:
    return classify(status, headers or {}, body, "" if body is None else json.dumps(body))


@pytest.mark.parametrize(("kind", "status", "body"), [(kind, *row) for kind, rows in TABLE.items() for row in rows])
def test_every_known_error_has_its_kind(kind: str, status: int, body: dict[str, Any] | None) -> None:
    failure = failure_of(status, body)
    assert (failure.kind, failure.status, failure.retried) == (kind, status, kind in RETRIED)
    assert failure.shared_context is ((status, body) in SHARED_CONTEXT)
    assert failure.awaits_model is (kind == "model_lost")
    assert failure.phase == "receiving"


@pytest.mark.parametrize(
    ("status", "headers", "facts"),
    [
        (503, {}, ("server_error", None)),
        (503, {"retry-after": "2"}, ("rate_limited", 2.0)),
        (503, {"retry-after": "soon"}, ("server_error", None)),
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
        (500, "x" * 5000, "server_error", "x" * 300),
        (500, "<" * 5000, "server_error", "<" * 300),
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
