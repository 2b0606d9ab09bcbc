"""Answers: is it from the model that was asked, what goes into the cache, what comes back as a `Reply`."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.reply import Reply
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from pytest_lmstudio.engine.attempt import Answer
    from pytest_lmstudio.records import Request

#: A second loaded copy of a model is ``name:2``, a variant ``name@q4_k_m``; both are the model.
_SUFFIXES = re.compile(r"(?:@[\w.+-]+|:\d+)+$")
_LONGEST_NAME = 500
_SHORTEST_PROMPT = 12
_LEAST_SPAN_MS = 1.0
_LONGEST_MS = 1e12
_NUMBER = int | float


def same_model(asked: str, answered: str) -> bool:
    """Tell whether an answer's model is the one asked for, copies and variants being the same."""
    if asked == answered:
        return True
    # Looking for suffixes in a name of megabytes would take for ever.
    names = [_SUFFIXES.sub("", name[:_LONGEST_NAME]).casefold() for name in (asked, answered)]
    return names[0] == names[1]


def check_answer(request: Request, body: object) -> dict[str, Any]:
    """Return an answer that is whole and from the model asked.

    Raises:
        wire.BadAnswer: it is no answer.
        Refused: another model answered.
    """
    if request.endpoint == "chat":
        whole = wire.check_completion(body)
    else:
        whole = wire.check_embeddings(body, len(request.body["input"]))
    answered = whole.get("model")
    if isinstance(answered, str) and answered and not same_model(request.model, answered):
        msg = f"asked for {printable(request.model, limit=100)}, answered by {printable(answered, limit=100)}"
        raise Refused(Failure(ErrorKind.WRONG_MODEL, msg, status=200))
    return whole


def entry_of(request: Request, answer: Answer) -> dict[str, Any]:
    """Return what the cache holds of an answer: the question, the answer, and its times in ms."""
    return {
        "asked": request.asked,
        "nodeid": request.nodeid,
        "answer": answer.body,
        "latency_ms": round(answer.latency_ms, 1),
        "ttft_ms": None if answer.ttft_ms is None else round(answer.ttft_ms, 1),
        "pieces": list(answer.pieces),
    }


def reply_of(request: Request, entry: dict[str, Any], *, cached: bool = False) -> Reply | None:
    """Return an entry's reply, or None when the entry holds no answer to the request; entries are untrusted."""
    try:
        body = check_answer(request, entry.get("answer"))
    except (wire.BadAnswer, Refused, KeyError, TypeError, AttributeError):
        return None
    return read_reply(request, body, entry, cached=cached)


def read_reply(
    request: Request, body: dict[str, Any], entry: dict[str, Any], *, attempts: int = 0, cached: bool = False
) -> Reply:
    """Return the reply that an answer's body, as `check_answer` returned it, and the times in its entry make."""
    latency_ms, ttft_ms = _time(entry.get("latency_ms")) or 0.0, _time(entry.get("ttft_ms"))
    usage = wire.usage_of(body)
    chat = request.endpoint == "chat"
    message = wire.message_of(body) if chat else {}
    return Reply(
        text=wire.text_of(message.get("content")),
        model=str(body.get("model") or request.model),
        finish_reason=wire.finish_reason_of(body) if chat else None,
        usage=usage,
        latency_ms=latency_ms,
        ttft_ms=ttft_ms,
        tokens_per_second=_tokens_per_second(body, usage, latency_ms, ttft_ms),
        attempts=attempts,
        cached=cached,
        reasoning=wire.reasoning_of(message),
        tool_calls=wire.tool_calls_of(message),
        raw=body,
    )


def is_cut_thinking(reply: Reply) -> bool:
    """Tell whether the tokens ran out before the answer began."""
    return not reply.text and not reply.tool_calls and reply.finish_reason == "length"


def pieces_of(entry: dict[str, Any], text: str) -> list[str]:
    """Return the text in the pieces it came in, as far as the entry tells them."""
    lengths = entry.get("pieces")
    if (
        not isinstance(lengths, list)
        or not all(isinstance(n, int) and n > 0 for n in lengths)
        or sum(lengths) != len(text)
    ):
        return [text] if text else []
    ends = list(accumulate(lengths))
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def prompt_texts(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request that no message may quote, longest first; short ones would hit ordinary words."""
    texts = [wire.text_of(message.get("content")) for message in body.get("messages", ()) if isinstance(message, dict)]
    texts += [text for text in body.get("input", ()) if isinstance(text, str)]
    return sorted((text for text in texts if len(text) >= _SHORTEST_PROMPT), key=len, reverse=True)


def prompt_chars(body: dict[str, Any]) -> int:
    """Return the characters of all text in a request's messages or inputs."""
    chars = 0
    for message in body.get("messages", ()):
        if isinstance(message, dict):
            chars += len(wire.text_of(message.get("content")))
    for text in body.get("input", ()):
        if isinstance(text, str):
            chars += len(text)
    return chars


def _time(value: object) -> float | None:
    known = isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= value <= _LONGEST_MS
    return float(value) if known else None  # type: ignore[arg-type]  # known to be a number


def _tokens_per_second(
    body: dict[str, Any], usage: dict[str, Any], latency_ms: float, ttft_ms: float | None
) -> float | None:
    """Return what the server measured, else the tokens after the first by the time after the first."""
    for block, name in (("timings", "predicted_per_second"), ("stats", "tokens_per_second")):
        measured = body[block].get(name) if isinstance(body.get(block), dict) else None
        if isinstance(measured, _NUMBER) and 0 < measured < 1e6:  # noqa: PLR2004  # anything above is a clock's zero
            return float(measured)
    tokens = wire.token_count(usage, "completion_tokens")
    if tokens is None or tokens < 2 or ttft_ms is None or latency_ms - ttft_ms < _LEAST_SPAN_MS:  # noqa: PLR2004
        return None
    return (tokens - 1) / (latency_ms - ttft_ms) * 1000
