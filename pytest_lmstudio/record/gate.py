"""The gate: whether so much was lost that the run proves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# A limit is what was written (5 %, 33.3 %), whatever binary fractions made of it: so many digits tell it.
_WRITTEN_DIGITS = 12


class Gate(NamedTuple):
    """The gate's verdict.

    Attributes:
        max_error_rate: the limit, 0 to 1.
        failed: None when it was not judged, since the run was interrupted.
        reason: one line that says why.
    """

    max_error_rate: float
    failed: bool | None
    reason: str


def judge(
    *,
    max_error_rate: float,
    calls_sent: int,
    calls_failed: int,
    tests: int = 0,
    tests_lost: int = 0,
    categories: Iterable[str] = (),
    interrupted: bool = False,
    unknown: str | None = None,
) -> Gate:
    """Judge a run: it fails when the share of calls lost, or of LM tests lost, is above the limit.

    Args:
        max_error_rate: the limit, 0 to 1; a share equal to it is tolerated.
        calls_sent: calls that needed the server.
        calls_failed: those of them that got no answer.
        tests: LM tests that ran.
        tests_lost: those of them that were lost to a network error.
        categories: those of the run's errors.
        interrupted: whether the run was cut short, so that its shares mean nothing.
        unknown: why calls may be missing in these numbers, None when all are there.
    """
    if interrupted:
        return Gate(max_error_rate, None, "the run was interrupted")
    limit = percent(max_error_rate)
    calls = f"{calls_failed} of {calls_sent} call{'' if calls_sent == 1 else 's'} {fate(categories)}"
    rate = f"error rate {_share(calls_failed, calls_sent, max_error_rate)} ({calls})"
    lost = f"{_share(tests_lost, tests, max_error_rate)} of the LM tests lost ({tests_lost} of {tests})"
    reasons = []
    if _above(calls_failed, calls_sent, max_error_rate):
        reasons.append(f"{rate} is above the limit of {limit}")
    if _above(tests_lost, tests, max_error_rate):
        reasons.append(f"{lost} is above the limit of {limit}")
    if unknown is not None:
        reasons.append(f"{unknown}, so nobody knows how many calls were lost")
    if reasons:
        return Gate(max_error_rate, True, "; ".join(reasons))  # noqa: FBT003  # a field, named by its class
    if not calls_sent:
        return Gate(max_error_rate, False, "no call was sent to the server")  # noqa: FBT003  # the same
    return Gate(max_error_rate, False, f"{rate} is within the limit of {limit}")  # noqa: FBT003  # the same


def fate(categories: Iterable[str]) -> str:
    """Return what is said of calls without an answer: ``lost``, or ``failed`` when not only the network was to blame.

    Args:
        categories: those of the run's errors.
    """
    return "lost" if set(categories) <= {"network"} else "failed"


def percent(rate: float, digits: int = 4) -> str:
    """Return a rate as a percentage with no more decimals than it needs: ``5%``, ``2.5%``."""
    return f"{round(rate * 100, digits):g}%"


def _share(part: int, whole: int, limit: float) -> str:
    """Return a share with one decimal, or as many as tell it from the limit; none and all need no decimals."""
    share = part / whole if whole else 0.0
    if share in {0, 1}:
        return f"{share:.0%}"
    for digits in (1, 2, 3, 4):
        text = f"{share * 100:.{digits}f}%"
        if round(share * 100, digits) != round(limit * 100, digits):
            return text
    return f"{share * 100:.1f}%"


def _above(part: int, whole: int, limit: float) -> bool:
    if not part:
        return False
    from fractions import Fraction  # loaded by runs that lost something

    return Fraction(part, whole) > Fraction(f"{limit:.{_WRITTEN_DIGITS}g}")
