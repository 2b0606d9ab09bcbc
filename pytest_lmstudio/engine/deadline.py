"""The hard limits of one attempt: on the whole of it, on the first token, and on the silence between two tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_lmstudio.errors import Limit


class Limits(NamedTuple):
    """How long an attempt may take, seconds.

    Attributes:
        attempt_s: from sending to the last byte, however slowly bytes drip.
        first_token_s: from sending to the first piece of text, reasoning or tool call of a stream; None is no limit.
        inter_token_s: from one such piece to the next; None is no limit.
    """

    attempt_s: float
    first_token_s: float | None = None
    inter_token_s: float | None = None


class Deadline:
    """One timeout over an attempt, which moves as the answer comes; cancelling is what makes the server stop.

    Leaving it raises `TimeoutError` when a limit has passed, like `asyncio.timeout`; `passed` tells which one.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._until_s = self._clock() + limits.attempt_s
        self._timeout = asyncio.timeout_at(self._until_s)
        self.passed: Limit = "attempt"

    async def __aenter__(self) -> Self:
        """Start the clock."""
        await self._timeout.__aenter__()
        self._allow("first_token", self._limits.first_token_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        await self._timeout.__aexit__(kind, error, trace)

    @property
    def left_s(self) -> float:
        """Return how long the attempt may still take, seconds."""
        return self._until_s - self._clock()

    def token_came(self) -> None:
        """Allow the next token as long as one may take."""
        self._allow("inter_token", self._limits.inter_token_s)

    def tokens_are_held_back(self) -> None:
        """Allow silence: the answer comes whole, or as a tool call, which LM Studio sends when it is complete."""
        if self.passed != "attempt":
            self._allow("attempt", None)

    def _allow(self, limit: Limit, most_s: float | None) -> None:
        until_s = self._until_s if most_s is None else self._clock() + most_s
        if until_s < self._until_s:
            self.passed = limit
            self._timeout.reschedule(until_s)
        elif self.passed != "attempt":
            self.passed = "attempt"
            self._timeout.reschedule(self._until_s)
