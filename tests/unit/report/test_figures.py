"""Numbers as people read them, everywhere the same."""

from __future__ import annotations

import pytest

from pytest_lmstudio.report import figures


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0%"),
        (0.0666, "6.7%"),
        (0.0004, "<0.1%"),
        (0.0005, "0.1%"),
        (0.9996, ">99.9%"),
        (0.999, "99.9%"),
        (1, "100%"),
    ],
)
def test_only_none_is_0_and_only_all_is_100_percent(share: float, shown: str) -> None:
    assert figures.rate(share) == shown


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        *((0, "0 ms"), (999.4, "999 ms"), (999.6, "1 s"), (1500, "1.5 s"), (45_012, "45 s"), (300_000, "300 s")),
        *((599_900, "599.9 s"), (600_000, "10 min"), (725_000, "12 min 5 s"), (3_599_600, "1 h")),
        *((3_600_000, "1 h"), (7_800_000, "2 h 10 min"), (86_400_000 * 50, "1,200 h")),
    ],
)
def test_times_read_well_however_long_they_are(ms: float, shown: str) -> None:
    assert figures.duration(ms) == shown


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (1, "10 s"),
        (31_000, "40 s"),
        (111_000, "2 min"),
        (125_000, "3 min"),
        (3_590_000, "1 h"),
        (7_790_000, "2 h 10 min"),
    ],
)
def test_an_estimate_is_no_finer_than_it_can_be(ms: float, shown: str) -> None:
    assert figures.left(ms) == shown


def test_counts_have_their_thousands_apart_and_the_noun_that_fits() -> None:
    assert [figures.amount(12345), figures.amount(1.25, 1)] == ["12,345", "1.2"]
    assert [figures.counted(1, "call"), figures.counted(2000, "retry", "retries")] == ["1 call", "2,000 retries"]
    assert figures.interval([0.018, 0.213]) == "1.8% to 21.3%"


def test_what_is_not_known_is_a_dash() -> None:
    unknown = {figures.rate(None), figures.interval(None), figures.duration(None), figures.amount(None)}
    assert unknown == {figures.UNKNOWN}
