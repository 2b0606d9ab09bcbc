"""What other servers than LM Studio are known to answer when they fail, word for word, and the kind that is.

The wordings are quoted from their sources and issues, named beside each.
"""

from __future__ import annotations

from tests.unit.engine.errors_known import CRASHED, EXECUTING, PARSER, TOO_LONG, Known, anthropic, llama, obj, openai

JSON_ERROR = "[json.exception.type_error.302] type must be number, but is string"
#: tools/server and common/chat of ggml-org/llama.cpp; issues 19851, 20532, 20761; pull request 15780; janhq/jan 6254.
LLAMA_CPP = [
    Known("auth", 401, llama(401, "Invalid API Key", "authentication_error")),
    Known("wrong_url", 404, llama(404, "File Not Found", "not_found_error")),
    Known("no_model", 400, llama(400, "model 'nope' not found")),
    Known("no_model", 400, llama(400, "model name is missing from the request")),
    Known(
        "context_overflow", 400, llama(400, TOO_LONG, "exceed_context_size_error", n_prompt_tokens=36377, n_ctx=4096)
    ),
    Known(
        "context_overflow",
        500,
        llama(
            500,
            "the request exceeds the available context size. try increasing the context size or enable context shift",
            "exceed_context_size_error",
            n_prompt_tokens=1407,
            n_ctx=256,
        ),
    ),
    Known(
        "context_overflow",
        500,
        llama(500, "decoding exceeds the available context size. try increasing the context size."),
    ),
    Known(
        "context_overflow",
        500,
        llama(
            500,
            "input (1045 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            "server_error",
        ),
    ),
    Known("context_overflow", 500, llama(500, "input is larger than the max context size. skipped", "server_error")),
    Known(
        "context_overflow",
        500,
        llama(500, "Input prompt is too big compared to KV size. Please try increasing KV size."),
    ),
    Known("bad_request", 400, llama(400, "'messages' is required")),
    Known("bad_request", 500, llama(500, "Expected 'messages' to be an array", "server_error")),
    Known("bad_request", 400, llama(400, f"Field 'temperature': {JSON_ERROR}")),
    Known(
        "bad_request",
        400,
        llama(400, "Field 'max_tokens': Value must be between -1 <= value <= 2147483647, but got -5"),
    ),
    Known(
        "bad_request",
        400,
        llama(400, f"{PARSER}Automatic parser generation failed: JSON schema error at #: unrecognized type no"),
    ),
    Known(
        "bad_request", 400, llama(400, 'response_format type must be one of "text" or "json_object", but got: nonsense')
    ),
    Known(
        "bad_request", 400, llama(400, "Pooling type 'none' is not OAI compatible. Please use a different pooling type")
    ),
    Known(
        "bad_request",
        501,
        llama(501, "This server does not support embeddings. Start it with `--embeddings`", "not_supported_error"),
    ),
    Known("bad_request", 500, llama(500, "tools param requires --jinja flag", "server_error")),
    Known(
        "bad_request",
        500,
        llama(500, EXECUTING + "Conversation roles must alternate user/assistant/user/...", "server_error"),
    ),
    Known(
        "bad_request",
        500,
        llama(
            500,
            "Conversation roles must alternate user/assistant/user/assistant/... at row 19, column 27:\n {%- if",
            "server_error",
        ),
    ),
    Known("server_error", 500, llama(500, "Compute error.", "server_error")),
    Known("server_error", 500, llama(500, "Invalid input batch.", "server_error")),
    Known("server_error", 500, llama(500, "model limit reached, try again later", "server_error")),
    # What the model wrote stands behind it.
    Known("server_error", 500, llama(500, "Failed to parse input at pos 12: </tool_call>", "server_error")),
    Known(
        "server_error",
        500,
        llama(500, "Failed to parse input at pos 0: The model has crashed, no models loaded", "server_error"),
    ),
]
#: server/routes.go, server/sched.go and llm/server.go of ollama/ollama; its issues 1019, 1636, 4159, 5958, 15934.
OLLAMA = [
    Known("no_model", 404, obj('model "llama3" not found, try pulling it first', None, "api_error")),
    Known("no_model", 404, obj("model 'llama3' not found", None, "not_found_error")),
    Known("bad_request", 400, obj("model is required")),
    Known("bad_request", 400, obj("registry.ollama.ai/library/gemma:2b does not support tools", None, "api_error")),
    Known("context_overflow", 400, obj("the input length exceeds the context length", None, "api_error")),
    Known(
        "out_of_memory",
        500,
        obj("model requires more system memory (5.3 GiB) than is available (3.3 GiB)", None, "api_error"),
    ),
    Known(
        "out_of_memory",
        500,
        obj("llama runner process has terminated: error loading model: unable to allocate backend buffer"),
    ),
    Known(
        "out_of_memory",
        500,
        obj("llama runner process has terminated: cudaMalloc failed: out of memory", None, "api_error"),
    ),
    Known("out_of_memory", 500, obj("llama runner exited, you may not have enough available memory to run this model")),
    Known("model_lost", 500, obj("llama runner process has terminated: exit status 2", None, "api_error")),
    Known("model_lost", 500, obj("llama runner process no longer running: -1 ", None, "api_error")),
    Known(
        "server_error", 500, obj("timed out waiting for llama runner to start - progress 0.00 - ", None, "api_error")
    ),
    Known(
        "server_error", 500, obj("an error was encountered while running the model: unexpected EOF", None, "api_error")
    ),
    Known("server_error", 500, obj("unexpected server status: llm busy - no slots available", None, "api_error")),
    Known(
        "server_error", 503, obj("server busy, please try again.  maximum pending requests exceeded", None, "api_error")
    ),
]
_VLLM_LENGTH = (
    "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens (8000 in the messages, "
    "1000 in "
    "the completion). Please reduce the length of the messages or completion."
)
#: entrypoints/openai of vllm-project/vllm; its issues 3485 and 42362; runpod-workers/worker-vllm 57, with status 200.
VLLM = [
    Known("no_model", 404, openai("The model `Qwen/Qwen1.5` does not exist.", "NotFoundError", 404)),
    Known(
        "no_model",
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
    ),
    Known(
        "no_model",
        200,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
    ),
    Known("context_overflow", 400, openai(_VLLM_LENGTH, "BadRequestError", 400)),
    Known(
        "context_overflow",
        400,
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
            "tokens and "
            "your request has 2778 input tokens (8000 > 4096 - 2778).",
            "BadRequestError",
            400,
        ),
    ),
    Known("context_overflow", 200, openai(_VLLM_LENGTH, "BadRequestError", 400)),
    Known("bad_request", 400, openai("1 validation error for ValidatorIterator", "BadRequestError", 400)),
    Known("bad_request", 200, openai("Something else is wrong", "BadRequestError", 400)),
    Known("auth", 401, {"error": "Unauthorized"}),
    Known("out_of_memory", 500, openai("CUDA out of memory. Tried to allocate 2.00 GiB", "InternalServerError", 500)),
    Known(
        "server_error",
        500,
        openai(
            "EngineCore encountered an issue. See stack trace (above) for the root cause.", "InternalServerError", 500
        ),
    ),
    Known("server_error", 200, openai("EngineCore encountered an issue.", "InternalServerError", 500)),
    Known("server_error", 500, "Internal Server Error"),
]
_GROUP = "\nReceived Model Group=m\nAvailable Model Group Fallbacks=None"
#: exceptions.py and proxy/ of BerriAI/litellm; issues 5350 of OpenHands, 540 of brokk-app and 7259 of litellm itself.
PROXIES = [
    Known("auth", 401, openai("Authentication Error, LiteLLM Virtual Key expected.", "auth_error", "401")),
    Known(
        "no_model",
        400,
        openai(
            "/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available "
            "models for your key.",
            "invalid_request_error",
            "400",
        ),
    ),
    Known(
        "context_overflow",
        400,
        openai(
            f"litellm.BadRequestError: litellm.ContextWindowExceededError: OpenAIException - too long{_GROUP}",
            "None",
            "400",
        ),
    ),
    Known(
        "context_overflow",
        400,
        openai(
            "litellm.BadRequestError: AnthropicException - "
            'b\'{"type":"error","error":{"type":"invalid_request_error","message":"'
            "input length and `max_tokens` exceed context limit: 179413 + 32768 > 200000, decrease input length or "
            "`max_tokens` and "
            "try again\"}}'." + _GROUP,
            "None",
            "400",
        ),
    ),
    Known(
        "context_overflow",
        400,
        openai(
            "litellm.BadRequestError: AnthropicError - "
            '{"type":"error","error":{"type":"invalid_request_error","message":"prompt is '
            'too long: 209303 tokens > 200000 maximum"}}' + _GROUP,
            "None",
            "400",
        ),
    ),
    Known(
        "model_lost",
        400,
        openai(f"litellm.BadRequestError: Lm_studioException - {CRASHED.format('null')}{_GROUP}", "None", "400"),
    ),
    Known(
        "model_lost",
        400,
        openai(
            "litellm.BadRequestError: OpenAIException - Error code: 400 - {'error': 'Model reloaded.'}" + _GROUP,
            "None",
            "400",
        ),
    ),
    Known("timeout", 408, openai(f"litellm.Timeout: APITimeoutError - Request timed out.{_GROUP}", "None", "408")),
    Known("timeout", 200, openai("litellm.Timeout: APITimeoutError - Request timed out.", "None", "408")),
    Known(
        "rate_limited",
        429,
        openai("No deployments available for selected model, Try again in 60 seconds.", "None", "429"),
    ),
    Known("rate_limited", 200, openai("litellm.RateLimitError: slow down", "throttling_error", "429")),
    Known(
        "server_error",
        500,
        openai(f"litellm.APIConnectionError: Cannot connect to host 127.0.0.1:1234{_GROUP}", "None", "500"),
    ),
    Known("server_error", 503, openai(f"litellm.ServiceUnavailableError: OpenAIException{_GROUP}", "None", "503")),
    # OpenRouter reports an upstream's status inside of a 200.
    Known(
        "server_error", 200, {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "…"}}}
    ),
    # Anthropic's own, and what imitates it.
    Known("auth", 401, anthropic("invalid x-api-key", "authentication_error")),
    Known("auth", 200, anthropic("invalid x-api-key", "authentication_error")),
    Known("rate_limited", 429, anthropic("Number of requests has exceeded your limit", "rate_limit_error")),
    Known("rate_limited", 200, anthropic("Number of requests has exceeded your limit", "rate_limit_error")),
    Known("server_error", 529, anthropic("Overloaded", "overloaded_error")),
    Known("server_error", 200, anthropic("Overloaded", "overloaded_error")),
    Known("bad_request", 413, anthropic("Request exceeds the maximum size", "request_too_large")),
    Known("bad_request", 200, anthropic("max_tokens: field required", "invalid_request_error")),
    Known(
        "context_overflow",
        400,
        anthropic("prompt is too long: 209303 tokens > 200000 maximum", "invalid_request_error"),
    ),
    # OpenAI's own.
    Known(
        "no_model",
        404,
        openai(
            "The model `gpt-x` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
    ),
    Known("context_overflow", 400, openai(_VLLM_LENGTH, "invalid_request_error", "context_length_exceeded")),
    # llama-cpp-python, and text-generation-inference.
    Known(
        "context_overflow",
        500,
        openai("Requested tokens (2285) exceed context window of 2048", "internal_server_error"),
    ),
    Known(
        "context_overflow",
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
            "`inputs` tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    Known("rate_limited", 429, {"error": "Model is overloaded", "error_type": "overloaded"}),
]
_NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
)
_CLOUDFLARE = (
    '<!DOCTYPE html>\n<!--[if lt IE 7]> <html class="no-js ie6 oldie"> '
    "<![endif]-->\n<html><head>\n<title>api.example.org | {0}"
    "</title>\n<style>\nbody {{ content: 'Channel Error' }}\n</style>\n<script>window.error = 'Model "
    "unloaded.';</script>\n</head>"
    "\n<body><h1>{1}</h1><p>Ray ID: 8f&nbsp;&amp;&#8226;</p></body></html>"
)
#: Pages, and lines of text: Express, nginx, Cloudflare, Envoy, Caddy, a hotel.
PAGES = [
    Known(
        "server_error",
        500,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<title>Error</title>\n</head>\n<body>\n<pre>Internal Server '
        "Error</pre>\n</body>\n</html>\n",
    ),
    Known("wrong_url", 404, "<!DOCTYPE html>\n<pre>Cannot POST /chat/completions</pre>"),
    Known("wrong_url", 404, "404 page not found"),
    Known("server_error", 502, _NGINX.format("502 Bad Gateway")),
    Known("server_error", 503, _NGINX.format("503 Service Temporarily Unavailable")),
    Known("timeout", 504, _NGINX.format("504 Gateway Time-out")),
    Known("bad_request", 413, _NGINX.format("413 Request Entity Too Large")),
    Known("auth", 403, _CLOUDFLARE.format("Attention Required!", "Sorry, you have been blocked")),
    Known("rate_limited", 429, _CLOUDFLARE.format("Access denied", "Error 1015")),
    Known("server_error", 521, _CLOUDFLARE.format("521: Web server is down", "Web server is down")),
    Known("server_error", 524, _CLOUDFLARE.format("524: A timeout occurred", "A timeout occurred")),
    Known("server_error", 524, "error code: 524"),
    Known("timeout", 504, "upstream request timeout"),
    Known(
        "server_error",
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    ),
]
OTHERS = LLAMA_CPP + OLLAMA + VLLM + PROXIES + PAGES
