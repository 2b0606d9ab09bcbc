"""Retry-After in all its forms, and in none."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_lmstudio.engine.classify import retry_after

#: Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
THEN_S = 784_111_777.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0000000000000000000000000000000007"}, 7.0),
        ({"retry-after": "9" * 400}, 1e9),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 7.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT"}, 7.0),
        ({"retry-after": "Sun Nov  6 08:49:37 1994"}, 7.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:29 GMT"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-1"}, None),
        *(({"retry-after": text}, None) for text in ("", "soon", "-1", "+1", "1_0", "1e3", "0x1", "\u0661", "nan")),
        *(({"retry-after": text}, None) for text in ("inf", "1 s", "1, 2", "Sun, 99 Nov")),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, THEN_S - 7) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="only POSIX can change the time zone")
def test_a_date_is_gmt_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("TZ")
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        dates = ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 -0000", "Sun, 06 Nov 1994 08:49:37 GMT"]
        assert [retry_after({"retry-after": date}, THEN_S - 7) for date in dates] == [7.0, 7.0, 7.0]
    finally:
        monkeypatch.setenv("TZ", before) if before else monkeypatch.delenv("TZ")
        time.tzset()


def test_a_date_counts_from_now() -> None:
    assert retry_after({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}) == 0.0


@given(st.text() | st.from_regex(r"\w{3}, \d{1,9} \w{3} \d{1,9} [\d:]{1,12} [+-]?\w{1,9}"))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_no_header_breaks_the_client(text: str) -> None:
    seconds = retry_after({"retry-after": text, "retry-after-ms": text}, THEN_S)
    assert seconds is None or 0 <= seconds < float("inf")
