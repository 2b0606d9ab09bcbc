"""What a row of the diagnosis is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, CallError, Evidence

    Detect = Callable[[Evidence], "Seen | None"]


class Seen(NamedTuple):
    """A symptom that a run shows.

    Attributes:
        evidence: one line, in numbers of this run.
        blamed: the failures that it is about; none where nothing failed.
        fix: what to change, where the run's numbers say it better than the row; None leaves the row's.
        cause: the same for what it comes from.
    """

    evidence: str
    blamed: Sequence[AttemptFacts | CallError] = ()
    fix: str | None = None
    cause: str | None = None


class Elsewhere(NamedTuple):
    """What a row says of a server that is not LM Studio, and has none of its commands; what is empty is the same."""

    check: str = ""
    fix: str = ""
    cause: str = ""


class Row(NamedTuple):
    """One symptom.

    Attributes:
        symptom: what is seen.
        cause: what it most likely comes from.
        check: how to make sure.
        fix: what to change, by the name of its option or environment variable.
        detect: returns what is seen of it, None when the run does not show the symptom.
        hint: whether it is a remark about a run that may well be all right.
        view: whether it is but another view of failures that rows before it may have explained.
        elsewhere: what else it says where the server is not LM Studio.
    """

    symptom: str
    cause: str
    check: str
    fix: str
    detect: Detect
    hint: bool = False
    view: bool = False
    elsewhere: Elsewhere = Elsewhere()
