"""What a healthy LM Studio 0.4 puts into its answers, as plain data."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import string
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

DIMENSIONS = 8
TOOL_TOKENS = 2  # of a tool call, one for each of its two fragments

_rng = random.Random(20261122)
_call_ids = itertools.count(146102770)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says.

    Attributes:
        text: the content; each word becomes a delta and counts as a token.
        reasoning: the thinking, sent before the content.
        tool_calls: OpenAI-shaped calls, see `tool_call`.
        finish_reason: the reason of an answer that was not cut by ``max_tokens``.
        model: the name in the answer; None for the model that answers.
        usage: the token counts; None counts words.
        piece_chars: None for one delta a word, else deltas of that many characters.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str = "stop"
    model: str | None = None
    usage: dict[str, Any] | None = None
    piece_chars: int | None = None


class Spoken(NamedTuple):
    """An answer as deltas, cut to the budget of tokens."""

    thinking: list[str]
    words: list[str]
    finish_reason: str
    completion_tokens: int


class Events(NamedTuple):
    """The events of a stream, in order; `usage` is None unless the request asked for it."""

    deltas: list[dict[str, Any]]
    finish: list[dict[str, Any]]
    usage: dict[str, Any] | None


def tool_call(name: str, arguments: str = "{}", id: str | None = None) -> dict[str, Any]:  # noqa: A002  # the wire's name
    """Return one tool call as LM Studio sends it: the id has nine digits, the arguments are JSON text."""
    return {
        "type": "function",
        "id": id or str(next(_call_ids)),
        "function": {"name": name, "arguments": arguments},
    }


def split_words(text: str, piece_chars: int | None = None) -> list[str]:
    """Return the deltas of a text: words with the blanks before them, or pieces of a fixed length."""
    if piece_chars is not None:
        return [text[i : i + piece_chars] for i in range(0, len(text), piece_chars)]
    return re.findall(r"\s*\S+(?:\s+$)?|\s+$", text)


def speak(answer: Answer, max_tokens: int | None) -> Spoken:
    """Return the answer cut to `max_tokens`; thinking spends first, and a cut answer counts one token too few.

    The miscount is LM Studio's own (0.4.22).
    """
    thinking = split_words(answer.reasoning)
    words = split_words(answer.text, answer.piece_chars)
    total = len(thinking) + len(words)
    if max_tokens is None or max_tokens < 0 or total <= max_tokens:
        return Spoken(thinking, words, answer.finish_reason, total + TOOL_TOKENS * len(answer.tool_calls))
    left = max(0, max_tokens - len(thinking))
    return Spoken(thinking[:max_tokens], words[:left], "length", max(0, max_tokens - 1))


def count_tokens(request: dict[str, Any], answer: Answer) -> int:
    """Return how many deltas the answer takes."""
    spoken = speak(answer, max_tokens_of(request))
    return len(spoken.thinking) + len(spoken.words)


def usage_of(request: dict[str, Any], answer: Answer, spoken: Spoken) -> dict[str, Any]:
    """Return the token counts: words of the prompt, deltas of the answer."""
    if answer.usage is not None:
        return answer.usage
    prompt_tokens = len(prompt_text(request).split())
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": spoken.completion_tokens,
        "total_tokens": prompt_tokens + spoken.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": len(spoken.thinking)},
    }


def prompt_text(request: dict[str, Any]) -> str:
    """Return all text of a request's messages or prompt."""
    if "prompt" in request:
        return str(request["prompt"])
    return " ".join(_text(message.get("content")) for message in _messages(request))


def last_user_text(request: dict[str, Any]) -> str:
    """Return the text of the last user message, the prompt of a completion."""
    users = [_text(m.get("content")) for m in _messages(request) if m.get("role") == "user"]
    return users[-1] if users else str(request.get("prompt", ""))


def _messages(request: dict[str, Any]) -> list[dict[str, Any]]:
    messages = request.get("messages")
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def new_id(kind: str = "chatcmpl") -> str:
    """Return an id in LM Studio's form: 21 base-36 characters after the kind."""
    return f"{kind}-" + "".join(_rng.choices(string.digits + string.ascii_lowercase, k=21))


def chat_body(request: dict[str, Any], answer: Answer, model: str) -> dict[str, Any]:
    """Return a whole chat completion."""
    spoken = speak(answer, max_tokens_of(request))
    message = {
        "role": "assistant",
        "content": "".join(spoken.words),
        "reasoning_content": "".join(spoken.thinking),
        "tool_calls": list(answer.tool_calls),
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": spoken.finish_reason}
    return _whole("chatcmpl", "chat.completion", choice, usage_of(request, answer, spoken), answer.model or model)


def text_body(request: dict[str, Any], answer: Answer, model: str) -> dict[str, Any]:
    """Return a whole text completion (/v1/completions)."""
    spoken = speak(answer, max_tokens_of(request))
    choice = {"index": 0, "text": "".join(spoken.words), "logprobs": None, "finish_reason": spoken.finish_reason}
    return _whole("cmpl", "text_completion", choice, usage_of(request, answer, spoken), answer.model or model)


def _whole(kind: str, name: str, choice: dict[str, Any], usage: dict[str, Any], model: str) -> dict[str, Any]:
    return {
        "id": new_id(kind),
        "object": name,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage,
        "stats": {},
        "system_fingerprint": model,
    }


def v0_extras(usage: dict[str, Any], quantization: str | None, context_length: int) -> dict[str, Any]:
    """Return what /api/v0 adds to a completion; times are seconds."""
    return {
        "stats": {
            "tokens_per_second": 50.0,
            "time_to_first_token": 0.1,
            "generation_time": usage.get("completion_tokens", 0) / 50.0,
            "stop_reason": "eosFound",
        },
        "model_info": {"arch": "llama", "quant": quantization, "format": "gguf", "context_length": context_length},
        "runtime": {"name": "llama.cpp-linux-x86_64-avx2", "version": "2.0.0", "supported_formats": ["gguf"]},
    }


def chat_events(request: dict[str, Any], answer: Answer, model: str) -> Events:
    """Return the events of a streamed chat completion, less ``[DONE]``."""
    spoken = speak(answer, max_tokens_of(request))
    deltas = [{"reasoning_content": piece} for piece in spoken.thinking]
    deltas += [{"content": piece} for piece in spoken.words]
    tools = [part for index, call in enumerate(answer.tool_calls) for part in _tool_deltas(index, call)]
    all_deltas: list[dict[str, Any]] = [*deltas, *tools]
    if all_deltas:
        all_deltas[0] = {"role": "assistant", **all_deltas[0]}
    closing = [] if tools else [_choice(delta={"content": ""})]
    return _events(
        "chatcmpl",
        "chat.completion.chunk",
        [_choice(delta=delta) for delta in all_deltas],
        [*closing, _choice(delta={}, finish_reason=spoken.finish_reason)],
        _asked_usage(request, answer, spoken),
        answer.model or model,
    )


def text_events(request: dict[str, Any], answer: Answer, model: str) -> Events:
    """Return the events of a streamed text completion, less ``[DONE]``."""
    spoken = speak(answer, max_tokens_of(request))
    return _events(
        "cmpl",
        "text_completion",
        [_choice(text=piece) for piece in spoken.words],
        [_choice(text="", finish_reason=spoken.finish_reason)],
        _asked_usage(request, answer, spoken),
        answer.model or model,
    )


def _choice(finish_reason: str | None = None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _tool_deltas(index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    function = call["function"]
    opening = {"index": index, "id": call["id"], "type": "function", "function": {**function, "arguments": ""}}
    rest = {"index": index, "type": "function", "function": {"arguments": function["arguments"]}}
    return [{"tool_calls": [opening]}, {"tool_calls": [rest]}]


def _events(  # noqa: PLR0917  # private: called right above
    kind: str,
    name: str,
    deltas: list[dict[str, Any]],
    finish: list[dict[str, Any]],
    usage: dict[str, Any] | None,
    model: str,
) -> Events:
    base = {
        "id": new_id(kind),
        "object": name,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": model,
    }
    return Events(
        [base | {"choices": [choice]} for choice in deltas],
        [base | {"choices": [choice]} for choice in finish],
        None if usage is None else base | {"choices": [], "usage": usage},
    )


def _asked_usage(request: dict[str, Any], answer: Answer, spoken: Spoken) -> dict[str, Any] | None:
    options = request.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    return usage_of(request, answer, spoken) if asked else None


def max_tokens_of(request: dict[str, Any]) -> int | None:
    """Return the request's limit of tokens, None without one."""
    limit = request.get("max_tokens", request.get("max_completion_tokens"))
    return limit if isinstance(limit, int) else None


def embeddings_body(request: dict[str, Any], model: str, dimensions: int = DIMENSIONS) -> dict[str, Any]:
    """Return a vector for each input, the same for the same text."""
    given = request.get("input", "")
    texts = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "embedding": vector(str(t), dimensions), "index": i} for i, t in enumerate(texts)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return the vector of a text: numbers from -1 to 1 that only the text decides; at most 32."""
    return [byte / 127.5 - 1 for byte in hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:dimensions]]
