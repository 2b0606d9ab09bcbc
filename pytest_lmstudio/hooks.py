"""Hooks that users may implement in a conftest or a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio.engine.retry import RetryStrategy


@pytest.hookspec(firstresult=True)
def pytest_lmstudio_retry_strategy(name: str) -> RetryStrategy | None:
    """Return the strategy of a name given as ``--lmstudio-retry-strategy``, or None.

    A strategy takes a `pytest_lmstudio.Retry` and returns the seconds to wait before the next attempt::

        def pytest_lmstudio_retry_strategy(name):
            if name == "linear":
                return lambda retry: retry.base_s * retry.attempt
    """
