"""What is done at its first use: attributes worked out once, whichever thread comes first, and modules loaded late."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def loading() -> Iterator[None]:
    """Load modules without a search for garbage in between.

    They make thousands of objects and no garbage: a dozen searches in vain, and sooner the one through all that pytest
    holds, which takes tens of milliseconds.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


if TYPE_CHECKING:
    once_property = cached_property
else:

    class once_property(cached_property):  # noqa: N801  # a decorator
        """A `cached_property` that two threads cannot both work out; Python's own has had no lock since 3.12.

        The locks are taken in the order in which attributes need each other, which has no circles.
        """

        def __set_name__(self, owner: type[Any], name: str) -> None:
            """Take the attribute's name."""
            super().__set_name__(owner, name)
            self._lock = RLock()

        def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
            """Return the value; only until it is known is this called at all."""
            if instance is None:
                return self
            with self._lock:
                return super().__get__(instance, owner)
