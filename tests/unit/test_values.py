"""Single values: what is taken, what becomes of it, and what is said of a wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio import values
from pytest_lmstudio.keywords import MARK_KEYWORDS
from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = "expected seconds above 0 and up to 86400, or 'auto'"
MILLISECONDS = "expected milliseconds above 0 and up to 86400000, or 'auto'"
BACKOFF = "expected seconds from 0 to 86400"
COUNT = "expected a whole number from 0 to 1000000"
POSITIVE = "expected a whole number from 1 to 1000000"
SHARE = "expected a share such as 5% or 0.05, from 0 to 100%"
BREAKER = "expected errors in a row and seconds, such as 5:30, or 'off'"
URL = "expected a base URL such as http://127.0.0.1:1234, or 'embedded'"
CONTROL = "expected text without control characters"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.timeout, "90", 90.0),
        (values.timeout, "auto", "auto"),
        (values.timeout, "86400", 86400.0),
        (values.timeout, "1e-3", 0.001),
        (values.timeout_ms, "45000", 45.0),
        (values.timeout_ms, "auto", "auto"),
        (values.backoff, "0", 0.0),
        (values.backoff_ms, "800", 0.8),
        (values.backoff_ms, "0", 0.0),
        (values.wait, "60", 60.0),
        (values.threshold, "off", None),
        (values.threshold, "2.5", 2.5),
        (values.threshold_ms, "off", None),
        (values.threshold_ms, "2500", 2.5),
        (values.retries, "0", 0),
        (values.retries, "+5", 5),
        (values.positive, "1000000", 1_000_000),
        (values.rate, "5%", 0.05),
        (values.rate, "0.05", 0.05),
        (values.rate, "5 %", 0.05),
        (values.rate, "100%", 1.0),
        (values.rate, "1", 1.0),
        (values.rate, "0", 0.0),
        (values.breaker, "5:30", BreakerLimits(5, 30.0)),
        (values.breaker, "1:0", BreakerLimits(1, 0.0)),
        (values.breaker, "off", None),
        (values.switch, "ON", True),
        (values.switch, "false", False),
        (values.recipe, "slow-model", "slow-model"),
        (values.text, "", ""),
        (values.folder, "a\u3000b c", "a\u3000b c"),
        (values.file, "out/report.json", "out/report.json"),
    ],
)
def test_a_value_is_read(read: Callable[[str], Any], text: str, value: object) -> None:
    assert (read(text), type(read(text))) == (value, type(value))


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        *((values.timeout, text, SECONDS) for text in ("", "0", "-1", "86401", "nan", "inf", "AUTO", "5s", "1_0", "٣")),
        *((values.timeout_ms, text, MILLISECONDS) for text in ("0", "1e-323", "86400001", "1e999", "0x10")),
        *((values.backoff, text, BACKOFF) for text in ("-0.1", "auto", "1,5")),
        (values.backoff_ms, "-1", "expected milliseconds from 0 to 86400000"),
        (values.threshold, "0", "expected seconds above 0, or 'off'"),
        (values.threshold_ms, "none", "expected milliseconds above 0, or 'off'"),
        *((values.retries, text, COUNT) for text in ("-1", "1.0", "1e2", "1_0", "٣", "1000001", "9" * 5000, "")),
        *((values.positive, text, POSITIVE) for text in ("0", "-0", "many")),
        *((values.rate, text, SHARE) for text in ("5", "101%", "-1%", "5%%", "%", "", "nan%")),
        *((values.breaker, text, BREAKER) for text in ("5", "0:30", "5:", ":30", "5:-1", "5:30:1", "5:nan", "OFF")),
        (values.switch, "maybe", "expected 'on' or 'off'"),
        (values.recipe, "slow", "expected 'slow-model', 'fast-feedback', 'stress' or 'noisy-network'"),
        *((values.text, text, CONTROL) for text in ("a\nb", "\x1b[31m", "\u202eexe", "\udc80")),
        *((values.name, text, expected) for text, expected in (("", "expected a name"), ("a\0", CONTROL))),
        *((values.file, text, "expected a file, not a folder") for text in ("out/", "out\\")),
    ],
)
def test_a_wrong_value_tells_what_was_expected(read: Callable[[str], Any], text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("embedded", "embedded"),
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234//v1//", "http://127.0.0.1:1234"),
        ("HTTPS://Host/proxy//lm/v1/", "https://Host/proxy/lm"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://host", "http://host"),
        ("http://bücher.example:1", "http://bücher.example:1"),
    ],
)
def test_a_base_url_is_mended(text: str, base: str) -> None:
    assert values.url(text) == base


@pytest.mark.parametrize(
    "text",
    [
        "", "127.0.0.1:1234", "localhost:1234", "ftp://host", "http://", "http://:80", "http://host:0", "http://host:99999",
        "http://host:port", "http://[::1", "http://a b", "http://host/a b", "http://host\\v1", "http://host?x=1",
        "http://host/#top", "http://host/\n", "http://a..b", "http://ü..b", "http://" + "a" * 64, "http://a\u3000b",
        "http://me:p/w@host", "EMBEDDED",
    ],
)  # fmt: skip
def test_what_is_no_base_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        values.url(text)
    assert str(caught.value) in {URL, CONTROL}


@pytest.mark.parametrize("text", ["http://me:secret@host", "http://me@host", "http://:secret@host"])
def test_a_url_with_a_password_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        values.url(text)
    assert str(caught.value) == "a URL may not hold a password; put the token into LM_API_TOKEN"


@given(st.text() | st.text("htp:/@.[]v1?#%ü \\").map("http://".__add__))
def test_any_text_is_a_base_url_or_a_value_error(text: str) -> None:
    try:
        base = values.url(text)
    except ValueError:
        return
    assert values.url(base) == base or base.endswith("/v1")
    assert not base.endswith("/")
    assert "@" not in urlsplit(base).netloc


@pytest.mark.parametrize(
    ("base", "is_local"),
    [
        ("http://127.0.0.1:1234", True),
        ("http://127.1.2.3", True),
        ("http://LOCALHOST:1", True),
        ("http://[::1]:1", True),
        ("http://127.example.com", False),
        ("http://localhost.example.com", False),
        ("http://[::1:2]:1", False),
        ("http://10.0.0.1", False),
    ],
)
def test_only_this_machine_is_loopback(base: str, is_local: bool) -> None:
    assert values.is_loopback(base) is is_local


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://me:p@ss@host/x", "'http://***@host/x'"),
        ("http://me:p/s@host", "'http://***@host'"),
        ("a\x1b[0m", r"'a\x1b[0m'"),
        ("x" * 200, "'" + "x" * 117 + "...'"),
        (True, "True"),
    ],
)
def test_a_quoted_value_is_short_printable_and_without_a_password(value: object, shown: str) -> None:
    assert values.quoted(value) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("timeout", 90.0, "90s"),
        ("timeout", "auto", "auto"),
        ("max_error_rate", 0.05, "5%"),
        ("max_error_rate", 1.0, "100%"),
        ("max_error_rate", 0.125, "12.5%"),
        ("stream", False, "off"),
        ("breaker", None, "off"),
        ("breaker", BreakerLimits(3, 0.2), "3:0.2"),
        ("latency_threshold", None, "off"),
        ("concurrency", 16, "16"),
        ("model", "a\nb", r"a\nb"),
    ],
)
def test_the_header_shows_a_setting_in_the_form_it_is_given_in(name: str, value: object, shown: str) -> None:
    assert values.shown(name, value) == shown


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("timeout", 90, 90.0),
        ("timeout", "auto", "auto"),
        ("retries", 0, 0),
        ("backoff", 0.25, 0.25),
        ("model", "a/b", "a/b"),
        ("cache", False, False),
        ("stream", True, True),
        ("max_tokens", 1, 1),
        ("temperature", 0, 0),
        ("temperature", 1.5, 1.5),
        ("seed", -(10**30), -(10**30)),
        ("system", "Be brief.", "Be brief."),
    ],
)
def test_a_keyword_is_read(name: str, value: object, read: object) -> None:
    assert MARK_KEYWORDS[name](value) == read


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("timeout", value, SECONDS) for value in (0, -1, True, "90", None, float("nan"), 10**400, 86401)),
        *(("retries", value, COUNT) for value in (-1, 2.0, "auto")),
        *(("retries", value, "expected a number") for value in (True, "3", None, float("inf"), 10**400)),
        ("backoff", "auto", BACKOFF),
        *(("cache", value, "expected True or False") for value in (0, 1, "off", None)),
        ("stream", "on", "expected True or False"),
        *(("model", value, "expected a text that is not empty") for value in ("", None, 7)),
        *(("max_tokens", value, "expected a whole number from 1") for value in (0, -1, 1.0, True, "16")),
        *(("temperature", value, "expected a number from 0") for value in (-0.1, "0", True, float("nan"), 10**400)),
        *(("seed", value, "expected a whole number") for value in (1.0, True, "7")),
        ("system", "", "expected a text that is not empty"),
    ],
)
def test_a_wrong_keyword_value_tells_what_was_expected(name: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        MARK_KEYWORDS[name](value)
    assert str(caught.value) == expected


def test_the_recipes_are_those_of_the_documentation() -> None:
    assert values.RECIPES == {
        "slow-model": {"timeout": 90.0, "concurrency": 2},
        "fast-feedback": {"params": (("max_tokens", 256), ("temperature", 0.4))},
        "stress": {"concurrency": 16, "timeout": 20.0},
        "noisy-network": {"retries": 5, "backoff": 0.8},
    }
