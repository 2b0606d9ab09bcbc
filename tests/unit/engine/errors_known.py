"""What LM Studio 0.2 to 0.4 and Bionic are known to answer when they fail, word for word, and the kind that is.

The wordings are quoted from recordings, documentation and users' reports; `errors_elsewhere` has other servers'.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Known(NamedTuple):
    """One answer: its status (200 for an event inside a stream) and its body, a text where it is no JSON."""

    kind: str
    status: int
    body: Any


def obj(message: str, code: str | None = None, type_: str = "invalid_request_error") -> dict[str, Any]:
    """Return the object form of an error."""
    return {"error": {"message": message, "type": type_, "param": "model", "code": code}}


def llama(status: int, message: str, type_: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """Return an error as llama.cpp's server sends it, and LM Studio's engine."""
    return {"error": {"code": status, "message": message, "type": type_, **more}}


def wrapped(status: int, message: str, type_: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """Return an engine's error wrapped into the text of LM Studio's."""
    inner = json.dumps(llama(status, message, type_, **more))
    return {"error": f"Engine protocol predict request returned {status}: {inner}"}


def event(message: str) -> dict[str, Any]:
    """Return an error as LM Studio sends it inside a stream."""
    return {"error": {"message": message}, "message": message}


def wrapped_event(status: int, message: str, type_: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """Return an engine's error wrapped into LM Studio's, inside a stream."""
    return event(
        f"Engine protocol predict stream returned an error: {json.dumps(llama(status, message, type_, **more))}"
    )


def openai(message: str, type_: str, code: Any = None) -> dict[str, Any]:
    """Return an error as OpenAI's API and its imitations send it."""
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def anthropic(message: str, type_: str) -> dict[str, Any]:
    """Return an error as Anthropic's API sends it, and LM Studio's ``/v1/messages``."""
    return {"type": "error", "error": {"type": type_, "message": message}}


def everywhere(kind: str, *messages: str) -> list[Known]:
    """Return an engine's wordings in each form that LM Studio has given one: status, body, event, wrapped or not."""
    forms = [
        *((status, {"error": message}) for status in (400, 500) for message in messages),
        *((400, obj(message)) for message in messages),
        *((400, wrapped(status, message)) for status in (400, 500) for message in messages),
        *((500, wrapped(400, message)) for message in messages),
        *((200, event(message)) for message in messages),
        *((200, wrapped_event(status, message)) for status in (400, 500) for message in messages),
    ]
    return [Known(kind, status, body) for status, body in forms]


NO_TOKEN = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the "
    "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). Learn more at: "
    "https://lmstudio.ai/docs/developer/core/authentication."
)
NO_PLUGIN = (
    "Permission denied to use plugin 'mcp/playwright'. Ensure that the server configuration allows plugin usage and, "
    "if using an API token, it has the necessary permissions."
)
AUTH = [
    Known("auth", 401, {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": NO_TOKEN}}),
    Known(
        "auth",
        401,
        obj("Malformed LM Studio API token provided: sk-lm-AbCd********. Ensure you are using a valid token."),
    ),
    Known(
        "auth", 403, {"error": {"message": NO_PLUGIN, "type": "invalid_request", "param": "integrations", "code": None}}
    ),
    Known("auth", 401, None),
    Known("auth", 403, None),
]

NOT_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
SEVERAL = "Multiple models are loaded. Please specify a model by providing a 'model' field."
UNKNOWN = 'Model "default" not found. Please specify a valid model.\n\nYour models:\n\nmodel-unloaded-jinja\nb'
INVALID = 'Invalid model identifier "o4-mini". Please specify a valid downloaded model (e.g., jinja template, b, c).'
NONE_DOWNLOADED = (
    'Invalid model identifier "x". There are no downloaded llm models. Please download a model to get started.'
)
NO_MODEL = [
    Known("no_model", 400, obj(NOT_LOADED)),
    Known("no_model", 400, {"error": NOT_LOADED}),
    Known("no_model", 404, {"error": NOT_LOADED.replace("'", "`")}),
    Known("no_model", 404, obj(UNKNOWN, "model_not_found")),
    Known("no_model", 404, obj(UNKNOWN)),
    Known("no_model", 400, obj(INVALID, "model_not_found")),
    Known("no_model", 404, obj(NONE_DOWNLOADED, None, "invalid_request")),
    Known("no_model", 400, obj(SEVERAL, "model_not_found")),
    Known("no_model", 404, obj(SEVERAL)),
    Known("no_model", 500, {"error": "Model with key 'a/b' not loaded."}),
    Known("no_model", 400, obj("Nothing there", "model_not_found")),
    Known("no_model", 200, {"type": "error", "error": {"type": "model_not_found", "message": "Nothing there"}}),
]

GUARDRAIL = (
    'Failed to load model "X". Error: Model loading was stopped due to insufficient system resources. Under the '
    "current settings, this model requires approximately 273.25 GB of memory, and continuing to load it would likely "
    "overload your system and cause it to freeze. If you think this is incorrect, you can adjust the model loading "
    "guardrails in settings."
)
OUT_OF_MEMORY = everywhere(
    "out_of_memory",
    GUARDRAIL,
    "Model loading aborted due to insufficient system resources. Overloading the system will likely cause it to "
    "freeze.",
    'Failed to load model "X". Error: Error loading model.',
    'Failed to load model "X". Error: Failed to load model.',
    "Error loading model. (Exit code: 18446744072635810000). Unknown error. Try a different model and/or config.",
    "Error loading model. (Exit code: 6). Please check settings and try loading the model again.",
    "error loading model: unable to allocate CUDA0 buffer",
    "Attempt to pull a snapshot of system resources failed. Error: 'Utility process is not defined.'",
)

CRASHED = "The model has crashed without additional information. (Exit code: {})"
MODEL_LOST = [
    *everywhere(
        "model_lost",
        CRASHED.format("null"),
        CRASHED.format("18446744072635812000"),
        CRASHED.format("null") + ". Error Data: n/a, Additional Data: n/a",
        "Model unloaded.",
        "Model reloaded.",
        "Model is unloaded.",
        "Channel Error",
        "Error: Channel Error",
        'Failed to load model "X". Error: Operation canceled.',
    ),
    Known(
        "model_lost",
        400,
        {"error": "Engine protocol predict request returned 500: The model has crashed without additional info…"},
    ),
]

TOO_LONG = "request (36377 tokens) exceeds the available context size (4096 tokens), try increasing it"
KEEPS = (
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length "
    "of only 4096 tokens, which is not enough. Try to load the model with a larger context length, or provide a "
    "shorter "
    "input"
)
N_KEEP = (
    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: "
    "4096). Try to load the model with a larger context length, or provide a shorter input."
)
TOO_LONG_FACTS = {"n_prompt_tokens": 36377, "n_ctx": 4096}
CONTEXT_OVERFLOW = [
    *everywhere(
        "context_overflow",
        f"<LM Studio error> {KEEPS}. Error Data: n/a, Additional Data: n/a",
        KEEPS,
        N_KEEP,
        N_KEEP.replace(" (n_keep: 13055>= n_ctx: 4096)", ""),
        "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)",
        "Input does not fit in context length. The input has 31430 tokens, but the context length only supports "
        "30000 tokens.",
        "Reached context length of 32000 tokens with model (arch: gpt-oss) that does not currently support "
        "mid-generation "
        "context overflow. Try reloading with a larger context length.",
        TOO_LONG,
    ),
    *(
        Known("context_overflow", status, wrapped(400, TOO_LONG, "exceed_context_size_error", **TOO_LONG_FACTS))
        for status in (400, 500)
    ),
    Known("context_overflow", 200, wrapped_event(400, TOO_LONG, "exceed_context_size_error", **TOO_LONG_FACTS)),
    Known("context_overflow", 400, wrapped(400, "too long", "exceed_context_size_error")),
    Known("context_overflow", 400, llama(400, TOO_LONG, "exceed_context_size_error", **TOO_LONG_FACTS)),
    Known(
        "context_overflow", 500, anthropic(wrapped(400, TOO_LONG, "exceed_context_size_error")["error"], "api_error")
    ),
]
#: What other requests in flight may have caused.
SHARED_CONTEXT = everywhere("context_overflow", "Context size has been exceeded.")

PARSER = "Unable to generate parser for this template. "
JINJA = "Error rendering prompt with jinja template: Unknown StringValue filter: trim"
HINT = "This is usually an issue with the model's prompt template. If you are using a popular, recently released model…"
EXECUTING = (
    "\n------------\nWhile executing CallExpression at line 19, column 27 in source:\n...% 2 == 0) -%}↵        "
    '{{ raise_exception("Conversation roles must alternate user...\n                     ^\nError: Jinja Exception: '
)
BAD_REQUEST = [
    *everywhere(
        "bad_request",
        "Failed to initialize samplers: failed to parse grammar",
        JINJA,
        f"{JINJA}. {HINT}",
        "Error rendering prompt with jinja template: Expected a string",
        f"{PARSER}Automatic parser generation failed: \n------------\nWhile executing CallExpression at line 85, "
        f"column 32 in "
        "source:\n... \n\nError: Jinja Exception: System message must be at the beginning.",
        "Error: Channel Error. Jinja Exception: No user query found in messages.",
        "Failed to load image or audio file",
    ),
    Known(
        "bad_request",
        400,
        obj("Invalid 'reasoning_effort' value: 'off'. Supported values: none, minimal, low.", "invalid_value"),
    ),
    Known("bad_request", 400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
    Known("bad_request", 400, {"error": "'messages' field is required"}),
    Known(
        "bad_request",
        400,
        obj("Invalid discriminator value. Expected 'text' | 'image'", "invalid_union", "invalid_request"),
    ),
    Known("bad_request", 400, obj("Unrecognized key(s) in object: 'seed'", None, "invalid_request")),
    Known("bad_request", 400, obj("Unrecognized key(s) in object: 'n_ctx', 'n_keep'", None, "invalid_request")),
    Known("bad_request", 400, obj('"model" is required', "missing_required_parameter", "invalid_request")),
    Known(
        "bad_request",
        400,
        obj("Model 'a/b' does not support reasoning configuration.", "invalid_value", "invalid_request"),
    ),
    Known("bad_request", 400, {"error": "_0x48eeaf is not iterable"}),
    Known("bad_request", 400, {"error": {}}),
    Known("bad_request", 400, None),
    Known("bad_request", 413, None),
    Known("bad_request", 422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}),
    Known("bad_request", 501, None),
    # An unknown wording: what the engine said counts, not the status around it.
    Known("bad_request", 200, wrapped_event(400, "Something else is wrong")),
    Known("bad_request", 200, llama(400, "Something else is wrong")),
    Known("bad_request", 200, llama(404, "Something else is wrong")),
    Known("bad_request", 500, wrapped(400, "Something else is wrong")),
    Known("bad_request", 200, obj("Something else is wrong")),
    Known("bad_request", 200, {"type": "error", "error": {"type": "not_implemented", "message": "Not yet"}}),
]
SERVER_ERROR = [
    *everywhere("server_error", "Compute error."),
    Known("server_error", 502, {"error": "peer_keepalive_timeout"}),
    Known("server_error", 500, {"error": "MCP error -32001: Request timed out"}),
    Known("server_error", 500, {"error": "fetch failed"}),
    Known("server_error", 500, anthropic("Something", "api_error")),
    Known("server_error", 200, event("Something")),
    Known("server_error", 200, {"type": "error", "error": {"type": "internal_error", "message": "Something"}}),
    Known("server_error", 400, wrapped(500, "Something", "server_error")),
    Known("server_error", 200, wrapped_event(500, "Something", "server_error")),
    Known("server_error", 200, llama(503, "Something", "unavailable_error")),
    Known("server_error", 200, {"error": ["no", "words"]}),
    *(Known("server_error", status, None) for status in (500, 502, 503, 507, 520, 529)),
]
WRONG_URL = [
    Known("wrong_url", 200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    Known("wrong_url", 200, {"error": "Unexpected endpoint or method. (POST //v1/chat/completions)"}),
    Known("wrong_url", 404, {"detail": "Not Found"}),
    *(Known("wrong_url", status, None) for status in (301, 302, 307, 308, 404, 405)),
]
TIMEOUT = [
    Known("timeout", 408, None),
    Known("timeout", 504, None),
    Known("timeout", 504, obj("upstream timed out")),
]
RATE_LIMITED = [
    Known("rate_limited", 429, obj("Rate limit reached")),
    Known("rate_limited", 429, obj(NOT_LOADED)),
    Known("rate_limited", 429, None),
]
LM_STUDIO = [
    *(AUTH + NO_MODEL + OUT_OF_MEMORY + MODEL_LOST + CONTEXT_OVERFLOW + SHARED_CONTEXT),
    *(BAD_REQUEST + SERVER_ERROR + WRONG_URL + TIMEOUT + RATE_LIMITED),
]
