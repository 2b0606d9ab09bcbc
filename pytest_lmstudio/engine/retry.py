"""Whether a failed attempt is made again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.classify import Failure
    from pytest_lmstudio.errors import ErrorKind, Phase

#: No back-off is longer: past it a person would rather see the failure.
MOST_BACKOFF_S = 60.0
#: A Retry-After above this is not waited for, and the call fails.
MOST_RETRY_AFTER_S = 120.0
_MOST_EXPONENT = 30


@dataclass(frozen=True, slots=True)
class Retry:
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
    random: Callable[[], float] = field(default=random.random, compare=False)


class RetryStrategy(Protocol):
    """Chooses the wait before the next attempt."""

    def __call__(self, retry: Retry, /) -> float:
        """Return seconds."""
        ...


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
    """Whether to try again, and after how many seconds."""

    again: bool
    wait_s: float


def decide(failure: Failure, retry: Retry, *, retries: int, strategy: RetryStrategy) -> Decision:
    """Return whether the call goes on after a failed attempt.

    Retry-After is obeyed up to 120 s; a longer one ends the call, since a test run cannot wait for it.
    """
    asked_s = failure.retry_after_s or 0.0
    if not failure.retried or retry.attempt > retries or asked_s > MOST_RETRY_AFTER_S:
        return Decision(again=False, wait_s=0.0)
    wait_s = min(max(0.0, float(strategy(retry))), MOST_BACKOFF_S)
    return Decision(again=True, wait_s=max(wait_s, asked_s))
