"""The tables of the page: counts, rates, times, errors, models, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lmstudio.errors import KINDS, ErrorKind
from pytest_lmstudio.record.gate import percent
from pytest_lmstudio.record.history import number
from pytest_lmstudio.report import figures
from pytest_lmstudio.report.html_markup import Child, Markup, escaped, pairs, prose, table, tag
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts

    Report = Mapping[str, Any]

_OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "error": "error",
    "lm_error": "lost",
    "skipped": "skipped",
    "xfailed": "xfailed",
    "xpassed": "xpassed",
}
_CALLS = {
    "sent": "sent",
    "ok": "answered",
    "failed": "failed",
    "cached": "from the cache",
    "coalesced": "shared with an equal one",
    "abandoned": "abandoned",
}
_ATTEMPTS = {
    "total": "made",
    "ok": "answered",
    "failed": "failed",
    "retries": "retries",
    "disconnects": "disconnected",
    "stale_reconnects": "connections renewed",
}
_SLOWEST = 10
_MESSAGE_CHARS = 200
_SECONDS = frozenset({"timeout", "first_token_timeout", "inter_token_timeout", "backoff", "latency_threshold", "wait"})
# Where files lie is told by machine, not by choice.
_PLACES = frozenset({"dir", "report", "html"})


def outcomes(tests: Mapping[str, int]) -> str:
    """Return how many tests had which outcome: ``3 passed, 1 lost``."""
    return ", ".join(f"{tests[name]:,} {word}" for name, word in _OUTCOMES.items() if tests[name]) or "none"


def cards(report: Report) -> Markup:
    """Return the counts of a run, a card for each subject."""
    groups = (
        ("Calls", [(word, figures.amount(report["calls"][name])) for name, word in _CALLS.items()]),
        ("Attempts", [(word, figures.amount(report["attempts"][name])) for name, word in _ATTEMPTS.items()]),
        ("Tests", [(word, figures.amount(report["tests"][name])) for name, word in _OUTCOMES.items()]),
        ("Cache", _cache(report["cache"])),
        ("Tokens and prompts", _sizes(report)),
        ("Load", _load(report)),
    )
    return tag(
        "div", *(tag("div", tag("h3", name), pairs(rows), class_="card") for name, rows in groups), class_="cards"
    )


def _cache(cache: Mapping[str, Any]) -> list[tuple[str, Child]]:
    counts: list[tuple[str, Child]] = [
        (name, figures.amount(cache[name])) for name in ("hits", "misses", "stores", "evictions")
    ]
    entries = figures.amount(cache["entries"])
    return [*counts, ("entries", f"{entries} of {figures.amount(cache['size_limit'])}")]


def _sizes(report: Report) -> list[tuple[str, Child]]:
    chars, tokens = report["prompt_chars"], report["tokens"]
    return [
        ("tokens in", figures.amount(tokens["in"])),
        ("tokens out", figures.amount(tokens["out"])),
        ("prompt characters, p50", figures.amount(chars["p50"])),
        ("prompt characters, p95", figures.amount(chars["p95"])),
        ("longest prompt, characters", figures.amount(chars["max"])),
    ]


def _load(report: Report) -> list[tuple[str, Child]]:
    load, breaker, lost = report["concurrency"], report["breaker"], report["lost"]
    return [
        ("most in flight", f"{load['peak_in_flight']} of {load['limit']}"),
        ("limit lowered", figures.counted(load["reductions"], "time")),
        ("breaker paused", figures.counted(breaker["trips"], "time")),
        ("paused in all", figures.duration(breaker["paused_s"] * 1000)),
        ("requests cut off", figures.amount(lost["requests_without_outcome"])),
        ("workers crashed", figures.amount(lost["workers_crashed"])),
    ]


def rates(report: Report) -> Markup | None:
    """Return the rates of a run, None when nothing was sent."""
    found = report["rates"]
    if found["error_rate"] is None:
        return None
    limit = percent(report["gate"]["max_error_rate"])
    none = figures.UNKNOWN
    return table(
        "Shares of what was sent to the server",
        ("Rate",),
        ("Share", "95% interval", "Limit"),
        (
            ("Calls that failed", figures.rate(found["error_rate"]), figures.interval(found["error_rate_ci95"]), limit),
            ("Attempts disconnected or timed out", figures.rate(found["disconnect_rate"]), none, none),
            ("First attempts that failed", figures.rate(found["first_attempt_failure_rate"]), none, none),
        ),
    )


def times(report: Report) -> Markup | None:
    """Return percentiles of answers, None when there was none."""
    latency, first, speed = report["latency_ms"], report["ttft_ms"], report["tokens_per_second"]
    if not latency["count"]:
        return None
    names = ("p50", "p95", "p99", "mean", "max")
    return table(
        f"{figures.counted(latency['count'], 'answer')}, without the cached ones",
        ("",),
        names,
        (
            ("Latency", *(figures.duration(latency[name]) for name in names)),
            ("First token", *(figures.duration(first.get(name)) for name in names)),
            ("Tokens per second", *(figures.amount(speed.get(name), 1) for name in names)),
        ),
    )


def answers(calls: Sequence[CallFacts]) -> Iterator[tuple[CallFacts, AttemptFacts]]:
    """Yield every attempt that brought an answer which a test waited for, with its call."""
    for call in calls:
        if call.outcome != "abandoned":
            yield from ((call, attempt) for attempt in call.attempts if attempt.outcome == "ok")


def slowest(calls: Sequence[CallFacts]) -> Markup | None:
    """Return the slowest answers, None when there was none."""
    ranked = sorted(answers(calls), key=lambda found: -(found[1].latency_ms or 0.0))[:_SLOWEST]
    return table(
        "Slowest answers",
        ("Test", "Model"),
        ("Latency", "First token", "Tokens out", "Prompt characters", "Attempt"),
        [
            (
                call.nodeid or "(no test)",
                call.model,
                figures.duration(attempt.latency_ms),
                figures.duration(number(attempt.result.get("ttft_ms"))),
                figures.amount(number(attempt.result.get("tokens_out"))),
                figures.amount(call.prompt_chars),
                attempt.number,
            )
            for call, attempt in ranked
        ],
    )


def errors(report: Report) -> Markup | None:
    """Return errors by kind with what each one means, None when there was none."""
    return table(
        "Errors of attempts, and of calls that made none",
        ("Kind", "Category", "The server", "What to do"),
        ("Errors",),
        [(kind, *_meaning(kind), count) for kind, count in report["errors_by_kind"].items()],
    )


def _meaning(kind: str) -> tuple[Child, Child, Child]:
    if kind not in set(ErrorKind):
        return (figures.UNKNOWN,) * 3
    spec = KINDS[ErrorKind(kind)]
    return spec.category, spec.title, prose(spec.advice)


def lost_calls(calls: Sequence[CallFacts]) -> Markup | None:
    """Return the calls that failed, None when none did."""
    return table(
        "Calls without an answer",
        ("Test", "Model", "Error", "Message"),
        ("Attempts", "Last took"),
        [
            (
                call.nodeid or "(no test)",
                call.model,
                call.kind,
                escaped(_message(call), _MESSAGE_CHARS),
                len(call.attempts),
                figures.duration(call.attempts[-1].latency_ms if call.attempts else None),
            )
            for call in calls
            if call.outcome == "failed"
        ],
    )


def _message(call: CallFacts) -> str:
    """Return what the last error of a call said."""
    if call.errors:
        return call.errors[-1].message
    return str(call.attempts[-1].result.get("message") or "") if call.attempts else ""


def models(report: Report) -> Markup | None:
    """Return the models that were asked, None when none was."""
    return table(
        "Models that were asked",
        ("Model",),
        ("Calls", "Sent", "Failed", "Error rate", "Latency p50", "Latency p95"),
        [
            (
                name,
                figures.amount(model["calls"]),
                figures.amount(model["sent"]),
                figures.amount(model["failed"]),
                figures.rate(model["error_rate"]),
                figures.duration(model["latency_ms"]["p50"]),
                figures.duration(model["latency_ms"]["p95"]),
            )
            for name, model in report["by_model"].items()
        ],
    )


def server(report: Report) -> Markup:
    """Return the server and its models, those that are loaded or were asked before others."""
    found = report["server"]
    used = report["by_model"]
    ranked = sorted(found["models"], key=lambda model: (model["id"] not in used, not model["loaded"]))
    about = [
        ("Address", found["url"]),
        ("Server", " ".join(str(part) for part in (found["kind"], found["version"]) if part) or figures.UNKNOWN),
        ("Reachable", {True: "yes", False: "no"}.get(found["reachable"], "not looked for")),
        *([("Problem", found["problem"])] if found["problem"] else []),
    ]
    listed = table(
        "Models that the server has",
        ("Model", "Type", "Quantization", "Loaded"),
        ("Context length", "At once"),
        [
            (
                model["id"],
                _known(model["type"]),
                _known(model["quantization"]),
                {True: "yes", False: "no"}.get(model["loaded"], figures.UNKNOWN),
                _known(model["context_length"]),
                _known(model["parallel"]),
            )
            for model in ranked
        ],
        most=20,
    )
    return tag("div", tag("article", pairs(about)), listed)


def settings(report: Report) -> Markup | None:
    """Return every setting, those that differ from their default in bold."""
    defaults = Settings().as_dict()
    return table(
        "Bold ones differ from their default",
        ("Setting", "Value", "Default"),
        (),
        [_setting(name, value, defaults.get(name)) for name, value in report["settings"].items()],
    )


def _setting(name: str, value: object, default: object) -> tuple[Child, Child, Child]:
    shown = _set_to(name, value)
    if name in _PLACES:
        return name, shown, ""
    return name, tag("strong", shown) if value != default else shown, _set_to(name, default)


def _set_to(name: str, value: object) -> str:
    """Return a setting's value with its unit."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or figures.UNKNOWN
    if isinstance(value, float) and name in _SECONDS:
        return f"{value:g} s"
    if isinstance(value, float) and name == "max_error_rate":
        return percent(value)
    return figures.UNKNOWN if value is None or value == "" else str(value)


def _known(value: Child) -> Child:
    return figures.UNKNOWN if value is None else value
