"""What looks like a secret is masked wherever it stands; ordinary text is left alone."""

from __future__ import annotations

import pytest

from pytest_lmstudio.report.masking import is_secret, masked, masked_data, secrets_of


@pytest.mark.parametrize(
    "name",
    [
        *("LM_API_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GH_PAT", "gitlab_token", "APIKEY"),
        *("GPG_PASSPHRASE", "SESSION_COOKIE", "GOOGLE_CREDENTIALS", "BASIC_AUTH", "TWINE_PASSWD", "JWT_SECRETS"),
    ],
)
def test_the_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "TOKENIZERS_PARALLELISM",
        "KEYBOARD",
        "GIT_AUTHOR_NAME",
        "XAUTHORITY",
        "PYTHONPATH",
        "LMSTUDIO_URL",
        "PATTERN",
    ],
)
def test_what_only_resembles_one_is_not(name: str) -> None:
    assert not is_secret(name)


def test_values_too_short_to_be_told_from_words_are_no_secrets() -> None:
    assert secrets_of({"A_KEY": "12345", "B_KEY": "123456", "C": "7654321"}) == ("123456",)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def\nnext", "Authorization: ***\nnext"),
        ('{"authorization":"Basic dXNlcjpwYXNz","x":1}', '{"authorization":"***","x":1}'),
        ("proxy-authorization = Negotiate YII", "proxy-authorization = ***"),
        ("x-api-key: 12", "x-api-key: ***"),
        ("Cookie: a=1; b=2\r\nHost: x", "Cookie: ***\r\nHost: x"),
        ("set-cookie: sid=1; HttpOnly", "set-cookie: ***"),
        ("GET http://me:pw@h/v1?key=abc&n=1", "GET http://h/v1?key=***&n=1"),
        ("https://h/?access_token=abc#x", "https://h/?access_token=***#x"),
        ("sk-proj-aaaaaaaaaaaaaaaaaaaaaaa.", "***."),
        ("used ghp_aaaaaaaaaaaaaaaaaaaaaaaa", "used ***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig", "***"),
        ("sk-lm-AbCdEf:123456", "***"),
    ],
)
def test_what_stands_where_secrets_stand_or_has_their_form_is_masked(text: str, shown: str) -> None:
    assert masked(text, ()) == shown


@pytest.mark.parametrize(
    "text",
    [
        "the key of the matter: authorization is a word",
        "tokens: 12, max_tokens=8, monkey=1",
        "risk-adjusted-return-of-the-portfolio",
        "http://127.0.0.1:1234/v1/models?page=2",
        "task-based-scheduling-for-everyone-here",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert masked(text, ()) == text


def test_data_keeps_its_names_and_shape() -> None:
    data = {"secret": ["secret", {"n": 1, "x": "a secret b"}], "t": ("secret",), "none": None}
    assert masked_data(data, ("secret",)) == {"secret": ["***", {"n": 1, "x": "a *** b"}], "t": ["***"], "none": None}


def test_a_secret_that_a_long_text_was_cut_in_is_masked_as_well() -> None:
    text = "x" * 3990 + "0123456789abcdef0123456789"
    assert masked_data(text, ("0123456789abcdef0123456789",)) == "x" * 3990 + "***...[cut]"
