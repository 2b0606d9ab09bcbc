"""Two runs side by side, as text of 80 columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lmstudio.record.compare import compare, measured
from pytest_lmstudio.report.comparison import lines
from pytest_lmstudio.settings import Settings
from tests.unit.cli.stored import ended
from tests.unit.record.logs import bads, good, goods, report_of

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.report.terminal import Line

EVIL = "\x1b[31m\u202e\r\n::error::x"


def shown(before: list[Event], after: list[Event], settings: Settings | None = None, width: int = 80) -> list[Line]:
    first = measured(report_of(before, run_id="20261120-120000-aaaaaaaa", outcomes=COUNTS), before)
    return list(lines(compare(first, measured(report_of(after, settings), after)), width=width))


COUNTS = {"passed": 3, "failed": 0, "error": 0, "lm_error": 0, "skipped": 0, "xfailed": 0, "xpassed": 0}


def timed(*latencies: float) -> list[Event]:
    return [line for n, ms in enumerate(latencies) for line in good(f"l{n}", n * 90_000, ms, ttft_ms=ms / 2)]


WORSE = [*timed(*range(2000, 2080)), *bads(40), ended("a", "failed"), ended("b", "lm_error"), ended("n")]
BEFORE = [*timed(*range(1000, 1080)), ended("a"), ended("b"), ended("g")]


def test_the_verdict_comes_first_then_numbers_settings_and_tests() -> None:
    text = [line.text for line in shown(BEFORE, WORSE, Settings(timeout=90.0))]
    assert text == [
        "REGRESSION: more tests fail, calls lost, disconnected, first attempts failed,",
        "            latency p50, latency p95",
        "before                20261120-120000-aaaaaaaa: 80 calls sent, 0 cached; tests:",
        "                      3 passed",
        "after                 run-1: 120 calls sent, 0 cached; tests: none; gate failed",
        "                          before     after    change         95% interval",
        "calls lost                    0%     33.3%  +33.3 pp    +24.3 to +42.2 pp  worse",
        "disconnected                  0%     33.3%  +33.3 pp    +24.3 to +42.2 pp  worse",
        "first attempts failed         0%     33.3%  +33.3 pp    +24.3 to +42.2 pp  worse",
        *text[9:],
    ]
    assert [line[:15] + line[-7:] for line in text[9:14]] == [
        "latency p50      worse",
        "latency p95      worse",
        "first token p50  worse",
        "first token p95  worse",
        "tokens/s p50   to +0.0",
    ]
    assert text[-7:] == [
        "set otherwise         timeout: 45.0 -> 90.0",
        "tests                 2 in both (1 failed, 0 before), 1 now failing, 1 now lost,",
        "                      1 new, 1 gone",
        "  now failing         a (passed -> failed)",
        "  now lost            b (passed -> lm_error)",
        "  new                 n",
        "  gone                g",
    ]
    assert max(map(len, text)) <= 80


def test_no_regression_is_said_in_green() -> None:
    first = shown(goods(3), goods(3))[0]
    assert (first.text, first.markup) == ("no regression", {"green": True})


def test_long_lists_are_cut_with_what_shows_the_rest() -> None:
    text = [line.text for line in shown(goods(1), [*goods(1), *(ended(f"t{n}") for n in range(25))])]
    assert text[-2:] == [
        "  new                 t9",
        "                      and 15 more (--json has all)",
    ]


def test_names_from_outside_cannot_drive_the_terminal() -> None:
    named = [*goods(1, model=EVIL), ended(EVIL, "failed"), ended("é")]
    text = "\n".join(line.text for line in shown([*goods(1), ended(EVIL)], named, Settings(model=EVIL)))
    assert [char for char in text if not (char.isprintable() or char == "\n")] == []
    assert re.search(r"(?:^|\s)::", text) is None
    assert "\\xe9" in text


def test_without_a_log_it_says_what_is_missing() -> None:
    side = measured(report_of(goods(3)), ())
    assert [line.text for line in lines(compare(side, side))][-1] == (
        "tests                 not compared: that takes the events.jsonl of both runs"
    )
