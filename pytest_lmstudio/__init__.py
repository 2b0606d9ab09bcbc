"""Eval suites against a local model server: did the model answer wrongly, or did it not get to answer?

The public names are loaded on first use, so that pytest can load the plugin without paying for them.
"""

from __future__ import annotations

import atexit
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

    from pytest_lmstudio.client.alm import AsyncLM
    from pytest_lmstudio.client.lm import LM
    from pytest_lmstudio.engine.retry import Retry, RetryStrategy
    from pytest_lmstudio.errors import (
        ErrorKind,
        LMAuthError,
        LMCacheMissError,
        LMError,
        LMNetworkError,
        LMRequestError,
        LMSchemaError,
        LMTimeoutError,
    )
    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.reply import Reply
    from pytest_lmstudio.settings import Settings

__version__ = "0.1.0"

_HOMES = {
    "LM": "client.lm",
    "AsyncLM": "client.alm",
    "ErrorKind": "errors",
    "LMAuthError": "errors",
    "LMCacheMissError": "errors",
    "LMError": "errors",
    "LMNetworkError": "errors",
    "LMRequestError": "errors",
    "LMSchemaError": "errors",
    "LMTimeoutError": "errors",
    "ModelInfo": "records",
    "Reply": "reply",
    "Retry": "engine.retry",
    "RetryStrategy": "engine.retry",
    "Settings": "settings",
}

__all__ = [
    "LM",
    "AsyncLM",
    "ErrorKind",
    "LMAuthError",
    "LMCacheMissError",
    "LMError",
    "LMNetworkError",
    "LMRequestError",
    "LMSchemaError",
    "LMTimeoutError",
    "ModelInfo",
    "Reply",
    "Retry",
    "RetryStrategy",
    "Settings",
]


class _AsInstalled:
    """Finds this package's modules as they were installed.

    pytest compiles those of a plugin anew, to explain their asserts, and keeps the result. Where it cannot do that
    (`PYTHONDONTWRITEBYTECODE`, a folder that is read-only) every process of every run does all of it again, which
    takes most of a second.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Find a module of this package as Python does without any hook."""
        del target
        return PathFinder.find_spec(name, path) if name.startswith(f"{__name__}.") else None


sys.meta_path.insert(0, _AsInstalled)


@atexit.register
def _leave() -> None:
    """Be found no longer when Python ends: 3.11 keeps what is in that list, and all that it leads to, to the very last.

    What is freed only then takes a seventh of the time of an end more, in each worker.
    """
    if _AsInstalled in sys.meta_path:
        sys.meta_path.remove(_AsInstalled)


def __getattr__(name: str) -> object:
    """Load a public name."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
