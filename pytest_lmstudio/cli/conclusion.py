"""What two runs with two timeouts tell of the cause of failures; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_lmstudio.cli.target import RESTART, remedy_of
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.report.figures import counted, duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    Report = Mapping[str, Any]

Cause = Literal["none", "timeout", "passing", "model", "slow", "connection", "setup"]
_MODEL = frozenset({
    ErrorKind.MODEL_LOST, ErrorKind.SERVER_ERROR, ErrorKind.INVALID_RESPONSE, ErrorKind.CONTEXT_OVERFLOW,
    ErrorKind.OUT_OF_MEMORY, ErrorKind.WRONG_MODEL, ErrorKind.BAD_REQUEST,
})  # fmt: skip
_SETUP = frozenset({
    ErrorKind.AUTH, ErrorKind.UNREACHABLE, ErrorKind.WRONG_URL, ErrorKind.NO_MODEL, ErrorKind.CONNECT,
})  # fmt: skip


class Conclusion(NamedTuple):
    """What is to be made of the runs.

    Attributes:
        cause: ``none``, nothing failed; ``timeout``, it was too short; ``passing``, what failed did not come back;
            ``model``, the model or its server fails; ``slow``, even the longer timeout is too short; ``connection``,
            connections break; ``setup``, the server cannot be asked at all.
        text: one or two sentences with the numbers.
        advice: what to do, or empty.
    """

    cause: Cause
    text: str
    advice: str

    @property
    def cured(self) -> bool:
        """Tell whether all is well, if only with the second settings."""
        return self.cause in {"none", "timeout", "passing"}


def conclude(first: Report, second: Report | None) -> Conclusion:
    """Return what follows from a run, and from the same one with a longer timeout and more retries."""
    if is_mute(first):
        return _uncured("setup", first, "no generation came through")
    if second is None or not (first["errors_by_kind"] or second["errors_by_kind"]):
        return _unhurt(first, second)
    if second["calls"]["failed"]:
        return _still_failing(second)
    return _cured(first, second)


def is_mute(first: Report) -> bool:
    """Tell whether the server could not be asked at all, so that no other settings can change anything."""
    # Without an attempt it was the list of models that did not come in time.
    kinds = _SETUP if first["attempts"]["total"] else _SETUP | {ErrorKind.TIMEOUT}
    return not first["calls"]["ok"] and kinds.issuperset(first["errors_by_kind"])


def _unhurt(first: Report, second: Report | None) -> Conclusion:
    sent = first["calls"]["sent"] + (second["calls"]["sent"] if second else 0)
    slowest = duration(max(report["latency_ms"]["max"] or 0.0 for report in (first, second) if report))
    return Conclusion("none", f"Nothing failed in {counted(sent, 'generation')}, the slowest took {slowest}.", "")


def _cured(first: Report, second: Report) -> Conclusion:
    cuts = first["errors_by_kind"].get(ErrorKind.TIMEOUT, 0)
    before_s, after_s = first["settings"]["timeout"], second["settings"]["timeout"]
    slowest_ms = second["latency_ms"]["max"] or 0.0
    advice = "Keep the settings of the second run."
    if cuts and slowest_ms > before_s * 1000:
        text = (
            f"The timeout was the cause: {counted(cuts, 'attempt')} did not end within {before_s:g} s. "
            f"With {after_s:g} s every prompt was answered, the slowest in {duration(slowest_ms)}."
        )
        return Conclusion("timeout", text, advice)
    again = second["attempts"]["failed"]
    how = f"{counted(again, 'attempt')} failed again, and retries made up for it" if again else "nothing failed again"
    limit = f", though no answer took longer than {before_s:g} s" if cuts else ""
    text = f"The trouble passed: {_failures(first) or 'nothing'} in the first run; in the second {how}{limit}."
    return Conclusion("passing", text, f"{advice} Should it come back, run this again with a larger -n.")


def _still_failing(second: Report) -> Conclusion:
    cause = _cause_of(second)
    timeout_s = second["settings"]["timeout"]
    what = {
        "model": "these are errors of the model or its server, which no timeout mends",
        "slow": f"not even {timeout_s:g} s are enough",
        "connection": "it is the connection that fails, whatever the timeout",
    }[cause]
    return _uncured(cause, second, f"{_lost(second)} failed with the second settings too: {what}")


def _uncured(cause: Cause, report: Report, what: str) -> Conclusion:
    kind = _most_frequent(report)
    look = "run `pytest-lmstudio doctor`; " if cause == "setup" else ""
    text = f"{what[0].upper()}{what[1:]} ({_failures(report)})."
    is_silent = cause == "setup" and kind is ErrorKind.TIMEOUT
    return Conclusion(cause, text, f"{look}{RESTART if is_silent else remedy_of(kind)}")


def _cause_of(report: Report) -> Cause:
    kind = _most_frequent(report)
    if kind is ErrorKind.TIMEOUT:
        return "slow"
    return "model" if kind in _MODEL else "connection"


def _most_frequent(report: Report) -> ErrorKind:
    return ErrorKind(max(report["errors_by_kind"], key=report["errors_by_kind"].__getitem__))


def _lost(report: Report) -> str:
    return f"{report['calls']['failed']} of {counted(report['calls']['sent'], 'generation')}"


def _failures(report: Report) -> str:
    return ", ".join(f"{kind} {number}x" for kind, number in report["errors_by_kind"].items())
