"""The section at the end of a run: verdict first, then what to do, then the numbers."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.diagnosis import HINTS
from pytest_lmstudio.record.gate import percent
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_LABEL = 14
_NARROWEST = 40
_LONGEST = 500
#: Symptoms that are shown with their causes; report.json holds all of them.
_SHOWN_IN_FULL = 3
#: Lost tests that are named at the end of a session.
_SHOWN_LOST = 10
#: A command is copied whole, so it stands on one line where it can; the character cannot be in printable text.
_COMMAND = re.compile(r"`[^`]{1,60}`")
_UNBROKEN = "\x00"
_RED = {"red": True, "bold": True}
_YELLOW = {"yellow": True}
_GREEN = {"green": True}
_BOLD = {"bold": True}


@dataclass(frozen=True, slots=True)
class Line:
    """One line to show.

    Attributes:
        text: without control characters and line end.
        markup: keyword arguments of pytest's ``write_line``, such as ``{"red": True}``.
    """

    text: str
    markup: dict[str, bool] = field(default_factory=dict)


def lines(report: Mapping[str, Any], *, width: int = 80, run_dir: str | Path | None = None) -> Iterator[Line]:
    """Yield the lines of a report, none for a run that made no call.

    Args:
        report: the report.
        width: columns to fill.
        run_dir: the run's folder as it is to be shown, None when nothing was written.
    """
    if not report["calls"]["total"]:
        return
    columns = max(width, _NARROWEST)
    yield from _verdict(report, columns)
    yield from _advice(report, columns)
    for label, text in _numbers(report):
        yield from _wrapped(f"{label:<{_LABEL}}", text, columns)
    yield from _escalation(report, columns, run_dir)
    if run_dir is not None:
        # A path is copied whole, so it is never wrapped.
        yield Line(f"{'report':<{_LABEL}}{printable(run_dir)}/report.json")
    yield from _hints(report, columns)


def lost_lines(tests: Sequence[tuple[str, str]]) -> Iterator[Line]:
    """Yield which tests were lost, and to what; a name is never wrapped, since it is copied whole.

    Args:
        tests: node id and error kind of each.
    """
    for nodeid, kind in tests[:_SHOWN_LOST]:
        name = printable(nodeid).encode("ascii", "backslashreplace").decode()
        yield Line(f"{'lost':<{_LABEL}}{name}: {printable(kind, 40)}")
    if len(tests) > _SHOWN_LOST:
        yield Line(f"{'':<{_LABEL}}and {len(tests) - _SHOWN_LOST} more")


def _verdict(report: Mapping[str, Any], width: int) -> Iterator[Line]:
    gate, calls, interval = report["gate"], report["calls"], report["rates"]["error_rate_ci95"]
    limit = percent(gate["max_error_rate"])
    likely = f"95% interval {_rate(interval[0])} to {_rate(interval[1])}" if interval else ""
    if gate["failed"]:
        yield from _wrapped("", f"gate FAILED: {gate['reason']}", width, _RED)
        if likely:
            yield Line(f"{'':<{_LABEL}}{likely}", dict(_RED))
    elif gate["failed"] is None:
        yield from _wrapped("", f"gate not judged: {gate['reason']}", width, _YELLOW)
    elif not calls["sent"]:
        yield from _wrapped("", f"gate passed: {gate['reason']}", width, _GREEN)
    else:
        lost = f"{_rate(report['rates']['error_rate'])} of {_count(calls['sent'], 'call')} lost, limit {limit}"
        yield from _wrapped("", f"gate passed: {lost} ({likely})", width, _YELLOW if calls["failed"] else _GREEN)


def _advice(report: Mapping[str, Any], width: int) -> Iterator[Line]:
    """Yield the likeliest roots in full, and of the other symptoms what to change."""
    rows = [row for row in report["diagnosis"] if row["symptom"] not in HINTS]
    for row in rows[:_SHOWN_IN_FULL]:
        yield from _wrapped("! ", row["symptom"], width, _BOLD)
        for label, part in (("seen", "evidence"), ("cause", "cause"), ("check", "check"), ("fix", "fix")):
            yield from _wrapped(f"  {label:<7}", row[part], width)
    for row in rows[_SHOWN_IN_FULL:]:
        yield from _wrapped("! ", f"also: {row['symptom']}; {row['fix']}", width)


def _escalation(report: Mapping[str, Any], width: int, run_dir: str | Path | None) -> Iterator[Line]:
    reasons = report["escalation"]["reasons"]
    for number, reason in enumerate(reasons):
        yield from _wrapped(f"{'escalate' if number == 0 else '':<{_LABEL}}", reason, width, _RED)
    if reasons and run_dir is not None:
        yield Line(f"{'':<{_LABEL}}{printable(run_dir)}/escalation.zip")


def _hints(report: Mapping[str, Any], width: int) -> Iterator[Line]:
    for note in report.get("notes", ()):
        yield from _wrapped(f"{'note':<{_LABEL}}", note, width, _YELLOW)
    for row in (row for row in report["diagnosis"] if row["symptom"] in HINTS):
        yield from _wrapped(f"{'hint':<{_LABEL}}", f"{row['symptom']}: {row['evidence']}; {row['fix']}", width)


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield label and text of every row that has something to tell."""
    yield "calls", _calls(report["calls"])
    yield from _failures(report)
    yield from _times(report)
    yield from _cache(report["cache"])
    yield from _limits(report)
    yield "server", _server(report)


def _calls(calls: Mapping[str, int]) -> str:
    extra = [
        f"{calls[name]} {text}"
        for name, text in (("cached", "cached"), ("coalesced", "shared with an equal one"), ("abandoned", "abandoned"))
        if calls[name]
    ]
    return ", ".join([f"{calls['sent']} sent ({calls['ok']} ok, {calls['failed']} failed)", *extra])


def _failures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rates, attempts, tests = report["rates"], report["attempts"], report["tests"]
    if rates["error_rate"] is not None:
        yield "error rate", f"{_rate(rates['error_rate'])} of calls, limit {percent(report['gate']['max_error_rate'])}"
    if attempts["total"]:
        yield (
            "attempts",
            (
                f"{attempts['total']} ({_count(attempts['retries'], 'retry', 'retries')}), "
                f"{_rate(rates['disconnect_rate'])} disconnected, "
                f"{_rate(rates['first_attempt_failure_rate'])} of first attempts failed"
            ),
        )
    if report["errors_by_kind"]:
        yield "errors", ", ".join(f"{kind} {count}" for kind, count in report["errors_by_kind"].items())
    if tests["lm_error"]:
        yield "lost tests", f"{tests['lm_error']} (run them again with --lf)"
    lost = report["lost"]
    if lost["requests_without_outcome"] or lost["workers_crashed"]:
        yield (
            "cut off",
            (
                f"{_count(lost['requests_without_outcome'], 'request')} without outcome, "
                f"{_count(lost['workers_crashed'], 'worker')} crashed"
            ),
        )


def _times(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    latency, first, speed = report["latency_ms"], report["ttft_ms"], report["tokens_per_second"]
    if latency["count"]:
        yield "latency", _pairs((name, _ms(latency[name])) for name in ("p50", "p95", "p99", "mean", "max"))
    if first["p50"] is not None:
        yield "first token", _pairs((name, _ms(first[name])) for name in ("p50", "p95"))
    if speed["p50"] is not None:
        yield "tokens/s", _pairs((name, f"{speed[name]:.1f}") for name in ("p50", "p95"))
    if any(report["tokens"].values()):
        yield "tokens", f"{report['tokens']['in'] or 0:,} in, {report['tokens']['out'] or 0:,} out"


def _cache(cache: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not (cache["hits"] or cache["misses"] or cache["stores"]):
        return
    counts = [f"{_count(cache['hits'], 'hit')}, {_count(cache['misses'], 'miss', 'misses')}, {cache['stores']} stored"]
    if cache["evictions"]:
        counts.append(f"{cache['evictions']} evicted")
    if cache["entries"] is not None:
        counts.append(f"{cache['entries']} of {cache['size_limit']} entries")
    yield "cache", ", ".join(counts)


def _limits(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    concurrency, breaker = report["concurrency"], report["breaker"]
    if report["attempts"]["total"]:
        lowered = concurrency["reductions"]
        yield (
            "in flight",
            f"at most {concurrency['peak_in_flight']}, limit {concurrency['limit']}"
            + (f" (lowered {_count(lowered, 'time')})" if lowered else ""),
        )
    if breaker["trips"]:
        yield "breaker", f"paused {_count(breaker['trips'], 'time')}, {breaker['paused_s']:g} s in all"


def _server(report: Mapping[str, Any]) -> str:
    """Return address, version and the models asked, with what is known of each."""
    server = report["server"]
    known = {model["id"]: model for model in server["models"]}
    version = f" ({server['kind'] or 'server'} {server['version']})" if server["version"] else ""
    return ", ".join(
        [f"{server['url']}{version}", *(_model(known.get(name, {"id": name})) for name in report["by_model"])]
    )


def _model(model: Mapping[str, Any]) -> str:
    facts = [str(model["quantization"])] if model.get("quantization") else []
    facts += [f"context {model['context_length']}"] if model.get("context_length") else []
    facts += [f"{model['parallel']} at once"] if model.get("parallel") else []
    return str(model["id"]) + (f" ({', '.join(facts)})" if facts else "")


def _wrapped(label: str, text: str, width: int, markup: dict[str, bool] | None = None) -> Iterator[Line]:
    """Yield a label and its text, further lines of the text below its first."""
    clean = _COMMAND.sub(lambda command: command[0].replace(" ", _UNBROKEN), printable(text, _LONGEST))
    broken = textwrap.wrap(
        clean, width, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False
    )
    for line in broken or [label.rstrip()]:
        # A long word may be broken before what CI takes for a command.
        yield Line(printable(line.replace(_UNBROKEN, " ")), dict(markup or {}))


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "  ".join(f"{name} {value}" for name, value in pairs)


def _rate(rate: float | None) -> str:
    return "0%" if not rate else f"{rate * 100:.1f}%"


def _ms(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"  # noqa: PLR2004  # a second


def _count(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
