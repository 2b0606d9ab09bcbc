"""The tests of the page: what each one asked, got and lost, those that went wrong first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.report import figures
from pytest_lmstudio.report.html_markup import Markup, escaped, multiline, prose, tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts
    from pytest_lmstudio.report.texts import Parts

#: Markup of all tests, characters; the page stays under 2 MB whatever it holds besides.
_MOST_CHARS = 1_000_000
_MOST_CALLS = 20
_MESSAGE_CHARS = 300
_NAME_CHARS = 200
#: In which order tests come, and how each outcome is called and looks.
_OUTCOMES = {
    "failed": ("failed", "bad"),
    "error": ("error", "bad"),
    "lm_error": ("lost", "warn"),
    "xpassed": ("xpassed", "warn"),
    "passed": ("passed", "good"),
    "xfailed": ("xfailed", "good"),
    "skipped": ("skipped", "quiet"),
}
_NO_TEXTS = "Prompts and replies are only in the page that a run writes itself, with --lmstudio-html-texts."
_UNKNOWN = ("no outcome", "quiet")
_CALLS = {
    "ok": "answered",
    "failed": "failed",
    "cached": "from the cache",
    "coalesced": "shared with an equal call",
    "abandoned": "left by its test",
}


def outcomes_of(events: Sequence[Event]) -> dict[str, str]:
    """Return how each LM test ended, by node id: its last word in the log."""
    ends = (event for event in events if event["event"] == "test_end")
    return {nodeid: str(event.get("outcome")) for event in ends if isinstance(nodeid := event.get("nodeid"), str)}


def tests(calls: Sequence[CallFacts], outcomes: Mapping[str, str], texts: Mapping[str, Parts]) -> Markup | None:
    """Return every test that made a call, folded, None when none did.

    Args:
        calls: of the run.
        outcomes: how tests ended, see `outcomes_of`.
        texts: what calls asked and were answered, by call id; empty when that is not to be shown.
    """
    by_test: dict[str, list[CallFacts]] = {}
    for call in calls:
        by_test.setdefault(call.nodeid, []).append(call)
    order = list(_OUTCOMES)
    ranked = sorted(by_test, key=lambda name: order.index(end) if (end := outcomes.get(name)) in order else len(order))
    shown = list(_within(_test(name, by_test[name], outcomes.get(name, ""), texts) for name in ranked))
    left_out = len(ranked) - len(shown)
    rest = tag("p", f"{figures.counted(left_out, 'more test')} not shown.", class_="quiet") if left_out else None
    hint = None if texts else tag("p", prose(_NO_TEXTS), class_="quiet")
    return tag("div", *shown, rest, hint) if shown else None


def _within(folded: Iterator[Markup]) -> Iterator[Markup]:
    left = _MOST_CHARS
    for one in folded:
        left -= len(one.encode())
        if left < 0:
            return
        yield one


def _test(name: str, calls: Sequence[CallFacts], outcome: str, texts: Mapping[str, Parts]) -> Markup:
    word, look = _OUTCOMES.get(outcome, _UNKNOWN)
    spent_ms = sum(attempt.latency_ms or 0.0 for call in calls for attempt in call.attempts)
    cost = f"{figures.counted(len(calls), 'call')}, {figures.duration(spent_ms)}"
    left_out = len(calls) - _MOST_CALLS
    return tag(
        "details",
        tag(
            "summary",
            tag("span", word, class_=f"outcome {look}"),
            " ",
            tag("span", escaped(name or "(no test)", _NAME_CHARS), class_="name"),
            " ",
            tag("span", cost, class_="quiet"),
        ),
        *(_call(number, call, texts.get(call.call_id, [])) for number, call in enumerate(calls[:_MOST_CALLS], 1)),
        tag("p", f"{figures.counted(left_out, 'more call')} not shown.", class_="quiet") if left_out > 0 else None,
    )


def _call(number: int, call: CallFacts, parts: Parts) -> Markup:
    said = f"Call {number}, {call.model}: {_CALLS[call.outcome]}"
    if call.kind is not None:
        said += f", {call.kind}"
    tried = [tag("li", _attempt(attempt)) for attempt in call.attempts]
    errors = [tag("li", escaped(f"{error.kind}: {error.message}", _MESSAGE_CHARS)) for error in call.errors]
    return tag(
        "div",
        tag("p", said),
        tag("ul", *tried, *errors, class_="plain") if tried or errors else None,
        *(_part(label, text) for label, text in parts),
        class_="call",
    )


def _attempt(attempt: AttemptFacts) -> Markup:
    after = f" after {figures.duration(attempt.latency_ms)}" if attempt.latency_ms is not None else ""
    if attempt.kind is None:
        return escaped(f"attempt {attempt.number}: {_CALLS.get(attempt.outcome, attempt.outcome)}{after}")
    phase = f" ({attempt.phase})" if attempt.phase else ""
    message = f": {attempt.message}" if attempt.message else ""
    return escaped(f"attempt {attempt.number}: {attempt.kind}{phase}{after}{message}", _MESSAGE_CHARS)


def _part(label: str, text: str) -> Markup:
    return tag("div", tag("p", label, class_="quiet"), tag("pre", multiline(text)), class_="text")
