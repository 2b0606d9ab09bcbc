"""Two runs side by side, as text of 80 columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.record.compare import compare, measured
from pytest_lmstudio.report.comparison import lines
from pytest_lmstudio.settings import Settings
from tests.unit.cli.stored import ended
from tests.unit.record.logs import bads, event, good, goods, report_of

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
        "                       before   after    change          95% interval",
        "calls lost                 0%   33.3%  +33.3 pp  +24.3 pp to +42.2 pp  worse",
        "disconnected               0%   33.3%  +33.3 pp  +24.3 pp to +42.2 pp  worse",
        "first attempts failed      0%   33.3%  +33.3 pp  +24.3 pp to +42.2 pp  worse",
        "latency p50               1 s     2 s      +1 s       +987 ms to +1 s  worse",
        "latency p95             1.1 s   2.1 s      +1 s       +994 ms to +1 s  worse",
        "first token p50        520 ms     1 s   +500 ms    +493 ms to +507 ms  worse",
        "first token p95        538 ms     1 s   +500 ms    +497 ms to +503 ms  worse",
        "tokens/s p50           25.0/s  25.0/s     0.0/s        0.0/s to 0.0/s",
        "set otherwise         timeout: 45 s -> 90 s",
        "tests                 2 in both (1 failed, 0 before; 1 left out, since lost in a",
        "                      run), 1 now failing, 1 now lost, 1 new, 1 gone",
        "  now failing         a (passed -> failed)",
        "  now lost            b (passed -> lm_error)",
        "  new                 n",
        "  gone                g",
    ]
    assert max(map(len, text)) <= 80


@pytest.mark.parametrize("width", range(40, 81))
def test_it_fits_on_any_screen(width: int) -> None:
    text = [line.text for line in shown(BEFORE, WORSE, Settings(timeout=90.0), width=width)]
    assert [line for line in text if len(line) > width and not line.startswith("  now ")] == []


def test_where_the_table_is_too_wide_numbers_are_told_in_words() -> None:
    found = shown(BEFORE, WORSE, width=60)
    text = [line.text for line in found]
    at = text.index("calls lost            0% -> 33.3%, +33.3 pp (95% interval")
    assert text[at + 1] == "                      +24.3 pp to +42.2 pp), worse"
    assert found[at].markup == found[at + 1].markup == {"red": True}
    assert text[text.index("tokens/s p50          25.0/s -> 25.0/s, 0.0/s (95% interval") + 1].endswith(
        "0.0/s to 0.0/s)"
    )
    few = [line.text for line in shown(goods(1), [event("run_end")], width=40)]
    assert "latency p50           1 s -> -" in few


def test_all_and_none_need_no_decimals() -> None:
    text = [line.text for line in shown(goods(30), bads(30))]
    assert "calls lost                 0%   100%  +100 pp  +83.9 pp to +100 pp  worse" in text


def test_tests_that_were_lost_in_either_run_are_left_out_of_the_count_with_a_word() -> None:
    words = {"a": ("passed", "failed"), "b": ("failed", "lm_error"), "c": ("lm_error", "failed")}
    before, after = ([ended(name, pair[n]) for name, pair in words.items()] for n in (0, 1))
    text = [line.text for line in shown([*goods(1), *before], [*goods(1, "x"), *after])]
    assert text[-5:] == [
        "tests                 3 in both (1 failed, 0 before; 2 left out, since lost in a",
        "                      run), 1 now failing, 1 now lost, 1 regained",
        "  now failing         a (passed -> failed)",
        "  now lost            b (failed -> lm_error)",
        "  regained            c (lm_error -> failed)",
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_error_rate": 0.1}, "max_error_rate: 5% -> 10%"),
        ({"stream": False}, "stream: on -> off"),
        ({"backoff": 0.25, "model": "qwen"}, "model: none -> qwen"),
        ({"backoff": 0.25}, "backoff: 0.8 s -> 0.25 s"),
        ({"concurrency": 16}, "concurrency: 4 -> 16"),
        ({"timeout": "auto"}, "timeout: 45 s -> auto"),
    ],
)
def test_what_was_set_otherwise_has_its_unit(settings: dict[str, Any], told: str) -> None:
    assert f"set otherwise         {told}" in [line.text for line in shown(goods(1), goods(1), Settings(**settings))]


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
