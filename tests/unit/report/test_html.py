"""The page of a run: whole, self-contained, bounded, and proof against every string from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.report import figures
from pytest_lmstudio.report.html import render, write_page
from pytest_lmstudio.report.html_markup import Markup, escaped, joined, prose, section, style, table, tag
from pytest_lmstudio.report.html_style import SHEET, policy
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import (
    bads,
    cached,
    error,
    event,
    good,
    goods,
    preflight,
    report_of,
    request,
    unsent,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lmstudio.record.events import Event

NONE = dict.fromkeys(("passed", "failed", "error", "lm_error", "skipped", "xfailed", "xpassed"), 0)
# fmt: off
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "article", "div", "span",
    "h1", "h2", "h3", "p", "strong", "code", "ul", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr",
    "th", "td", "figure", "figcaption", "details", "summary", "pre", "svg", "rect", "line", "text",
}
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "scope", "role", "aria-label", "aria-hidden",
    "tabindex", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "dx", "text-anchor",
}
# fmt: on


class Parsed(HTMLParser):
    """A page as a parser sees it: elements in order, their attributes, and whether each is closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.other: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.unclosed = self._open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, tuple(key for key, _ in attributes)))
        self.attributes += attributes
        if name != "meta":
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_comment(self, text: str) -> None:
        self.other.append(text)

    def handle_pi(self, text: str) -> None:
        self.other.append(text)


def page_of(events: list[Event], settings: Settings | None = None, **fields: Any) -> str:
    return render(report_of(events, settings, **fields), calls_of(events))


def heads(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def troubled(text: str) -> list[Event]:
    """Return events with one text wherever a log has a text from outside."""
    where: dict[str, Any] = {"nodeid": text, "worker": text}
    return [
        preflight(url=text, id=text, type=text, quantization=text),
        event("note", message=text),
        *goods(2, model=text, **where),
        *bads(3, "timeout", message=text, phase=text, **where),
        *bads(2, text, name="odd", message=text, error_category=text, **where),
        unsent("no", "unreachable", message=text, **where),
        request("gone", worker=text),
    ]


def with_texts(value: Any, text: str) -> Any:
    """Return a report with one text in place of every text of it, the names of its fields aside."""
    if isinstance(value, dict):
        return {key: with_texts(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_the_verdict_comes_first_and_then_what_to_do() -> None:
    page = page_of([*goods(28), *bads(2, "rate_limited", chars=500)], outcomes={**NONE, "passed": 28, "lm_error": 2})
    assert '<body><header><div class="verdict bad"><h1>Gate failed</h1>' in page
    assert (
        "<p><strong>error rate 6.7% (2 of 30 calls lost) is above the limit of 5%</strong></p>"
        "<p>95% interval of the error rate: 1.8% to 21.3%</p><p>Tests: 28 passed, 2 lost</p>"
    ) in page
    assert heads(page) == [
        *("Diagnosis", "Counts", "Rates and limits", "Latency", "Timeline", "Errors", "Lost calls and tests"),
        *("Tests", "Models", "Server", "Settings"),
    ]
    assert (
        '<main><section><h2>Diagnosis</h2><article class="trouble"><h3>the server asks to slow down</h3><dl>'
        "<div><dt>Seen</dt><dd>2 errors of kind rate_limited, the first: &quot;no&quot;</dd></div>"
    ) in page
    assert "<dt>Fix</dt><dd>set EVAL_CONCURRENCY=1 (<code>--lmstudio-concurrency=1</code>)</dd>" in page


@pytest.mark.parametrize(
    ("events", "fields", "look", "title"),
    [
        (goods(3), {}, "good", "Gate passed"),
        ([*goods(29), *bads(1)], {}, "warn", "Gate passed"),
        (goods(3), {"interrupted": True}, "warn", "Gate not judged"),
        (goods(3), {"outcomes": {**NONE, "failed": 1, "error": 1}}, "warn", "Gate passed, 2 tests failed"),
        (bads(3), {}, "bad", "Gate failed"),
    ],
)
def test_the_verdict_is_told_in_words_and_colour(
    events: list[Event], fields: dict[str, Any], look: str, title: str
) -> None:
    page = page_of(events, **fields)
    assert f'<div class="verdict {look}"><h1>{title}</h1>' in page
    assert f"<title>{title}: LM Studio run run-1</title>" in page


def test_a_run_from_the_cache_alone_has_no_empty_sections() -> None:
    page = page_of([cached("a")])
    assert heads(page) == ["Counts", "Tests", "Models", "Server", "Settings"]
    assert "<strong>no call was sent to the server</strong>" in page
    assert "95% interval" not in page


def test_without_calls_the_pictures_are_left_out() -> None:
    page = render(report_of(goods(3)), [])
    assert heads(page) == ["Counts", "Rates and limits", "Latency", "Models", "Server", "Settings"]
    assert "Histogram" not in page


def test_lost_calls_are_named_with_their_error() -> None:
    events = [*goods(1), *bads(1, "disconnect", message="reset"), unsent("late", "circuit_open", message="")]
    page = page_of(events, outcomes={**NONE, "lm_error": 2})
    assert "2 tests lost to errors of the network or the server; <code>pytest --lf</code> runs them again." in page
    row = '<tr><th scope="row">test_x.py::test_x</th><td>qwen</td>'
    assert f'{row}<td>disconnect</td><td>reset</td><td class="number">1</td><td class="number">1 s</td></tr>' in page
    assert f'{row}<td>circuit_open</td><td></td><td class="number">0</td><td class="number">–</td></tr>' in page  # noqa: RUF001


def test_settings_that_differ_from_their_default_are_bold() -> None:
    page = page_of(goods(1), Settings(timeout=90.0, cache="off", dir="/somewhere", params=(("max_tokens", 256),)))
    row = '<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>'
    assert row.format("timeout", "<strong>90 s</strong>", "45 s") in page
    assert row.format("cache", "<strong>off</strong>", "readwrite") in page
    assert row.format("params", "<strong>max_tokens=256</strong>", figures.UNKNOWN) in page
    assert row.format("max_error_rate", "5%", "5%") in page
    assert row.format("stream", "on", "on") in page
    assert row.format("dir", "/somewhere", "") in page


def test_hints_escalation_and_notes_have_their_place() -> None:
    page = page_of([*goods(1), *bads(3, "disconnect"), event("note", message="damaged")], pipeline_version="")
    assert heads(page)[:3] == ["Diagnosis", "Escalate", "Counts"]
    assert heads(page)[-1] == "Notes"
    assert '<ul class="plain"><li>damaged</li><li><strong>the pipeline version is not set</strong>' in page
    assert "<li>the first attempt failed in 3 of 4 calls with prompts under 200 characters</li>" in page


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    parsed = Parsed(page := page_of(troubled("x"), pipeline_version=""))
    assert {name for name, _ in parsed.elements} <= ELEMENTS
    assert {key for key, _ in parsed.attributes} <= ATTRIBUTES
    assert (parsed.unclosed, parsed.other) == ([], [])
    assert page.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Sec')
    assert [word for word in ("url(", "@import", "javascript:") if word in page] == []


def test_the_policy_lets_through_the_one_sheet_of_the_page() -> None:
    (sheet,) = re.findall("<style>(.*?)</style>", page_of(goods(1)), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert policy() == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert ("content", policy()) in Parsed(page_of(goods(1))).attributes


def test_fields_of_the_log_that_the_page_does_not_know_stay_out_of_it() -> None:
    page = page_of([*goods(1, prompt="a prompt", text="the reply"), *bads(1, body="a body")])
    assert [word for word in ("a prompt", "the reply", "a body") if word in page] == []


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='x", "</style>", "</title>"),
                *("</svg><a href=//x>", "<!--", "-->", "]]>", "<?x?>", "&lt;b&gt;", "&#60;b>", "&", "<", '"', "'", "`"),
                *("\x00", "\x1b[31m", "\u202e", "\ud800", "\u2028", "--x=", "javascript:"),
            ]
        ),
        st.text(min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=6,
).map("".join)


def skeleton(parsed: Parsed) -> list[tuple[str, tuple[str, ...]]]:
    """Return the elements of a page; commands in advice are code, and come and go with their text."""
    return [element for element in parsed.elements if element[0] != "code"]


def of_log(text: str) -> Parsed:
    return Parsed(page_of(troubled(text)))


def of_report(text: str) -> Parsed:
    report = report_of(troubled("x"), pipeline_version="")
    return Parsed(render(with_texts(report, text), calls_of(troubled(text))))


@cache
def harmless(source: Callable[[str], Parsed]) -> list[tuple[str, tuple[str, ...]]]:
    return skeleton(source("x"))


@pytest.mark.parametrize("source", [of_log, of_report])
@hypothesis.settings(max_examples=50)
@given(text=HOSTILE)
def test_no_text_from_outside_becomes_markup(source: Callable[[str], Parsed], text: str) -> None:
    parsed = source(text)
    assert skeleton(parsed) == harmless(source)
    assert (parsed.unclosed, parsed.other) == ([], [])


def test_a_hostile_name_is_shown_as_it_is_written() -> None:
    page = page_of(goods(1, model="<b>\x1b\u202e&\n"))
    assert '<tr><th scope="row">&lt;b&gt;\\x1b\\u202e&amp;\\n</th>' in page


def test_a_page_is_written_whole_whatever_the_texts_are(tmp_path: Path) -> None:
    events = goods(1, nodeid="test_x.py::test[\ud800]", model="é")
    path = write_page(report_of(events), calls_of(events), tmp_path / "new" / "page.html")
    assert path.read_bytes() == page_of(events).encode("utf-8")
    assert b"\r" not in path.read_bytes()


def test_a_page_stays_small_however_much_was_called_and_however_long_names_are() -> None:
    long = '"&<' * 2000
    events = [
        line
        for i in range(1000)
        for line in (
            *(
                e
                for a in (1, 2, 3)
                for e in (request(f"c{i}", i, a, nodeid=long, model=long), error(f"c{i}", attempt=a))
            ),
            *good(f"d{i}", i * 10, nodeid=long, model=long, worker=f"gw{i % 50}"),
        )
    ]
    page = page_of(events)
    assert len(page.encode()) < 2_000_000
    assert '<p class="quiet">950 more are not shown.</p>' in page


def test_the_colours_of_text_can_be_read_in_both_themes() -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in SHEET.split("prefers-color-scheme: dark")
    )
    pairs = [(ink, page) for ink in ("ink", "quiet", "good", "warn", "bad") for page in ("page", "card")]
    pairs += [(name, f"{name}-tint") for name in ("good", "warn", "bad")]
    pairs += [("ink", f"{name}-tint") for name in ("good", "warn", "bad")]
    found = {(name, *pair): contrast(theme[pair[0]], theme[pair[1]])
             for name, theme in (("light", light), ("dark", dark)) for pair in pairs}  # fmt: skip
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_markup_is_built_from_escaped_parts_alone() -> None:
    assert tag("p", "<", Markup("<b></b>"), None, 1.5, class_='"', aria_label="'", x=None) == (
        '<p class="&quot;" aria-label="&#x27;">&lt;<b></b>1.5</p>'
    )
    assert escaped("a" * 600) == "a" * 497 + "..."
    assert joined(["a", None, "&"]) == "a&amp;"
    assert prose("run `lms <ps>` or --lmstudio-wait=60") == (
        "run <code>lms &lt;ps&gt;</code> or <code>--lmstudio-wait=60</code>"
    )
    assert section("Empty", None) is None
    assert table("Nothing", ("a",), (), []) is None
    with pytest.raises(ValueError, match="a style sheet may not hold <"):
        style("</style>")
