"""Failures: values that travel through the engine, until one becomes the error of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.errors import KINDS, ErrorKind

if TYPE_CHECKING:
    from pytest_lmstudio.errors import Category, Limit, Phase


class Failure(NamedTuple):
    """Why an attempt failed.

    Attributes:
        kind: the kind; the category follows from it unless `forgiven`.
        message: one line from the server or the client, not yet cleaned.
        phase: how far the attempt got.
        status: the HTTP status, or None when none came.
        retry_after_s: what the server asked to wait, or None.
        awaits_model: whether the next attempt should wait until the models list shows the model.
        shared_context: whether other requests in flight may have used the context up.
        limit: which limit of our own ended it, or None.
        forgiven: whether it counts as ``network`` although its kind does not.
    """

    kind: ErrorKind
    message: str
    phase: Phase = "receiving"
    status: int | None = None
    retry_after_s: float | None = None
    awaits_model: bool = False
    shared_context: bool = False
    limit: Limit | None = None
    forgiven: bool = False

    @property
    def category(self) -> Category:
        """Return ``auth``, ``network`` or ``other``."""
        return "network" if self.forgiven else KINDS[self.kind].category

    @property
    def may_still_compute(self) -> bool:
        """Tell whether the server may still be at work on the prompt, which it processes to its end."""
        return self.kind is ErrorKind.TIMEOUT and (self.phase == "waiting" or self.limit == "first_token")

    @property
    def retried(self) -> bool:
        """Tell whether another attempt can help."""
        return self.forgiven or KINDS[self.kind].retried


#: Why a call that an interrupt ended has no answer.
INTERRUPTED = Failure(ErrorKind.CANCELLED, "the run was interrupted", "waiting")


class Refused(Exception):
    """An answer, or the lack of one, that is a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
