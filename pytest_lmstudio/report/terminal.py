"""The section at the end of a run: verdict first, then what to do, then the numbers."""

from __future__ import annotations

import re
import textwrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.record.diagnosis import HINTS
from pytest_lmstudio.record.gate import fate, percent
from pytest_lmstudio.record.history import UNKNOWN_MODEL
from pytest_lmstudio.report.figures import amount, counted, duration, interval, rate
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_LABEL = 14
#: Lines are filled between these, columns: longer ones are hard to read, however wide the terminal.
_NARROWEST, _WIDEST = 40, 120
_LONGEST = 500
#: Symptoms that are shown with their causes; report.json holds all of them.
_SHOWN_IN_FULL = 3
#: Lost tests that are named at the end of a session.
_SHOWN_LOST = 10
_LISTS_LOST = "`pytest --lf --collect-only -q`"
#: A command is copied whole, so it stands on one line where it can; the character cannot be in printable text.
_COMMAND = re.compile(r"`[^`]{1,60}`")
_UNBROKEN = "\x00"
_WRITTEN = {"stores": "stored", "evictions": "evicted"}
_RED = {"red": True, "bold": True}
_YELLOW = {"yellow": True}
_GREEN = {"green": True}
_BOLD = {"bold": True}


class Line(NamedTuple):
    """One line to show.

    Attributes:
        text: without control characters and line end.
        markup: keyword arguments of pytest's ``write_line``, such as ``{"red": True}``.
    """

    text: str
    markup: Mapping[str, bool] = MappingProxyType({})


def lines(report: Mapping[str, Any], *, width: int = 80, run_dir: str | Path | None = None) -> Iterator[Line]:
    """Yield the lines of a report, none for a run that made no call.

    Args:
        report: the report.
        width: columns to fill.
        run_dir: the run's folder as it is to be shown, None when nothing was written.
    """
    if not report["calls"]["total"]:
        return
    columns = min(max(width, _NARROWEST), _WIDEST)
    yield from _verdict(report, columns)
    yield from _advice(report, columns)
    yield from _escalation(report, columns, run_dir)
    for label, text in _numbers(report):
        yield from _wrapped(f"{label:<{_LABEL}}", text, columns)
    if run_dir is not None:
        # A path is copied whole, so it is never wrapped.
        yield Line(f"{'report':<{_LABEL}}{printable(run_dir)}/report.json")
    yield from _hints(report, columns)


def lost_lines(tests: Sequence[tuple[str, str]], rest: str = _LISTS_LOST) -> Iterator[Line]:
    """Yield which tests were lost, and to what; a name is never wrapped, since it is copied whole.

    Args:
        tests: node id and error kind of each.
        rest: what shows those that are left out here.
    """
    for nodeid, kind in tests[:_SHOWN_LOST]:
        name = printable(nodeid).encode("ascii", "backslashreplace").decode()
        yield Line(f"{'lost':<{_LABEL}}{name}: {printable(kind, 40)}")
    if len(tests) > _SHOWN_LOST:
        yield Line(f"{'':<{_LABEL}}and {amount(len(tests) - _SHOWN_LOST)} more: {rest} lists them")


def _verdict(report: Mapping[str, Any], width: int) -> Iterator[Line]:
    gate, calls, ends = report["gate"], report["calls"], report["rates"]["error_rate_ci95"]
    limit = percent(gate["max_error_rate"])
    likely = f"95% interval {interval(ends)}" if ends else ""
    if gate["failed"]:
        yield from _wrapped("", f"gate FAILED: {gate['reason']}", width, _RED)
        if likely:
            yield Line(f"{'':<{_LABEL}}{likely}", dict(_RED))
    elif gate["failed"] is None:
        yield from _wrapped("", f"gate not judged: {gate['reason']}", width, _YELLOW)
    elif not calls["sent"]:
        yield from _wrapped("", f"gate passed: {gate['reason']}", width, _GREEN)
    else:
        share = f"{rate(report['rates']['error_rate'])} of {counted(calls['sent'], 'call')}"
        lost = f"{share} {fate(report['errors_by_category'])}, limit {limit}"
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
        f"{amount(calls[name])} {text}"
        for name, text in (("cached", "cached"), ("coalesced", "shared with an equal one"), ("abandoned", "abandoned"))
        if calls[name]
    ]
    sent, ok, failed = (amount(calls[name]) for name in ("sent", "ok", "failed"))
    return ", ".join([f"{sent} sent ({ok} ok, {failed} failed)", *extra])


def _failures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rates, attempts, tests = report["rates"], report["attempts"], report["tests"]
    if rates["error_rate"] is not None:
        yield "error rate", f"{rate(rates['error_rate'])} of calls, limit {percent(report['gate']['max_error_rate'])}"
    if attempts["total"]:
        yield (
            "attempts",
            (
                f"{amount(attempts['total'])} ({counted(attempts['retries'], 'retry', 'retries')}), "
                f"{rate(rates['disconnect_rate'])} disconnected, "
                f"{rate(rates['first_attempt_failure_rate'])} of first attempts failed"
            ),
        )
    if report["errors_by_kind"]:
        yield "errors", ", ".join(f"{kind} {amount(count)}" for kind, count in report["errors_by_kind"].items())
    if tests["lm_error"]:
        yield "lost tests", f"{amount(tests['lm_error'])} (run them again with --lf)"
    lost = report["lost"]
    if lost["requests_without_outcome"] or lost["workers_crashed"]:
        yield (
            "cut off",
            (
                f"{counted(lost['requests_without_outcome'], 'request')} without outcome, "
                f"{counted(lost['workers_crashed'], 'worker')} crashed"
            ),
        )


def _times(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    latency, first, speed = report["latency_ms"], report["ttft_ms"], report["tokens_per_second"]
    if latency["count"]:
        yield "latency", _pairs((name, duration(latency[name])) for name in ("p50", "p95", "p99", "mean", "max"))
    if first["p50"] is not None:
        yield "first token", _pairs((name, duration(first[name])) for name in ("p50", "p95"))
    if speed["p50"] is not None:
        yield "tokens/s", _pairs((name, amount(speed[name], 1)) for name in ("p50", "p95"))
    if any(report["tokens"].values()):
        yield "tokens", ", ".join(f"{amount(report['tokens'][way] or 0)} {way}" for way in ("in", "out"))


def _cache(cache: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not (cache["hits"] or cache["misses"] or cache["stores"]):
        return
    counts = [counted(cache["hits"], "hit"), counted(cache["misses"], "miss", "misses")]
    counts += [f"{amount(cache[name])} {word}" for name, word in _WRITTEN.items() if cache[name] or name == "stores"]
    if cache["entries"] is not None:
        counts.append(f"{amount(cache['entries'])} of {amount(cache['size_limit'])} entries")
    yield "cache", ", ".join(counts)


def _limits(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    concurrency, breaker = report["concurrency"], report["breaker"]
    if report["attempts"]["total"]:
        lowered = concurrency["reductions"]
        yield (
            "in flight",
            f"at most {concurrency['peak_in_flight']}, limit {concurrency['limit']}"
            + (f" (lowered {counted(lowered, 'time')})" if lowered else ""),
        )
    if breaker["trips"]:
        paused = duration(breaker["paused_s"] * 1000)
        yield "breaker", f"paused {counted(breaker['trips'], 'time')}, {paused} in all"


def _server(report: Mapping[str, Any]) -> str:
    """Return address, version and the models asked, with what is known of each."""
    server = report["server"]
    known = {model["id"]: model for model in server["models"]}
    kind = server["kind"] or "server"
    asked = [name for name in report["by_model"] if name != UNKNOWN_MODEL]
    software = f" ({kind} {server['version']})" if server["version"] else " (llama.cpp)" * (kind == "llama.cpp")
    return ", ".join([f"{server['url']}{software}", *(_model(known.get(name, {"id": name})) for name in asked)])


def _model(model: Mapping[str, Any]) -> str:
    facts = [str(model["quantization"])] if model.get("quantization") else []
    facts += [f"context {model['context_length']}"] if model.get("context_length") else []
    facts += [f"{model['parallel']} at once"] if model.get("parallel") else []
    return str(model["id"]) + (f" ({', '.join(facts)})" if facts else "")


def _wrapped(label: str, text: str, width: int, markup: dict[str, bool] | None = None) -> Iterator[Line]:
    """Yield a label and its text, further lines of the text below its first."""
    clean = _COMMAND.sub(lambda command: command[0].replace(" ", _UNBROKEN), printable(text, _LONGEST))
    below = " " * (len(label) or 2)
    broken = textwrap.wrap(clean, width, initial_indent=label, subsequent_indent=below, break_on_hyphens=False)
    for line in broken or [label.rstrip()]:
        # A long word may be broken before what CI takes for a command.
        yield Line(printable(line.replace(_UNBROKEN, " ")), dict(markup or {}))


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "  ".join(f"{name} {value}" for name, value in pairs)
