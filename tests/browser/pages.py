"""The pages that are looked at: of a good run, one over its budget, one that sent nothing, one of a thousand calls."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.report.html import OfTests, render
from pytest_lmstudio.report.html_tests import outcomes_of
from tests.unit.record.logs import cached, error, event, preflight, report_of, request, success

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.report.texts import Parts

NONE = dict.fromkeys(("passed", "failed", "error", "lm_error", "skipped", "xfailed", "xpassed"), 0)
_COUNTRIES = ("France", "Peru", "Japan", "Kenya", "Norway", "Nepal", "Chile", "Ghana", "Fiji", "Malta")
_MODELS = ("qwen3-4b-instruct", "gemma-3-12b-it")
_SLOT_MS = 1500.0


def _ended(nodeid: str, outcome: str, at_ms: float) -> Event:
    return event("test_end", at_ms, nodeid=nodeid, outcome=outcome, llm=True, ran=True)


def _recorded(count: int, failing: float, *, seed: int = 7) -> list[Event]:
    """Return a run of four workers, of which this share of attempts fails; a failed one is tried once more."""
    chance, events = random.Random(seed), [preflight()]
    free_ms = {f"gw{n}": 0.0 for n in range(4)}
    for n in range(count):
        worker = min(free_ms, key=free_ms.__getitem__)
        nodeid = f"tests/test_capitals.py::test_capital[{chance.choice(_COUNTRIES)}-{n}]"
        call = {"nodeid": nodeid, "worker": worker, "model": chance.choice(_MODELS)}
        outcome = "lm_error"
        for attempt in (1, 2):
            waited_ms, start_ms = chance.expovariate(1 / 300), free_ms[worker]
            start_ms += waited_ms
            lasts_ms = chance.lognormvariate(7, 0.4)
            chars = {"prompt_chars": chance.randrange(80, 900), "waited_ms": waited_ms}
            events.append(request(f"c{n}", start_ms, attempt, **chars, **call))
            if chance.random() >= failing:
                done = {"latency_ms": lasts_ms, "ttft_ms": lasts_ms / 4, "tokens_out": chance.randrange(20, 200)}
                events.append(success(f"c{n}", start_ms + lasts_ms, attempt, **done, **call))
                outcome = "failed" if failing and chance.random() < 0.05 else "passed"
            else:
                lasts_ms = 5000.0 if (timed_out := chance.random() < 0.5) else lasts_ms
                kind, phase = ("timeout", "waiting") if timed_out else ("disconnect", "receiving")
                again = {"retry_in_ms": 500 if attempt == 1 else None, "phase": phase, "latency_ms": lasts_ms}
                said = "5 s passed before the answer was whole" if timed_out else "the server closed the connection"
                events.append(error(f"c{n}", kind, start_ms + lasts_ms, attempt, message=said, **again, **call))
            free_ms[worker] = start_ms + lasts_ms
            if outcome != "lm_error":
                break
        events.append(_ended(nodeid, outcome, free_ms[worker]))
    return sorted(events, key=lambda one: str(one["ts"]))


def page(events: list[Event], *, texts: bool = False, interrupted: bool = False, version: str = "v1") -> str:
    """Return the page of a log, with texts of its calls."""
    ended, calls = outcomes_of(events), calls_of(events)
    outcomes = NONE | {word: list(ended.values()).count(word) for word in set(ended.values())}
    report = report_of(
        events, outcomes=outcomes, interrupted=interrupted, pipeline_version=version, llm_tests=len(ended),
        llm_tests_lost=outcomes["lm_error"], exit_status=int(outcomes["failed"] > 0),
    )  # fmt: skip
    return render(report, calls, OfTests(ended, {call.call_id: _parts(call.nodeid) for call in calls} if texts else {}))


def _parts(nodeid: str) -> Parts:
    asked = f"What is the capital of {nodeid.partition('[')[2].partition('-')[0]}?\nAnswer with <b>one</b> word."
    return [["system", "You answer with one word."], ["user", asked], ["reply", "Paris & London.\n\n```\n<pre>\n```"]]


def good() -> str:
    """Return a run in which everything went well."""
    return page(_recorded(120, 0.0), texts=True)


def over_budget() -> str:
    """Return a run that lost more than it may."""
    return page(_recorded(120, 0.35), texts=True, version="")


def empty() -> str:
    """Return a run that sent nothing to the server."""
    return page([cached(f"c{n}") for n in range(3)])


def thousand() -> str:
    """Return a run of a thousand calls, with their texts."""
    return page(_recorded(1000, 0.1), texts=True)


def long_names() -> str:
    """Return a run whose names are as long and as foreign as can be."""
    name = "tests/" + "very_long_folder_" * 9 + "/test_ü.py::test_🎉[" + "<script>alert(1)</script>" + "x" * 300 + "]"
    call: dict[str, Any] = {"nodeid": name, "model": "m" * 120, "worker": "gw1"}
    sent = [line for n in range(3) for line in (request(f"c{n}", n * _SLOT_MS, **call), success(f"c{n}", **call))]
    return page([preflight(id="m" * 120), *sent, _ended(name, "passed", 9000)])


#: Each page by its name.
PAGES: dict[str, Callable[[], str]] = {
    "good": good, "over-budget": over_budget, "empty": empty, "thousand": thousand, "long-names": long_names,
}  # fmt: skip
