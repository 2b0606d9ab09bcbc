"""Text from outside cannot drive a terminal, and tells no secret."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.text import printable, redact, without_userinfo

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("héllo 漢字 👩‍🚀", "héllo 漢字 👩‍🚀"),
        ("\uffff\ufffe\U0001ffff", r"\uffff\ufffe\U0001ffff"),
        ("\u3164\u034f\U000e0100", r"\u3164\u034f\U000e0100"),
        (r"C:\new", r"C:\new"),
        (None, "None"),
    ],
)
def test_control_characters_become_visible_escapes(text: object, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::pwned", r"\x3a:error::pwned"),
        ("  ::set-output name=x::y", r"  \x3a:set-output name=x::y"),
        ("a ::add-mask::b", r"a \x3a:add-mask::b"),
        ("a\n::error::b", r"a\n::error::b"),
        ("##[error]a", r"\x23#[error]a"),
        ("a##[error]a", r"a\x23#[error]a"),
        ("###[error]a", r"#\x23#[error]a"),
        ("a ##vso[task.setvariable variable=b]c", r"a \x23#vso[task.setvariable variable=b]c"),
        ("a##TeamCity[buildStatus text='b']", r"a\x23#TeamCity[buildStatus text='b']"),
        ("##\x1b[", r"##\x1b["),
        (
            "test_a.py::test_b[x::y] std::vector :: Int ## [x](y) ::",
            "test_a.py::test_b[x::y] std::vector :: Int ## [x](y) ::",
        ),
    ],
)
def test_nothing_is_left_that_a_ci_system_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.sampled_from(":#[]voteamciy \u00a0\n\x1bA")), st.none() | st.integers(0, 20))
def test_no_mixture_becomes_a_command(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert re.search(r"^\s*::[A-Za-z]|##(?:vso|teamcity)?\[", shown, re.IGNORECASE) is None
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abc..."), ("\n\n\n", 6, r"\n\n\n"), ("abc", 2, ".."), ("abc", 0, "")],
)
def test_text_is_cut_to_the_limit(text: str, limit: int, shown: str) -> None:
    assert printable(text, limit) == shown


@given(ANY_TEXT, st.none() | st.integers(0, 20))
def test_nothing_printable_returns_can_control_a_terminal(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert not [char for char in shown if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in BIDI]
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert limit is None or len(shown) <= limit


@given(ANY_TEXT)
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bearer s3cret-token-1 sent", "Bearer *** sent"),
        ("twice s3cret-token-1s3cret-token-1", "twice ******"),
        ("cut short: s3cret-tok...", "cut short: ***..."),
        ("too short to tell: s3cret-", "too short to tell: s3cret-"),
        ("ab and abc", "*** and ***c"),
    ],
)
def test_secrets_and_their_longer_prefixes_are_masked(text: str, shown: str) -> None:
    assert redact(text, ["s3cret-token-1", "ab", ""]) == shown


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    assert redact("x=password-and-more", ["password", "password-and-more"]) == "x=***"


@pytest.mark.parametrize("token", ["sk-lm-abc123", "sk-lm-AbC:dEf-9_x"])
def test_lm_studio_tokens_are_masked_wherever_they_stand(token: str) -> None:
    assert redact(f'Malformed token "{token}", sk-lm-x.') == 'Malformed token "***", ***.'


@given(ANY_TEXT, st.text(min_size=1), ANY_TEXT)
def test_no_secret_survives(before: str, secret: str, after: str) -> None:
    left = redact(before + secret + after, [secret])
    assert secret not in left or secret in "******"


def test_urls_lose_user_and_password() -> None:
    text = "at http://me:p@ss@host:1234/v1?x=a@b and https://host/@me"
    assert without_userinfo(text) == "at http://host:1234/v1?x=a@b and https://host/@me"
