"""One attempt at a time, as the engine makes it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import check_answer
from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, run_attempt
from pytest_lmstudio.engine.deadline import Limits
from pytest_lmstudio.engine.key import cache_key, question
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.records import CallOptions, Request

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = "/v1/chat/completions"
MODEL = "test-model"


def options(**given: Any) -> CallOptions:
    """Return how a call travels: quickly, uncached, without retries."""
    usual: dict[str, Any] = {"timeout_s": 10.0, "retries": 0, "backoff_s": 0.0, "cache": "off", "stream": True}
    return CallOptions(**(usual | given))


def request(text: str = "hello", *, number: int = 1, **given: Any) -> Request:
    """Return a call; the keywords are those of `options`."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    asked = question("", "chat", body, 0)
    how = options(**given)
    return Request(f"c{number}", "test_it.py::test_it", "chat", MODEL, body, asked, cache_key(asked), len(text), how)


async def attempt(
    transport: Transport,
    *,
    stream: bool = True,
    text: str = "hello",
    timeout_s: float = 10.0,
    first_token_s: float | None = None,
    inter_token_s: float | None = None,
    on_piece: Callable[[str], None] | None = None,
) -> Answer | AttemptFailed:
    """Make one attempt and return what came of it."""
    asked = request(text)
    content = wire.encode(asked.body, stream=stream)
    check = partial(check_answer, asked)
    try:
        limits = Limits(timeout_s, first_token_s, inter_token_s)
        return await run_attempt(transport, CHAT, content, limits=limits, check=check, on_piece=on_piece)
    except AttemptFailed as failed:
        return failed


def attempts(url: str, n: int = 1, **given: Any) -> list[Answer | AttemptFailed]:
    """Make attempts one after the other over one transport."""

    async def work() -> list[Answer | AttemptFailed]:
        transport = Transport(url, None)
        try:
            return [await attempt(transport, **given) for _ in range(n)]
        finally:
            await transport.close()

    return asyncio.run(work())


def told(outcome: Answer | AttemptFailed) -> str:
    """Return an outcome in short: the answer's text, or kind and phase of the failure."""
    if isinstance(outcome, Answer):
        return wire.text_of(wire.message_of(outcome.body).get("content")) or "no text"
    return f"{outcome.failure.kind} {outcome.failure.phase}"
