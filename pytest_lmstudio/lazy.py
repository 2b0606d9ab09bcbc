"""Attributes worked out at their first use, once, whichever thread comes first."""

from __future__ import annotations

from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

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
