"""The limits of an attempt, on a clock that jumps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.engine.attempt import Answer, AttemptFailed, run_attempt
from pytest_lmstudio.engine.deadline import Deadline, Limits
from pytest_lmstudio.engine.response import Response
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.engine.wire import check_completion
from tests.unit.engine import virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pytest_lmstudio.engine.progress import Progress

FINISH = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = "data: [DONE]\n\n"
ROLE = 'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = 'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
THOUGHT = 'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm."}}]}\n\n'
COMMENT = ": still here\n\n"
CALL = (
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","type":"function",'
    '"function":{"name":"f","arguments":""}}]}}]}\n\n'
)
NEVER_S = 1e9


class Paced(Transport):
    """Sends pieces of one answer, each some seconds after the one before."""

    def __init__(self, pieces: Sequence[tuple[float, str]], *, stream: bool = True) -> None:
        self._pieces = pieces
        self._type = "text/event-stream" if stream else "application/json"
        self.hung_up = False

    async def send(self, *_: Any, progress: Progress, **__: Any) -> Response:
        """Answer at once with the head."""
        progress.fresh, progress.phase = True, "waiting"
        return Response(200, {"content-type": self._type}, self._body(), self._close)

    async def _body(self) -> AsyncIterator[bytes]:
        for wait_s, piece in self._pieces:
            await asyncio.sleep(wait_s)
            yield piece.encode()

    async def _close(self) -> None:
        self.hung_up = True


def told(pieces: Sequence[tuple[float, str]], limits: Limits, *, stream: bool = True) -> tuple[str, float]:
    """Make an attempt; return its text, or how it failed, and when that was, seconds."""

    async def work() -> tuple[str, float]:
        transport = Paced(pieces, stream=stream)
        try:
            outcome = await run_attempt(transport, "/", b"", limits=limits, check=check_completion)
        except AttemptFailed as failed:
            failure = failed.failure
            text = f"{failure.kind} {failure.phase} {failure.limit}: {failure.message}"
        else:
            text = said(outcome)
        assert transport.hung_up
        return text, round(asyncio.get_running_loop().time(), 3)

    return virtual.run(work())


def said(answer: Answer) -> str:
    """Return the text of an answer."""
    return str(answer.body["choices"][0]["message"]["content"])


def test_an_attempt_ends_at_its_limit_however_many_bytes_drip() -> None:
    drip = [(0.2, COMMENT)] * 1000
    assert told(drip, Limits(1.0)) == ("timeout receiving attempt: 1 s passed before the answer was whole", 1.0)


def test_tokens_that_never_end_end_at_the_limit_of_the_attempt() -> None:
    words = [(0.5, WORD)] * 1000
    limits = Limits(45.0, first_token_s=1.0, inter_token_s=1.0)
    assert told(words, limits) == ("timeout receiving attempt: 45 s passed before the answer was whole", 45.0)


def test_a_stream_that_never_begins_ends_at_the_first_tokens_limit() -> None:
    limits = Limits(45.0, first_token_s=10.0, inter_token_s=1.0)
    assert told([(NEVER_S, WORD)], limits) == ("timeout waiting first_token: 10 s passed before the first token", 10.0)


@pytest.mark.parametrize("sign", [ROLE, COMMENT], ids=["role", "comment"])
def test_what_brings_no_token_is_no_sign_of_life(sign: str) -> None:
    limits = Limits(45.0, first_token_s=10.0, inter_token_s=5.0)
    assert told([(1.0, sign)] * 100, limits) == (
        "timeout receiving first_token: 10 s passed before the first token",
        10.0,
    )
    assert told([(1.0, WORD), *[(1.0, sign)] * 100], limits) == (
        "timeout receiving inter_token: no further token came for 5 s",
        6.0,
    )


@pytest.mark.parametrize("token", [WORD, THOUGHT], ids=["text", "reasoning"])
def test_a_stream_that_dies_after_a_token_ends_soon(token: str) -> None:
    limits = Limits(300.0, first_token_s=None, inter_token_s=60.0)
    assert told([(100.0, token), (20.0, token), (NEVER_S, token)], limits) == (
        "timeout receiving inter_token: no further token came for 60 s",
        180.0,
    )


def test_tokens_may_come_slowly_as_long_as_they_come() -> None:
    limits = Limits(300.0, first_token_s=120.0, inter_token_s=5.0)
    assert told([(119.0, WORD), *[(4.9, WORD)] * 10, (4.9, FINISH + DONE)], limits) == ("word " * 11, 172.9)


def test_a_tool_call_may_be_held_back_until_it_is_whole() -> None:
    limits = Limits(300.0, first_token_s=5.0, inter_token_s=5.0)
    assert told([(1.0, CALL), (100.0, FINISH + DONE)], limits) == ("", 101.0)


def test_an_answer_that_comes_whole_has_no_first_token() -> None:
    body = '{"choices":[{"index":0,"message":{"role":"assistant","content":"Paris"},"finish_reason":"stop"}]}'
    assert told([(30.0, body)], Limits(45.0, first_token_s=1.0), stream=False) == ("Paris", 30.0)


def test_limits_on_tokens_never_lengthen_the_attempt() -> None:
    limits = Limits(2.0, first_token_s=10.0, inter_token_s=10.0)
    expected = "timeout receiving attempt: 2 s passed before the answer was whole"
    assert told([(1.0, WORD), (NEVER_S, WORD)], limits) == (expected, 2.0)


@pytest.mark.parametrize(
    ("rest", "ended_s"),
    [
        pytest.param([(NEVER_S, DONE)], 2.0, id="neither token counts nor the last event"),
        pytest.param([(0.5, DONE), (NEVER_S, "")], 1.75, id="no end of the body"),
        pytest.param([(0.5, DONE)], 1.5, id="all"),
        pytest.param([], 1.0, id="end without the last event"),
    ],
)
def test_what_follows_the_finish_reason_is_not_waited_for_long(rest: list[tuple[float, str]], ended_s: float) -> None:
    limits = Limits(45.0, first_token_s=5.0, inter_token_s=0.6)
    assert told([(0.5, WORD), (0.5, FINISH), *rest], limits) == ("word ", ended_s)


def test_an_answer_that_is_whole_just_before_the_limit_is_taken() -> None:
    assert told([(0.9, WORD + FINISH), (NEVER_S, DONE)], Limits(1.0)) == ("word ", 0.95)


def test_without_a_limit_passed_the_work_goes_on() -> None:
    async def work() -> str:
        async with Deadline(Limits(1.0, 0.5, 0.5)) as deadline:
            await asyncio.sleep(0.4)
            deadline.token_came()
            await asyncio.sleep(0.4)
        return deadline.passed

    assert virtual.run(work()) == "inter_token"
