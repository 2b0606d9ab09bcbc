"""docs/retries.md says what the code does: its table of waits, and its example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine.retry import MOST_BACKOFF_S, MOST_RETRY_AFTER_S, Retry, decorrelated, exponential
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.settings import Settings
from tests.plugin.suite import ALONE, WORKERS
from tests.standin import hang, reply, status

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

PAGE = (Path(__file__).parents[2] / "docs" / "retries.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


def waits(retry: int, share: float, previous_s: float) -> tuple[float, float]:
    """Return the waits of both strategies before a retry, at a share of their bounds."""
    facts = Retry(retry, ErrorKind.TIMEOUT, "waiting", Settings().backoff, previous_s, lambda: share)
    return exponential(facts), decorrelated(facts)


def test_the_table_of_waits_is_that_of_the_defaults() -> None:
    rows, longest_s, usual_s = [], 0.0, 0.0
    for retry in range(1, Settings().retries + 1):
        (least, least_s), (most, longest_s), (mean, usual_s) = (
            waits(retry, 0.0, 0.0), waits(retry, 1.0, longest_s), waits(retry, 0.5, usual_s)
        )  # fmt: skip
        rows.append(
            f"| {retry} | {least:.0f} to {most:g}, mean {mean:g} | {least_s:g} to {longest_s:.3g}, mean {usual_s:.3g} |"
        )
    written = [line for line in PAGE.splitlines() if re.match(r"\| \d \|", line)]
    assert written == rows


def test_the_numbers_in_its_text_are_those_of_the_code() -> None:
    defaults = Settings()
    assert f"up to `retries` + 1 **attempts**, {defaults.retries + 1} by default" in WORDS
    assert f"is the base, {defaults.backoff:g} s by default" in WORDS
    assert f"None is longer than {MOST_BACKOFF_S:g} s" in WORDS
    assert f"above {MOST_RETRY_AFTER_S:g} s the call fails instead" in WORDS
    assert f"with the defaults {defaults.retries + 1} times {defaults.timeout:g} s, and 3 s on average" in WORDS
    told = set(re.findall(r"^\| `(\w+)(?:\(\))?` \|", PAGE, re.MULTILINE))
    assert told >= set(Retry._fields)


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
def test_the_example_waits_as_it_says(way: tuple[str, ...], suite: Suite) -> None:
    example = re.search(r"<!-- example: conftest.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    suite.conftest(example[1])
    suite.write("""
        def test_asks(lm):
            assert lm("hello", timeout=0.3, retries=3).attempts == 4
    """)
    suite.server.script(hang(), hang(), status(500), reply("at last"))
    ran = suite.run(*way, "--lmstudio-retry-strategy=patient", "--lmstudio-backoff=0.01")
    assert ran.outcomes == {"passed": 1}
    first, second, third = (event["retry_in_ms"] for event in ran.named("gen_error"))
    assert (first, second) == (50, 100)
    assert 0 <= third <= 40
