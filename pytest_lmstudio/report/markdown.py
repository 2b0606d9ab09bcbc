"""The summary of a CI job: GitHub-flavoured Markdown, verdict first, then what to do, then the numbers.

What comes from outside is shown as code, where Markdown and GitHub see neither markup nor mentions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.diagnosis import HINTS
from pytest_lmstudio.record.gate import fate, percent
from pytest_lmstudio.report import figures
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_lmstudio.report.annotations import Trouble

    Report = Mapping[str, Any]

#: GitHub shows nothing of a step's summary that is larger, bytes.
MOST_BYTES = 1024 * 1024
#: Tests that are named, of those lost and of those failed.
_MOST_NAMED = 100
_NAME_CHARS = 300
_TEXT_CHARS = 500
_RUNS = re.compile("`+")
_COMMAND = re.compile(r"`([^`]+)`")
#: What begins markup in the middle of a line, a link or a formula.
_MARKUP = re.compile(r"[\\`*_\[\]<>|~&$!]|:(?=//)")
#: What begins a mention or a reference; a blank of no width ends it.
_MENTION = re.compile(r"@|#(?=\d)")


def render(
    report: Report,
    troubles: Sequence[Trouble] = (),
    *,
    places: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> str | None:
    """Return the summary of a run; the tests are left out where there is no room for them.

    Args:
        report: the report, see `record.build.build_report`.
        troubles: the tests that were lost or failed.
        places: where all is told, as paths to be shown.
        most_bytes: how long it may be as UTF-8; None is returned when even the numbers do not fit.
    """
    ends = [f"Report: {', '.join(code(place) for place in places)}"] if places else []
    head, tests = list(_head(report)), list(_tests(troubles))
    for blocks in ([*head, *tests, *ends], [*head, *ends]):
        text = "\n\n".join(blocks) + "\n"
        if len(text.encode("utf-8")) <= most_bytes:
            return text
    return None


def code(text: object, limit: int = _NAME_CHARS) -> str:
    """Return text from outside as a code span that it cannot leave."""
    shown = printable(text, limit) or " "
    fence = "`" * (max(map(len, _RUNS.findall(shown)), default=0) + 1)
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def prose(text: str) -> str:
    """Return a sentence of ours, with what it quotes; its commands (between backticks) as code."""
    parts = _COMMAND.split(printable(text, _TEXT_CHARS))
    return "".join(code(part) if number % 2 else _plain(part) for number, part in enumerate(parts))


def _plain(text: str) -> str:
    return _MENTION.sub("\\g<0>\u200b", _MARKUP.sub(r"\\\g<0>", text))


def _head(report: Report) -> Iterator[str]:
    """Yield all that is always told, a block each."""
    gate = {True: "gate FAILED", False: "gate passed"}.get(report["gate"]["failed"], "gate not judged")
    yield f"## LM Studio: {gate}"
    yield f"**{prose(_verdict(report))}**"
    rows = report["diagnosis"]
    yield from _listed("What to do", (_advice(row) for row in rows if row["symptom"] not in HINTS))
    yield from _listed("Escalate", map(prose, report["escalation"]["reasons"]))
    yield _table(("", "this run", "limit"), _rates(report))
    yield _table(("", "this run"), _numbers(report))
    if asked := ", ".join(code(model) for model in report["by_model"]):
        yield f"Asked: {asked} at {code(report['server']['url'])}"
    hints = (f"{prose(row['symptom'])}: {prose(row['fix'])}" for row in rows if row["symptom"] in HINTS)
    yield from _listed("Notes", [*map(prose, report.get("notes", ())), *hints])


def _verdict(report: Report) -> str:
    gate, calls, rates = report["gate"], report["calls"], report["rates"]
    text = str(gate["reason"])
    if gate["failed"] is False and calls["sent"]:
        share = f"{figures.rate(rates['error_rate'])} of {figures.counted(calls['sent'], 'call')}"
        text = f"{share} {fate(report['errors_by_category'])}, limit {percent(gate['max_error_rate'])}"
    ends = rates["error_rate_ci95"]
    return f"{text} (95% interval {figures.interval(ends)})" if ends and gate["failed"] is not None else text


def _advice(row: Mapping[str, str]) -> str:
    parts = (prose(row[name]) for name in ("evidence", "cause", "check"))
    return f"**{prose(row['symptom'])}**: {'; '.join(parts)}.<br>**Fix: {prose(row['fix'])}**"


def _rates(report: Report) -> Iterator[tuple[str, ...]]:
    rates, limit, tests = report["rates"], percent(report["gate"]["max_error_rate"]), report["tests"]
    ends = rates["error_rate_ci95"]
    likely = f" ({figures.interval(ends)})" if ends else ""
    yield "Error rate: calls without answer", figures.rate(rates["error_rate"]) + likely, limit
    yield "LM tests lost", figures.amount(tests["lm_error"]), limit
    yield "Disconnected attempts", figures.rate(rates["disconnect_rate"]), ""
    yield "First attempts that failed", figures.rate(rates["first_attempt_failure_rate"]), ""


def _numbers(report: Report) -> Iterator[tuple[str, ...]]:
    calls, attempts, cache = report["calls"], report["attempts"], report["cache"]
    sent = f"{figures.amount(calls['sent'])} sent, {figures.amount(calls['ok'])} ok, {calls['failed']:,} failed"
    yield "Calls", f"{sent}, {figures.amount(calls['cached'])} cached"
    yield "Attempts", f"{figures.amount(attempts['total'])}, {figures.counted(attempts['retries'], 'retry', 'retries')}"
    kinds = ", ".join(
        f"{_plain(printable(kind, _NAME_CHARS))} {count:,}" for kind, count in report["errors_by_kind"].items()
    )
    yield "Errors", kinds or "none"
    yield "Latency", _spread(report["latency_ms"], "p50", "p95", "p99", "max")
    yield "First token", _spread(report["ttft_ms"], "p50", "p95")
    speed, tokens = report["tokens_per_second"]["p50"], report["tokens"]
    yield "Tokens", f"{figures.amount(tokens['in'])} in, {figures.amount(tokens['out'])} out"
    yield "Tokens per second, p50", figures.amount(speed, 1)
    yield "In flight", f"at most {report['concurrency']['peak_in_flight']}, limit {report['concurrency']['limit']}"
    yield "Cache", f"{figures.counted(cache['hits'], 'hit')}, {figures.counted(cache['misses'], 'miss', 'misses')}"
    tests = (f"{figures.amount(count)} {word.replace('_', '-')}" for word, count in report["tests"].items() if count)
    yield "Tests", ", ".join(tests) or "none"


def _spread(values: Mapping[str, Any], *names: str) -> str:
    known = [f"{name} {figures.duration(values[name])}" for name in names if values[name] is not None]
    return ", ".join(known) or figures.UNKNOWN


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown without line breaks, and know no pipe but an escaped one."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(title: str, rows: Iterable[str]) -> Iterator[str]:
    if known := [f"- {row}" for row in rows]:
        yield f"### {title}"
        yield "\n".join(known)


def _tests(troubles: Sequence[Trouble]) -> Iterator[str]:
    failed = [trouble for trouble in troubles if not trouble.lost]
    lost = [trouble for trouble in troubles if trouble.lost]
    yield from _listed(f"Failed LM tests ({len(failed):,})", _named(failed))
    yield from _listed(f"Lost tests ({len(lost):,}): neither passed nor failed", _named(lost))


def _named(troubles: Sequence[Trouble]) -> Iterator[str]:
    for trouble in troubles[:_MOST_NAMED]:
        reason = next((line for line in trouble.reason.splitlines() if line.strip()), "")
        yield f"{code(trouble.nodeid)}: {code(reason, _TEXT_CHARS)}"
    if len(troubles) > _MOST_NAMED:
        yield f"and {len(troubles) - _MOST_NAMED:,} more"
