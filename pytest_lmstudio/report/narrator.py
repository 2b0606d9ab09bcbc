"""What is said on the terminal while a run is on: events in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.history import number
from pytest_lmstudio.report import figures
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.record.events import Event

#: A model that is loaded within this is not worth a line, seconds.
PATIENCE_S = 5.0
_WHO = "LM Studio:"
_NAME_CHARS = 100


class Narrator:
    """Tells what makes a run wait: pauses of the breaker, and the load of a model.

    Each line is plain text without control characters.
    """

    #: The events that it wants to hear of.
    EVENTS = frozenset({"breaker_open", "breaker_closed", "model_load_start", "model_load_end"})

    def __init__(self) -> None:
        self._loading_since_s: dict[str, float] = {}
        self._told: set[str] = set()

    def take(self, event: Event, now_s: float) -> Iterator[str]:
        """Yield what is to be said when an event is heard of at `now_s`, seconds of any clock that only goes on."""
        match event["event"]:
            case "breaker_open":
                yield _opened(event)
            case "breaker_closed":
                yield f"{_WHO} it answers again, going on after {_seconds(event, 'paused_s')}"
            case "model_load_start":
                self._loading_since_s.setdefault(_name(event), now_s)
            case "model_load_end":
                yield from self._loaded(event, now_s)

    def due(self, now_s: float) -> Iterator[str]:
        """Yield what is to be said because time has passed."""
        for model, since_s in self._loading_since_s.items():
            if model not in self._told and now_s - since_s >= PATIENCE_S:
                self._told.add(model)
                yield f"{_WHO} loading {model} ..."

    @staticmethod
    def interrupted(in_flight: int, limit_s: float) -> str:
        """Return what is said when the run is interrupted, while requests are in flight that get some seconds more."""
        calls, them = figures.counted(in_flight, "call"), "it" if in_flight == 1 else "them"
        has = "has" if in_flight == 1 else "have"
        left = figures.duration(limit_s * 1000)
        return f"{_WHO} interrupted, {calls} in flight {has} {left} to end; Ctrl-C ends {them} now"

    def _loaded(self, event: Event, now_s: float) -> Iterator[str]:
        model = _name(event)
        since_s = self._loading_since_s.pop(model, now_s)
        if model in self._told:
            self._told.discard(model)
            loaded = f"{_WHO} {model} is loaded, after {figures.duration(round(now_s - since_s) * 1000)}"
            yield f"{_WHO} {model} did not load ({_kind(event)})" if event.get("error_kind") else loaded


def _opened(event: Event) -> str:
    kind, pauses, most = _kind(event), _count(event, "pauses"), _count(event, "most_pauses")
    if event.get("gave_up"):
        return (
            f"{_WHO} no answer after {pauses} pauses ({kind}), the remaining calls fail at once: "
            "look at the server, then run again"
        )
    failures, why = _count(event, "failures"), f"a network error ({kind})"
    if pauses > 1:
        why = f"still no answer ({kind})"
    elif failures > 1:
        why = f"{failures} network errors in a row, the last one {kind}"
    return f"{_WHO} {why}: pausing {_seconds(event, 'pause_s')} (pause {pauses} of {most}) ..."


def _kind(event: Event) -> str:
    return printable(event.get("error_kind") or "unknown", limit=_NAME_CHARS)


def _name(event: Event) -> str:
    return printable(event.get("model"), limit=_NAME_CHARS)


def _count(event: Event, name: str) -> int:
    return int(number(event.get(name)) or 0)


def _seconds(event: Event, name: str) -> str:
    return figures.duration((number(event.get(name)) or 0.0) * 1000)
