"""The tests of the page: folded, those that went wrong first, with their texts when these are there."""

from __future__ import annotations

import re
from typing import Any

from pytest_lmstudio.errors import ErrorKind, make_error
from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.records import Call, CallOptions, Request
from pytest_lmstudio.report import html_tests
from pytest_lmstudio.report.html_tests import outcomes_of
from pytest_lmstudio.report.texts import parts_of
from tests.unit.record.logs import bad, cached, error, event, good, request, success

OPTIONS = CallOptions(45.0, 3, 0.8, "off", stream=True)


def shown(events: list[Any], texts: dict[str, Any] | None = None) -> str:
    return str(html_tests.tests(calls_of(events), outcomes_of(events), texts or {}))


def of(nodeid: str, outcome: str, *events: dict[str, Any]) -> list[Any]:
    return [*({**one, "nodeid": nodeid} for one in events), event("test_end", nodeid=nodeid, outcome=outcome)]


def summaries(page: str) -> list[str]:
    return [re.sub("<[^>]+>", "", one) for one in re.findall("<summary>(.*?)</summary>", page)]


def test_what_went_wrong_comes_first_and_each_test_tells_what_it_cost() -> None:
    page = shown(
        [
            *of("t.py::good", "passed", *good("a"), *good("b")),
            *of("t.py::lost", "lm_error", *bad("c", latency_ms=45_000)),
            *of("t.py::bad", "failed", *good("d")),
            *[{**one, "nodeid": "t.py::cut"} for one in good("e")],
        ]
    )
    assert summaries(page) == [
        "failed t.py::bad 1 call, 1 s",
        "lost t.py::lost 1 call, 45 s",
        "passed t.py::good 2 calls, 2 s",
        "no outcome t.py::cut 1 call, 1 s",
    ]


def test_a_call_tells_its_attempts_and_its_errors() -> None:
    page = shown(
        of(
            "t",
            "passed",
            request("a"),
            error("a", retry_in_ms=5, message="<no>"),
            request("a", 0, 2),
            success("a", attempt=2),
        )
    )
    assert "<p>Call 1, qwen: answered</p>" in page
    assert "<li>attempt 1: timeout (waiting) after 1 s: &lt;no&gt;</li><li>attempt 2: answered after 1 s</li>" in page
    assert "<p>Call 1, qwen: from the cache</p></div>" in shown(of("t", "passed", cached("a")))


def test_texts_keep_their_lines_and_are_text() -> None:
    page = shown(of("t", "passed", *good("a")), {"a": [["user", "<b>\n  two\x1b"], ["reply", "&"]]})
    assert '<p class="quiet">user</p><pre>&lt;b&gt;\n  two\\x1b</pre>' in page
    assert "<pre>&amp;</pre>" in page
    assert "--lmstudio-html-texts" not in page
    assert "--lmstudio-html-texts" in shown(of("t", "passed", *good("a")))


def test_however_much_there_is_the_section_has_a_limit_and_says_what_is_left_out() -> None:
    events = [line for n in range(1000) for line in of(f"t.py::test_{n}", "passed", *good(f"c{n}"))]
    page = shown(events, {f"c{n}": [["user", "<" * 4000]] for n in range(1000)})
    assert len(page.encode()) < 1_010_000
    kept = page.count("<details>")
    assert 50 < kept < 100
    assert f'<p class="quiet">{1000 - kept} more tests not shown.</p>' in page
    many = shown(of("t", "passed", *(line for n in range(30) for line in good(f"c{n}"))))
    assert many.count('class="call"') == 20
    assert '<p class="quiet">10 more calls not shown.</p>' in many


def test_nothing_was_called_nothing_is_shown() -> None:
    assert html_tests.tests((), {}, {}) is None


def call(text: str, call_id: str = "a") -> Call:
    body = {"messages": [{"role": "user", "content": text}]}
    asked = Request(call_id, "t", "chat", "m", body, {}, "", len(text), OPTIONS)
    return Call(asked, (), error=make_error(ErrorKind.TIMEOUT, "late"))


def test_secrets_are_masked_before_a_text_is_cut() -> None:
    text = "x" * 3995 + "secret-of-mine" + "y" * 5000
    (((label, shown_text),),) = parts_of([call(text)], ("secret-of-mine",)).values()
    assert label == "user"
    assert shown_text == "x" * 3995 + "***yy" + "\n... (5,009 more characters)"


def test_a_report_carries_no_more_than_it_may() -> None:
    found = parts_of([call("z" * 4000, str(n)) for n in range(40)], ())
    assert list(found) == [str(n) for n in range(25)]
    assert list(parts_of([call("a\rb\n\ud800\x00")], ()).values()) == [[["user", "a\nb\n\\ud800\\x00"]]]
