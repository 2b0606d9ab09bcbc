"""Whether a failed attempt is made again, and after how long."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from traceback import TracebackException, extract_tb
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.errors import ErrorKind, Phase

#: No back-off is longer: past it a person would rather see the failure.
MOST_BACKOFF_S = 60.0
#: A Retry-After above this is not waited for, and the call fails.
MOST_RETRY_AFTER_S = 120.0
_MOST_EXPONENT = 30
#: How often a call in a long back-off looks whether there is still a use in it.
_LOOK_S = 1.0


class Retry(NamedTuple):
    """What a strategy knows when it chooses the wait.

    Attributes:
        attempt: the number of the attempt that failed, 1 for the first.
        kind: why it failed.
        phase: how far it got.
        base_s: the setting `backoff`, seconds.
        previous_s: the wait before, 0.0 after the first attempt.
        random: returns a float from 0 to 1.
    """

    attempt: int
    kind: ErrorKind
    phase: Phase
    base_s: float
    previous_s: float = 0.0
    random: Callable[[], float] = random.random


class RetryStrategy(Protocol):
    """Chooses the wait before the next attempt."""

    def __call__(self, retry: Retry, /) -> float:
        """Return seconds, from 0 up; more than 60 are taken as 60."""
        ...


class StrategyError(Exception):
    """A user's strategy gave no wait; the text says which one, and what it did instead."""


class OwnStrategy(NamedTuple):
    """A user's strategy, whose mistakes are told as theirs.

    Attributes:
        name: what the user calls it.
        strategy: what the hook returned.
    """

    name: str
    strategy: Callable[[Retry], object]

    def __call__(self, retry: Retry, /) -> float:
        """Return seconds.

        Raises:
            StrategyError: the strategy raised, or returned something that is no time to wait.
        """
        try:
            wait_s = self.strategy(retry)
        except BaseException as error:  # noqa: BLE001  # pytest.fail() is no Exception, and sys.exit() would end the loop
            raise StrategyError(self._text("raised", told(error))) from None
        if not isinstance(wait_s, int | float) or isinstance(wait_s, bool):
            shown = "None" if wait_s is None else f"a {type(wait_s).__name__}"
            raise StrategyError(self._text("returned", shown))
        if not 0 <= wait_s < float("inf"):
            raise StrategyError(self._text("returned", str(wait_s)))
        return float(min(wait_s, MOST_BACKOFF_S))

    def _text(self, did: str, what: str) -> str:
        return f"the retry strategy {self.name!r} of the hook pytest_lmstudio_retry_strategy {did} {what}"


def told(error: BaseException) -> str:
    """Return what a user's code raised, and where, on a line."""
    place = extract_tb(error.__traceback__)[-1]
    alone = TracebackException(type(error), error, None)
    alone.__notes__ = None  # they would come after what it says, which is the last line without them
    said = printable(list(alone.format_exception_only())[-1].strip(), limit=200)
    return f"{said} ({Path(place.filename).name}:{place.lineno})"


def exponential(retry: Retry) -> float:
    """Wait a random time up to ``base * 2 ** (attempt - 1)``, at most 60 s.

    "Full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return retry.random() * min(MOST_BACKOFF_S, retry.base_s * 2.0 ** min(retry.attempt - 1, _MOST_EXPONENT))


def decorrelated(retry: Retry) -> float:
    """Wait a random time from base to three times the wait before, at most 60 s.

    "Decorrelated jitter" of the same article.
    """
    most = max(retry.base_s, retry.previous_s * 3 or retry.base_s * 3)
    return min(MOST_BACKOFF_S, retry.base_s + retry.random() * (most - retry.base_s))


STRATEGIES: dict[str, RetryStrategy] = {"exponential": exponential, "decorrelated": decorrelated}


class Decision(NamedTuple):
    """Whether to try again, after how many seconds, and what is wrong with the strategy."""

    again: bool
    wait_s: float = 0.0
    problem: str = ""


def decide(failure: Failure, retry: Retry, *, retries: int, strategy: RetryStrategy) -> Decision:
    """Return whether the call goes on after a failed attempt.

    Retry-After is obeyed up to 120 s; a longer one ends the call, since a test run cannot wait for it.
    """
    asked_s = failure.retry_after_s or 0.0
    if not failure.retried or retry.attempt > retries or asked_s > MOST_RETRY_AFTER_S:
        return Decision(again=False)
    try:
        return Decision(again=True, wait_s=max(strategy(retry), asked_s))
    except StrategyError as error:
        return Decision(again=False, problem=str(error))


async def pause(wait_s: float, useful: Callable[[], bool]) -> None:
    """Wait, but no longer than there is a use in it: the run may end, and a Retry-After be two minutes."""
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0 and useful():  # noqa: ASYNC110  # no event of ours is set in another process
        await asyncio.sleep(min(left_s, _LOOK_S))
