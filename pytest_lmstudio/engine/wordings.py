"""What servers say when they fail, and the kind of error that each saying tells."""

from __future__ import annotations

import json
import re

from pytest_lmstudio.engine.wire import error_message
from pytest_lmstudio.errors import ErrorKind

_NAME = r"(?:'[^']{1,300}'|\"[^\"]{1,300}\"|`[^`]{1,300}`)"
#: Whole phrases, so that nobody says them by chance; the first kind that fits decides. They are those of LM Studio 0.2
#: to 0.4 and Bionic; of llama.cpp's server (tools/server, common/chat); of Ollama (server/routes.go, server/sched.go,
#: llm/server.go); of vLLM (entrypoints/openai); of LiteLLM (exceptions.py), which puts its own names before another's
#: words; of llama-cpp-python, text-generation-inference and Anthropic.
#: "Channel Error" is an outer wrapper and comes last, since the cause may stand inside.
_WORDINGS: tuple[tuple[ErrorKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile("|".join(patterns), re.IGNORECASE))
    for kind, *patterns in (
        (ErrorKind.WRONG_URL, r"unexpected endpoint or method"),
        (
            ErrorKind.CONTEXT_OVERFLOW,
            r"exceed_context_size_error",
            r"context_length_exceeded",
            r"contextwindowexceedederror",
            r"context size has been exceeded",
            r"exceeds? (?:the )?(?:available )?context (?:size|length|window|limit)",
            r"does not fit in context length",
            r"when context the overflows",
            r"greater than the context length",
            r"n_keep \(\d+\) >= n_ctx",
            r"reached context length of \d",
            r"maximum context length (?:is|of) \d",
            r"prompt is too long: \d",
            r"too big compared to kv size",
            r"too large to process\. increase the physical batch size",
            r"larger than the max context size",
            r"`inputs` (?:tokens \+ `max_new_tokens` )?must (?:be <=|have less than)",
        ),
        (
            ErrorKind.BAD_REQUEST,
            r"\bjinja (?:template|exception)",
            r"--jinja flag",
            r"while executing \w{1,40} at line \d",
            r"conversation roles must alternate",
            r"failed to parse grammar",
            r"failed to initialize samplers",
            r"failed to load image",
            r"unrecognized key\(s\) in object",
            r"unable to generate parser for this template",
            r"invalid discriminator value",
            r"'messages' (?:field )?is required",
            r"expected 'messages' to be",
        ),
        (ErrorKind.MODEL_LOST, r"(?:^|error: )operation cancell?ed"),
        (
            ErrorKind.OUT_OF_MEMORY,
            r"insufficient system resources",
            r"failed to load model",
            r"error loading model",
            r"unable to (?:allocate|load model)\b",
            r"failed to allocate",
            r"\b(?:out of|not have enough available) memory\b",
            r"model requires more system memory",
            r"snapshot of system resources failed",
        ),
        (
            ErrorKind.NO_MODEL,
            r"no models? loaded",
            r"model_not_found",
            r"invalid model (?:identifier|name)",
            r"multiple models are loaded",
            r"no downloaded llm",
            rf"\bmodel (?:with key )?{_NAME} (?:(?:is |was )?not (?:found|loaded)|does not exist)",
            r"model name is missing",
        ),
        (
            ErrorKind.MODEL_LOST,
            r"\b(?:model|it) has crashed",
            r"\bmodel (?:is |was )?(?:unloaded|reloaded)\b",
            r"\bchannel error\b",
            r"\(exit code: ",
            r"llama runner (?:process|exited)",
        ),
        (ErrorKind.SERVER_ERROR, r"\bcompute error\b", r"peer_keepalive_timeout"),
    )
)
#: What stands behind these is no word of the server's: what the model wrote (llama.cpp), or names (LM Studio).
_OTHERS_WORDS = re.compile(r"failed to parse input at pos \d+:|your models:|downloaded model \(e\.g\.,", re.IGNORECASE)
_MOST_DEPTH = 4
#: A saying that stands in the request too, with so many more characters around it, is quoted from there.
_QUOTED_CHARS = 12


def kind_of_message(message: str, sent: bytes = b"") -> ErrorKind | None:
    """Return the kind of error that a server's words tell, or None.

    Args:
        message: what the server says, a page at most; JSON that its engine wrapped into it is read too.
        sent: the request's body: what the server quotes of it tells nothing.
    """
    parts = [_OTHERS_WORDS.split(part, maxsplit=1)[0] for part in unwrapped(message)]
    for kind, pattern in _WORDINGS:
        for part in parts:
            if any(not _is_quoted(part, *found.span(), sent) for found in pattern.finditer(part)):
                return kind
    return None


def unwrapped(message: str) -> list[str]:
    """Return a message and, one after the other, the errors wrapped into it as JSON.

    Such as ``Engine protocol predict request returned 400: {"error": {"message": "..."}}``.
    """
    parts = [message]
    while len(parts) <= _MOST_DEPTH:
        _, brace, inner = parts[-1].partition("{")
        try:
            body = json.JSONDecoder().raw_decode(brace + inner)[0]
        except (ValueError, RecursionError):
            break
        error = body.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        parts.append(f"{kind}: {error_message(body)}" if isinstance(kind, str) else error_message(body))
    return parts


def _is_quoted(message: str, start: int, end: int, sent: bytes) -> bool:
    """Tell whether a part of a message, with some of what stands around it, stands in the request too."""
    if not sent or _stands_in(message[:end], sent):  # no error begins with a quotation
        return False
    around = (
        message[start - before : end + _QUOTED_CHARS - before]
        for before in range(min(start, _QUOTED_CHARS) + 1)
        if end + _QUOTED_CHARS - before <= len(message)
    )
    return any(_stands_in(text, sent) for text in around)


def _stands_in(text: str, sent: bytes) -> bool:
    """Tell whether a text stands in JSON, as it is or escaped."""
    return text.encode("ascii", "replace") in sent or json.dumps(text)[1:-1].encode("ascii") in sent
