"""The report as one page: verdict first, then what to do, then the numbers and their pictures.

The page loads nothing, runs nothing, and holds prompts and answers only when it is handed them. Its parts come in the
order in which somebody who has to find out why a run failed asks for them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.record.diagnosis import HINTS
from pytest_lmstudio.report import figures, html_numbers, html_tests
from pytest_lmstudio.report.files import plain, write_whole
from pytest_lmstudio.report.html_charts import gauge, histogram
from pytest_lmstudio.report.html_markup import Markup, joined, pairs, prose, section, style, tag
from pytest_lmstudio.report.html_style import SHEET, policy
from pytest_lmstudio.report.html_timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_lmstudio.record.facts import CallFacts
    from pytest_lmstudio.report.texts import Parts

    Report = Mapping[str, Any]

_PERCENTILES = ("p50", "p95", "p99")


class OfTests(NamedTuple):
    """What a page knows of tests besides their calls.

    Attributes:
        outcomes: how each one ended, by node id, see `html_tests.outcomes_of`.
        texts: what calls asked and were answered, by call id; empty when that is not to be shown.
    """

    outcomes: Mapping[str, str] = MappingProxyType({})
    texts: Mapping[str, Parts] = MappingProxyType({})


_NOTHING = OfTests()


def write_page(report: Report, calls: Sequence[CallFacts], path: str | Path, tests: OfTests = _NOTHING) -> Path:
    """Write the page of a run as UTF-8, whole or not at all; return the path.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, [render(report, calls, tests).encode("utf-8")])


def render(report: Report, calls: Sequence[CallFacts], tests: OfTests = _NOTHING) -> str:
    """Return the page of a run, a whole HTML document.

    Args:
        report: the report, see `record.build.build_report`.
        calls: the calls of the run's log, see `record.history.calls_of`; without them their pictures are left out.
        tests: what is known of the tests that made them.
    """
    facts = plain(dict(report))
    name, look = _verdict_name(facts), _verdict_look(facts)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{name}: LM Studio run {facts['run_id']}"),
        style(SHEET),
    )
    body = tag(
        "body",
        tag("header", _verdict(facts, name, look), _run(facts)),
        tag("main", *_sections(facts, calls, tests)),
        tag("footer", tag("p", f"pytest-lmstudio {facts['plugin_version']}", class_="quiet")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _sections(report: Report, calls: Sequence[CallFacts], tests: OfTests) -> Iterator[Markup | None]:
    rows = report["diagnosis"]
    yield section("Diagnosis", *(_trouble(row) for row in rows if row["symptom"] not in HINTS))
    yield section("Escalate", _reasons(report["escalation"]["reasons"]))
    yield section("Counts", html_numbers.cards(report))
    yield section("Rates and limits", _gauge(report), html_numbers.rates(report))
    yield section(
        "Latency",
        html_numbers.times(report),
        histogram(_latencies_ms(calls), {name: report["latency_ms"][name] for name in _PERCENTILES}),
        html_numbers.slowest(calls),
    )
    yield section("Timeline", timeline(calls))
    yield section("Errors", html_numbers.errors(report))
    yield section("Lost calls and tests", _lost_tests(report), html_numbers.lost_calls(calls))
    yield section("Tests", html_tests.tests(calls, tests.outcomes, tests.texts))
    yield section("Models", html_numbers.models(report))
    yield section("Server", html_numbers.server(report))
    yield section("Settings", html_numbers.settings(report))
    notes = [joined([note]) for note in report.get("notes", ())]
    yield section("Notes", _reasons([*notes, *(_hint(row) for row in rows if row["symptom"] in HINTS)]))


def _verdict_name(report: Report) -> str:
    gate = {True: "Gate failed", False: "Gate passed"}.get(report["gate"]["failed"], "Gate not judged")
    wrong = _wrong_tests(report)
    return f"{gate}, {figures.counted(wrong, 'test')} failed" if wrong else gate


def _wrong_tests(report: Report) -> int:
    return int(report["tests"]["failed"] + report["tests"]["error"])


def _verdict_look(report: Report) -> str:
    failed = report["gate"]["failed"]
    if failed:
        return "bad"
    return "warn" if failed is None or report["calls"]["failed"] or _wrong_tests(report) else "good"


def _verdict(report: Report, name: str, look: str) -> Markup:
    ends = report["rates"]["error_rate_ci95"]
    return tag(
        "div",
        tag("h1", name),
        tag("p", tag("strong", report["gate"]["reason"])),
        tag("p", f"95% interval of the error rate: {figures.interval(ends)}") if ends else None,
        tag("p", f"Tests: {html_numbers.outcomes(report['tests'])}"),
        class_=f"verdict {look}",
    )


def _run(report: Report) -> Markup:
    exit_status = report["exit_status"]
    facts = (
        ("Run", report["run_id"]),
        ("Started", report["started_at"]),
        ("Took", figures.duration(report["duration_s"] * 1000)),
        ("Pipeline version", report["pipeline_version"] or "not set"),
        ("Exit status", figures.UNKNOWN if exit_status is None else exit_status),
    )
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", value)) for term, value in facts), class_="run")


def _trouble(row: Mapping[str, str]) -> Markup:
    steps = pairs((("Seen", row["evidence"]), ("Cause", prose(row["cause"])), ("Check", prose(row["check"]))))
    fix = tag("dl", tag("div", tag("dt", "Fix"), tag("dd", prose(row["fix"]))), class_="fix")
    return tag("article", tag("h3", row["symptom"]), steps, fix, class_="trouble")


def _hint(row: Mapping[str, str]) -> Markup:
    return joined([tag("strong", row["symptom"]), ": ", row["evidence"], "; ", prose(row["fix"])])


def _reasons(reasons: Sequence[str]) -> Markup | None:
    return tag("ul", *(tag("li", reason) for reason in reasons), class_="plain") if reasons else None


def _gauge(report: Report) -> Markup | None:
    rates = report["rates"]
    if rates["error_rate"] is None:
        return None
    return gauge(rates["error_rate"], rates["error_rate_ci95"], report["gate"]["max_error_rate"])


def _latencies_ms(calls: Sequence[CallFacts]) -> list[float]:
    """Return the latencies that the report's percentiles are of."""
    return [attempt.latency_ms for _, attempt in html_numbers.answers(calls) if attempt.latency_ms is not None]


def _lost_tests(report: Report) -> Markup | None:
    lost = report["tests"]["lm_error"]
    if not lost:
        return None
    text = f"{figures.counted(lost, 'test')} lost to errors of the network or the server; "
    return tag("p", text, tag("code", "pytest --lf"), " runs them again.")
