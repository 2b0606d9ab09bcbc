"""Every fault that a server is known for, played once: what it does, and the steps that do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.standin import (
    auth_401,
    close_before_headers,
    crash,
    cut_after_delta,
    cut_after_headers,
    cut_before_done,
    cut_body,
    cut_mid_event,
    drip,
    empty,
    empty_stream,
    endless_stream,
    engine_error,
    error_object,
    error_string,
    garbage,
    gzip,
    hang,
    html_500,
    invalid_utf8,
    length_thinking,
    loading_503,
    rate_limit,
    redirect,
    reply,
    reset_before_headers,
    split_packets,
    stall_after_headers,
    status,
    stream_error,
    unexpected_endpoint,
    wrong_model,
)
from tests.standin.hostile import bomb, one_line

if TYPE_CHECKING:
    from tests.standin.steps import Step

LIMIT = {"timeout": 0.75}
NOT_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
NO_MEMORY = 'Failed to load model "test-model". Error: Model loading was stopped due to insufficient system resources.'
N_KEEP = "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"
TOO_LONG = "request (36377 tokens) exceeds the available context size (4096 tokens), try increasing it"
JINJA = "Error rendering prompt with jinja template: Unknown StringValue filter: trim"
NGINX = "<html><head><title>{0}</title></head><body><hr>nginx</body></html>"


class Fault(NamedTuple):
    """One fault.

    Attributes:
        does: what the server does.
        step: the step that does it.
        keywords: of the call that meets it.
        why: why a call is not tried again, or not as others of its kind.
        streams: whether it can happen to a stream alone.
    """

    does: str
    step: Step
    keywords: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it
    why: str = ""
    streams: bool = False


def forbidden() -> Step:
    """Refuse what the token may not do."""
    return error_object(403, "Permission denied to use plugin 'mcp/playwright'.", type="invalid_request")


FAULTS = [
    Fault("401: authentication is on and no token was sent", auth_401()),
    Fault("401: the token is none of its own", auth_401("Malformed LM Studio API token provided.")),
    Fault("403: the token lacks a permission", forbidden()),
    Fault("accepts the request and never answers", hang(), LIMIT),
    Fault("sends the head of an answer, then nothing", stall_after_headers(), LIMIT),
    Fault("takes longer for the prompt than the limit", reply("late", prefill_s=3.0), LIMIT),
    Fault("sends a byte now and then, without end", drip(), LIMIT),
    Fault("sends words without end", endless_stream(), LIMIT),
    Fault("sends no first token", stall_after_headers(), {"first_token_timeout": 0.75}, streams=True),
    Fault("stops between two tokens", reply("one two", per_token_s=2.0), {"inter_token_timeout": 0.75}, streams=True),
    Fault("408", status(408)),
    Fault("504, with a proxy's page", status(504, NGINX.format("504 Gateway Time-out"))),
    Fault("resets the connection before an answer", reset_before_headers()),
    Fault("closes the connection without a byte", close_before_headers()),
    Fault("closes after the head", cut_after_headers()),
    Fault("resets after the head", cut_after_headers(reset=True)),
    Fault("closes after two deltas, or in the middle of the body", cut_after_delta(2)),
    Fault("resets after two deltas, or in the middle of the body", cut_after_delta(2, reset=True)),
    Fault("closes in the middle of an event, or of the body", cut_mid_event()),
    Fault("closes half-way through the body it announced", cut_body()),
    Fault("429", rate_limit()),
    Fault("429 with a Retry-After of 0 s", rate_limit(0)),
    Fault("429 with a Retry-After that has passed", rate_limit("Thu, 01 Jan 1970 00:00:00 GMT")),
    Fault("429 with a Retry-After of 121 s", rate_limit(121), why="a Retry-After above 120 s is not waited for"),
    Fault("503 with a Retry-After of 0 s", rate_limit(0, code=503)),
    Fault("500, with Express's page", html_500()),
    Fault("502, with a proxy's page", status(502, NGINX.format("502 Bad Gateway"))),
    Fault("503", status(503)),
    Fault("503 while it loads the model", loading_503(), why="after each, the list of models is asked for the model"),
    Fault("fails to compute", stream_error("Compute error.")),
    Fault("its engine fails", engine_error(500, "Something is wrong inside.", type="server_error")),
    Fault("the model crashes", crash()),
    Fault("the model crashes after two deltas", stream_error("Model unloaded.", after_tokens=2)),
    Fault("the model is unloaded", error_string(400, "Model unloaded.")),
    Fault("the model is reloaded", error_string(400, "Model reloaded.")),
    Fault(
        "another load displaces the model", error_string(400, 'Failed to load model "x". Error: Operation canceled.')
    ),
    Fault("200 with a page instead of JSON", garbage()),
    Fault("200 with text that is no UTF-8", invalid_utf8()),
    Fault("200 with an empty answer", empty()),
    Fault("a stream of `[DONE]` alone; whole, an empty answer", empty_stream()),
    Fault("ends a stream properly, but early; whole, cuts it", cut_after_delta(2, clean=True)),
    Fault("an answer of 33 MiB", one_line(33 * 2**20)),
    Fault("128 kB that unpack to 128 MiB", bomb(2**27)),
    Fault("the prompt does not fit (MLX)", stream_error()),
    Fault("the prompt does not fit (GGUF)", error_string(400, N_KEEP)),
    Fault("the prompt does not fit (engine protocol)", engine_error(400, TOO_LONG, type="exceed_context_size_error")),
    Fault("the context is full, and no other call is in flight", engine_error(500, "Context size has been exceeded.")),
    Fault("cannot load the model", error_object(400, NO_MEMORY)),
    Fault("nothing is loaded", error_object(400, NOT_LOADED, param="model")),
    Fault("does not know the model", error_object(404, 'Model "x" not found.', code_="model_not_found")),
    Fault("answers with another model", wrong_model("another-model")),
    Fault("400: a parameter is wrong", error_object(400, "'temperature' must be a number")),
    Fault("the chat template fails", stream_error(JINJA)),
    Fault(
        "the JSON schema is too much for a grammar",
        engine_error(400, "Failed to initialize samplers: failed to parse grammar"),
    ),
    Fault("cannot read an image", engine_error(400, "Failed to load image or audio file")),
    Fault("413", status(413, NGINX.format("413 Request Entity Too Large"))),
    Fault("422", status(422)),
    Fault("501", status(501)),
    Fault("200 with `Unexpected endpoint or method`", unexpected_endpoint()),
    Fault("404 for the route", status(404, "<pre>Cannot POST /v1/chat/completions</pre>")),
    Fault("redirects", redirect("http://127.0.0.1:1234/elsewhere")),
]
ANSWERED = [
    Fault("leaves out `[DONE]`", cut_before_done("whole")),
    Fault("packs the answer (gzip)", gzip()),
    Fault("cuts packets inside events and characters", split_packets()),
    Fault("answers with thinking alone", reply("", "hm")),
    Fault("thinking takes all of `max_tokens`", length_thinking()),
    Fault("a second copy of the model answers (`test-model:2`)", wrong_model("test-model:2")),
    Fault("a variant of the model answers (`test-model@q4_k_m`)", wrong_model("test-model@q4_k_m")),
]
