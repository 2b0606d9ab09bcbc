"""Hooks that users may implement in a conftest or a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio.engine.retry import RetryStrategy


@pytest.hookspec(firstresult=True)
def pytest_lmstudio_retry_strategy(name: str) -> RetryStrategy | None:
    """Return the strategy of a name given as ``--lmstudio-retry-strategy``, or None.

    A strategy takes a `pytest_lmstudio.Retry` and returns the seconds to wait before the next attempt, a number from 0
    up. It is called on the engine's event loop, so it must not wait itself. See docs/retries.md::

        def pytest_lmstudio_retry_strategy(name):
            if name == "linear":
                return lambda retry: retry.base_s * retry.attempt
    """


def own_strategy(config: pytest.Config, name: str) -> RetryStrategy | None:
    """Return the strategy that a hook knows by this name, None when no hook does.

    Raises:
        pytest.UsageError: a hook raised, or returned something that cannot be called.
    """
    from pytest_lmstudio.engine.retry import OwnStrategy, told

    subject = f"the hook pytest_lmstudio_retry_strategy, asked for {name!r},"
    try:
        found = config.hook.pytest_lmstudio_retry_strategy(name=name)
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises
        msg = f"{subject} raised {told(error)}"
        raise pytest.UsageError(msg) from None
    if found is None:
        return None
    if not callable(found):
        msg = f"{subject} returned a value of type {type(found).__name__}; make it return a function that takes a Retry"
        raise pytest.UsageError(msg)
    return OwnStrategy(name, found)
