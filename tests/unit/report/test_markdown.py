"""The Markdown summary of a job: what it tells, and that nothing from outside can be more than text in it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.report.annotations import Trouble
from pytest_lmstudio.report.markdown import code, prose, render
from tests.unit.record.logs import bads, cached, goods, preflight, report_of

FENCED = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)


def trouble(n: int = 0, *, lost: bool = False, reason: str = "no") -> Trouble:
    return Trouble(f"test_x.py::test_{n}", lost, reason, "test_x.py", n)


def whole(text: str | None) -> str:
    assert text is not None
    return text


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def rows(text: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0]: [cell.strip(" |") for cell in row[1:]] for row in cells}


def test_the_verdict_comes_first_then_what_to_do_then_the_numbers_and_the_tests() -> None:
    report = report_of([preflight(), *goods(5), *bads(5, latency_ms=45_000, limit="attempt")], pipeline_version="")
    text = whole(render(report, [trouble(1), trouble(2, lost=True)], places=[".lmstudio/runs/r/report.json"]))
    assert headings(text) == [
        "## LM Studio: gate FAILED",
        "### What to do",
        "### Notes",
        "### Failed LM tests (1)",
        "### Lost tests (1): neither passed nor failed",
    ]
    assert text.index("gate FAILED") < text.index("### What to do") < text.index("| --- |") < text.index("### Failed")
    assert "**error rate 50.0% (5 of 10 calls lost) is above the limit of 5% (95% interval 23.7% to 76.3%)**" in text
    assert text.endswith("\nReport: `.lmstudio/runs/r/report.json`\n")


def test_the_tables_hold_rates_against_limits_and_latency() -> None:
    report = report_of([*goods(19), *bads(1), cached("c")], outcomes={**tally({}), "passed": 19, "lm_error": 1})
    table = rows(whole(render(report)))
    assert table["Error rate: calls without answer"] == ["5.0% (0.9% to 23.6%)", "5%"]
    assert table["LM tests lost"] == ["1", "5%"]
    assert table["Calls"] == ["20 sent, 19 ok, 1 failed, 1 cached"]
    assert table["Errors"] == ["timeout 1"]
    assert table["Latency"] == ["p50 1 s, p95 1 s, p99 1 s, max 1 s"]
    assert table["Tests"] == ["19 passed, 1 lm-error"]


@pytest.mark.parametrize(
    ("fields", "heading", "verdict"),
    [
        ({}, "gate passed", "**0% of 3 calls lost, limit 5% (95% interval 0% to 56.1%)**"),
        ({"interrupted": True}, "gate not judged", "**the run was interrupted**"),
    ],
)
def test_the_verdict_of_a_run(fields: dict[str, Any], heading: str, verdict: str) -> None:
    text = whole(render(report_of(goods(3), **fields)))
    assert text.startswith(f"## LM Studio: {heading}\n\n{verdict}\n")


def test_a_run_from_the_cache_alone_has_no_rates() -> None:
    table = rows(whole(render(report_of([cached("a")]))))
    assert table["Error rate: calls without answer"] == ["–", "5%"]  # noqa: RUF001  # a dash is meant
    assert table["Latency"] == ["–"]  # noqa: RUF001  # the same


def test_of_many_tests_a_hundred_are_named() -> None:
    text = whole(render(report_of(goods(1)), [trouble(n, lost=True) for n in range(1234)]))
    assert "### Lost tests (1,234): neither passed nor failed" in text
    assert text.count("- `test_x.py::") == 100
    assert "- and 1,134 more\n" in text


def test_of_a_reason_the_first_line_that_says_something_is_shown() -> None:
    text = whole(render(report_of(goods(1)), [trouble(reason="\n  \nassert 1 == 2\n + more")]))
    assert "- `test_x.py::test_0`: `assert 1 == 2`\n" in text


def test_tests_are_left_out_where_there_is_no_room_and_then_everything() -> None:
    report, troubles = report_of(goods(1)), [trouble(n, reason="x" * 400) for n in range(50)]
    long, short = whole(render(report, troubles)), whole(render(report))
    assert render(report, troubles, most_bytes=len(long.encode())) == long
    assert render(report, troubles, most_bytes=len(long.encode()) - 1) == short
    assert render(report, troubles, most_bytes=len(short.encode()) - 1) is None


def test_the_longest_summary_is_far_from_what_github_shows() -> None:
    mean = "\U000e0001`" * 5000
    text = whole(render(report_of(goods(1)), [Trouble(mean, n % 2 == 0, mean, "f", 1) for n in range(400)]))
    assert len(text.encode()) < 400_000


@given(st.text())
@example("` | `")
@example("``a`")
@example("a\n## b\r\n- c")
@example("")
def test_code_cannot_be_left(text: str) -> None:
    span = code(text)
    assert len(span.splitlines()) == 1
    assert FENCED.fullmatch(span)


def outside_code(text: str) -> str:
    """Return what a line's reader takes for more than plain text, from left to right: no escapes, and no code spans."""
    plain = ""
    while text:
        span = FENCED.match(text)
        if text[0] == "\\" and text[1:2] in set("\\`*_[]<>|~&@$!:"):
            plain, text = f"{plain} ", text[2:]
        elif span is not None:
            plain, text = f"{plain} ", text[span.end() :]
        else:
            plain, text = plain + text[0], text[1:]
    return plain


@given(st.text(alphabet="ab `\\*_[]()<>|~&@$!#1:/\n\x1b\u202e"))
@example("@team see #12 and <b>https://x.example</b>")
@example("![x](http://x.example/y.png) | ::error::x")
def test_a_sentence_keeps_no_markup_of_others(text: str) -> None:
    shown = prose(text)
    assert len(shown.splitlines()) <= 1
    plain = outside_code(shown)
    assert not re.search(r"[`*_\[\]<>|~&$!]", plain)
    assert not re.search(r"@(?!\u200b)|#(?=\d)|://", plain)


def test_commands_in_a_sentence_of_ours_are_code() -> None:
    assert prose("run `lms ps`, then set A_B=1*2") == "run `lms ps`, then set A\\_B=1\\*2"


@pytest.mark.parametrize("model", ["a|b", "`x` @team", "m\n| a | b |\n## forged", "<img src=x onerror=alert(1)>"])
def test_a_hostile_model_is_a_name_and_nothing_else(model: str) -> None:
    report = report_of(goods(2, model=model))
    text = whole(render(report))
    assert headings(text) == headings(whole(render(report_of(goods(2)))))
    assert len(rows(text)) == len(rows(whole(render(report_of(goods(2))))))
    assert f"Asked: {code(model)} at " in text
