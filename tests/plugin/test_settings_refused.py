"""A wrong value, wherever it stands, is one line and exit 4, with and without workers."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.plugin.inner import QUIET, refusal, run

SECONDS = "expected seconds above 0 and up to 86400, or 'auto'"
MILLISECONDS = "expected milliseconds above 0 and up to 86400000, or 'auto'"
FROM_0, FROM_1 = (f"expected a whole number from {least} to 1000000" for least in (0, 1))
URL = "expected a base URL such as http://127.0.0.1:1234, or 'embedded'"
BREAKER = "expected errors in a row and seconds, such as 5:30, or 'off'"
SHARE = "expected a share such as 5% or 0.05, from 0 to 100%"
PASSWORD = "a URL may not hold a password; put the token into LM_API_TOKEN"
PRINTABLE = "expected text without control characters"


class Wrong(NamedTuple):
    """A wrong value, and what is said about it; the environment may use another unit."""

    name: str
    variable: str
    value: str
    problem: str
    problem_ms: str | None = None


WRONG = [
    Wrong("url", "LMSTUDIO_URL", "127.0.0.1:1234", URL),
    Wrong("url", "LMSTUDIO_URL", "http://127.0.0.1:99999", URL),
    Wrong("url", "LMSTUDIO_URL", "http://127.0.0.1:1234?a=b", URL),
    Wrong("model", "LMSTUDIO_MODEL", "a\x1b[31mb", PRINTABLE),
    Wrong("timeout", "LLM_REQUEST_TIMEOUT_MS", "0", SECONDS, MILLISECONDS),
    Wrong("timeout", "LLM_REQUEST_TIMEOUT_MS", "45s", SECONDS, MILLISECONDS),
    Wrong("retries", "LLM_MAX_RETRIES", "-1", FROM_0),
    Wrong("retries", "LLM_MAX_RETRIES", "1.5", FROM_0),
    Wrong(
        "backoff",
        "LLM_RETRY_BACKOFF_MS",
        "nan",
        "expected seconds from 0 to 86400",
        "expected milliseconds from 0 to 86400000",
    ),
    Wrong(
        "retry_strategy",
        "LLM_RETRY_STRATEGY",
        "linear",
        "expected 'exponential', 'decorrelated', or a name that a hook knows",
    ),
    Wrong("concurrency", "EVAL_CONCURRENCY", "0", FROM_1),
    Wrong("concurrency", "EVAL_CONCURRENCY", "many", FROM_1),
    Wrong(
        "latency_threshold",
        "LLM_LATENCY_THRESHOLD_MS",
        "0",
        "expected seconds above 0, or 'off'",
        "expected milliseconds above 0, or 'off'",
    ),
    Wrong("breaker", "LLM_BREAKER", "5", BREAKER),
    Wrong("breaker", "LLM_BREAKER", "0:30", BREAKER),
    Wrong("cache", "LLM_CACHE", "on", "expected 'readwrite', 'refresh', 'off' or 'offline'"),
    Wrong("cache_size", "EVAL_CACHE_SIZE", "0", FROM_1),
    Wrong("pipeline_version", "EVAL_PIPELINE_VERSION", "v1\x07", PRINTABLE),
    Wrong("max_error_rate", "LLM_MAX_ERROR_RATE", "101%", SHARE),
    Wrong("max_error_rate", "LLM_MAX_ERROR_RATE", "5", SHARE),
    Wrong("on_error", "LLM_ON_ERROR", "ignore", "expected 'gate' or 'fail'"),
    Wrong("recipe", "LLM_RECIPE", "slow", "expected 'slow-model', 'fast-feedback', 'stress' or 'noisy-network'"),
    Wrong("wait", "LMSTUDIO_WAIT", "-1", "expected seconds from 0 to 86400"),
    Wrong("dir", "LMSTUDIO_DIR", "a\x1bb", PRINTABLE),
    Wrong("report", "LMSTUDIO_REPORT", "out/", "expected a file, not a folder"),
    Wrong("html", "LMSTUDIO_HTML", "out/", "expected a file, not a folder"),
    Wrong("metrics_port", "LMSTUDIO_METRICS_PORT", "65536", "expected a port from 0 to 65535"),
    Wrong("metrics_file", "LMSTUDIO_METRICS_FILE", "out/", "expected a file, not a folder"),
    Wrong("order", "LMSTUDIO_ORDER", "random", "expected 'affinity' or 'as-written'"),
]
LETS_ALL_PASS = "def test_passes():\n    pass\n"


def wrong_id(wrong: Wrong) -> str:
    return f"{wrong.name}-{wrong.value!r}"


def shown(wrong: Wrong) -> str:
    return f"'{wrong.value}'".replace("\x1b", "\\x1b").replace("\x07", "\\x07")


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LETS_ALL_PASS)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("wrong", WRONG, ids=wrong_id)
def test_a_wrong_value_on_the_command_line(wrong: Wrong, workers: str, pytester: pytest.Pytester) -> None:
    flag = f"--lmstudio-{wrong.name.replace('_', '-')}"
    line = refusal(run(pytester, workers, f"{flag}={wrong.value}"))
    assert line == f"{flag}={shown(wrong)} (command line): {wrong.problem}"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("wrong", [*WRONG, Wrong("stream", "LLM_STREAM", "2", "expected 'on' or 'off'")], ids=wrong_id)
def test_a_wrong_value_in_the_environment(
    wrong: Wrong, workers: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wrong.variable, wrong.value)
    line = refusal(run(pytester, workers))
    assert line == f"{wrong.variable}={shown(wrong)} (environment): {wrong.problem_ms or wrong.problem}"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("wrong", [*WRONG, Wrong("stream", "LLM_STREAM", "2", "expected 'on' or 'off'")], ids=wrong_id)
def test_a_wrong_value_in_the_ini_file(wrong: Wrong, workers: str, pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\nlmstudio_{wrong.name} = {wrong.value}")
    line = refusal(run(pytester, workers))
    assert line == f"lmstudio_{wrong.name}={shown(wrong)} (tox.ini): {wrong.problem}"


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="native tables hold texts alone before 9.2")
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("true", f"lmstudio_timeout='true' (pyproject.toml): {SECONDS}"),
        ("-1", f"lmstudio_timeout='-1' (pyproject.toml): {SECONDS}"),
    ],
)
def test_a_wrong_value_in_a_native_table(value: str, problem: str, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest]\nlmstudio_timeout = {value}")
    assert refusal(run(pytester)) == problem


def test_a_list_where_one_value_is_wanted_is_one_line_of_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("[tool.pytest]\nlmstudio_retries = [1, 2]")
    assert "'lmstudio_retries' expects" in refusal(run(pytester))


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize(
    ("variable", "value"), [("LLM_MAX_RETRIES", "-1"), ("LLM_RETRY_STRATEGY", "linear"), ("LM_API_TOKEN", "a\nb")]
)
def test_a_wrong_value_in_a_process_of_its_own(
    variable: str, value: str, workers: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal(pytester.runpytest_subprocess(*QUIET, workers)).startswith(variable)


@pytest.mark.parametrize("variable", ["LM_API_TOKEN", "LMSTUDIO_API_TOKEN"])
@pytest.mark.parametrize("token", ["first-half\nsecond-half", "first-half\tsecond-half", "first-half-é"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(
    variable: str, token: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, token)
    assert refusal(run(pytester)) == (
        f"{variable} (environment): the token holds characters that no HTTP header can carry; set it again"
    )


@pytest.mark.parametrize(
    ("url", "shown", "problem"),
    [
        ("http://user:hunter2@127.0.0.1:1234", "http://***@127.0.0.1:1234", PASSWORD),
        ("http://hunter2@127.0.0.1:1234", "http://***@127.0.0.1:1234", PASSWORD),
        ("http://user:hun@ter2@host", "http://***@host", PASSWORD),
        ("http://user:hun/ter2@host", "http://***@host", URL),
        ("http://user:hunter2@host:x", "http://***@host:x", URL),
        ("user:hunter2@host:1234", "***@host:1234", URL),
        ("//user:hunter2@host", "//***@host", URL),
    ],
)
def test_a_url_with_a_password_is_refused_without_showing_it(
    url: str, shown: str, problem: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_command_line = run(pytester, f"--lmstudio-url={url}")
    pytester.makeini(f"[pytest]\nlmstudio_url = {url}")
    in_ini = run(pytester)
    monkeypatch.setenv("LMSTUDIO_URL", url)
    in_environment = run(pytester)
    assert refusal(on_command_line) == f"--lmstudio-url='{shown}' (command line): {problem}"
    assert refusal(in_ini) == f"lmstudio_url='{shown}' (tox.ini): {problem}"
    assert refusal(in_environment) == f"LMSTUDIO_URL='{shown}' (environment): {problem}"
    assert "ter2" not in on_command_line.stdout.str() + in_ini.stdout.str() + in_environment.stdout.str()


class Taken(NamedTuple):
    """A path where something of another sort stands, and what is said about it."""

    option: str
    path: str
    problem: str


@pytest.mark.parametrize(
    "taken",
    [
        Taken("dir", "a-file", "expected a folder, {root}/a-file is a file"),
        Taken("dir", "a-file/below", "{root}/a-file is not a folder"),
        Taken("report", "a-folder", "expected a file, {root}/a-folder is a folder"),
        Taken("report", "a-file/report.json", "{root}/a-file is not a folder"),
        Taken("html", "a-folder", "expected a file, {root}/a-folder is a folder"),
        Taken("html", "a-file/x/report.html", "{root}/a-file is not a folder"),
    ],
    ids=lambda taken: f"{taken.option}-{taken.path}",
)
@pytest.mark.parametrize("source", ["command line", "environment"])
def test_a_path_where_nothing_can_be_written_is_refused_before_the_run(
    taken: Taken, source: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pytester.path
    (root / "a-file").write_text("", encoding="utf-8")
    (root / "a-folder").mkdir()
    variable, flag = f"LMSTUDIO_{taken.option.upper()}", f"--lmstudio-{taken.option}"
    if source == "environment":
        monkeypatch.setenv(variable, taken.path)
    result = run(pytester, *([f"{flag}={taken.path}"] if source == "command line" else []))
    name = flag if source == "command line" else variable
    problem = taken.problem.format(root=root)
    assert refusal(result) == f"{name}='{taken.path}' ({source}): {problem}"


def test_a_file_named_like_our_folder_does_not_disturb_a_plain_suite(pytester: pytest.Pytester) -> None:
    (pytester.path / ".lmstudio").write_text("", encoding="utf-8")
    run(pytester).assert_outcomes(passed=1)
