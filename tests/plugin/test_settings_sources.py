"""Every setting from every place it can be given in: what it becomes, and which place wins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.plugin.inner import run, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: Mapping[str, Any] = {
    "url": "http://127.0.0.1:1234",
    "model": None,
    "timeout": 45.0,
    "first_token_timeout": None,
    "inter_token_timeout": 60.0,
    "retries": 3,
    "backoff": 0.8,
    "retry_strategy": "exponential",
    "concurrency": 4,
    "latency_threshold": None,
    "breaker": "5:30",
    "cache": "readwrite",
    "cache_size": 500,
    "pipeline_version": "",
    "max_error_rate": 0.05,
    "on_error": "gate",
    "stream": True,
    "order": "affinity",
    "recipe": None,
    "wait": 0.0,
    "report": None,
    "html": None,
    "html_texts": False,
    "metrics_port": None,
    "metrics_file": None,
    "params": {},
}


class Given(NamedTuple):
    """A setting as its three places spell it, each with what it becomes."""

    name: str
    variable: str
    command_line: tuple[str, Any]
    environment: tuple[str, Any]
    ini: tuple[str, Any]


GIVEN = [
    Given(
        "url",
        "LMSTUDIO_URL",
        ("http://h:1/v1/", "http://h:1"),
        ("https://h//lm//v1", "https://h/lm"),
        ("http://[::1]:9", "http://[::1]:9"),
    ),
    Given("model", "LMSTUDIO_MODEL", ("a/b@q4", "a/b@q4"), ("b:2", "b:2"), (" with space ", "with space")),
    Given("timeout", "LLM_REQUEST_TIMEOUT_MS", ("1.5", 1.5), ("1500", 1.5), ("auto", "auto")),
    Given("retries", "LLM_MAX_RETRIES", ("0", 0), ("7", 7), ("1", 1)),
    Given("backoff", "LLM_RETRY_BACKOFF_MS", ("0", 0.0), ("250", 0.25), ("2", 2.0)),
    Given(
        "retry_strategy",
        "LLM_RETRY_STRATEGY",
        ("decorrelated", "decorrelated"),
        ("exponential", "exponential"),
        ("decorrelated", "decorrelated"),
    ),
    Given("concurrency", "EVAL_CONCURRENCY", ("1", 1), ("12", 12), ("3", 3)),
    Given("latency_threshold", "LLM_LATENCY_THRESHOLD_MS", ("2.5", 2.5), ("2500", 2.5), ("off", None)),
    Given("breaker", "LLM_BREAKER", ("3:0.5", "3:0.5"), ("off", None), ("10:60", "10:60")),
    Given("cache", "LLM_CACHE", ("refresh", "refresh"), ("off", "off"), ("offline", "offline")),
    Given("cache_size", "EVAL_CACHE_SIZE", ("1", 1), ("9999", 9999), ("20", 20)),
    Given("pipeline_version", "EVAL_PIPELINE_VERSION", ("v1", "v1"), ("2026-11 (x)", "2026-11 (x)"), ("ü", "ü")),
    Given("max_error_rate", "LLM_MAX_ERROR_RATE", ("0%", 0.0), ("0.1", 0.1), ("12.5%", 0.125)),
    Given("on_error", "LLM_ON_ERROR", ("fail", "fail"), ("gate", "gate"), ("fail", "fail")),
    Given("stream", "LLM_STREAM", ("", True), ("off", False), ("True", True)),
    Given("recipe", "LLM_RECIPE", ("stress", "stress"), ("slow-model", "slow-model"), ("stress", "stress")),
    Given("wait", "LMSTUDIO_WAIT", ("0.5", 0.5), ("90", 90.0), ("1", 1.0)),
    Given(
        "order",
        "LMSTUDIO_ORDER",
        ("as-written", "as-written"),
        ("affinity", "affinity"),
        ("as-written", "as-written"),
    ),
    Given("html_texts", "LMSTUDIO_HTML_TEXTS", ("", True), ("off", False), ("on", True)),
    Given("metrics_port", "LMSTUDIO_METRICS_PORT", ("9100", 9100), ("0", 0), ("65535", 65535)),
]


@pytest.fixture(autouse=True)
def nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run take the port of the metrics that it names: the tests beside this one name the same."""
    monkeypatch.setattr("pytest_lmstudio.metrics_server.Metrics.pytest_sessionstart", lambda self, session: None)


def flag(name: str, value: str) -> str:
    return f"--lmstudio-{name.replace('_', '-')}" + (f"={value}" if value else "")


def ini(pytester: pytest.Pytester, **values: str) -> None:
    pytester.makefile(".ini", pytest="\n".join(["[pytest]", *(f"lmstudio_{k} = {v}" for k, v in values.items())]))


def test_without_any_setting_every_value_is_the_documented_default(pytester: pytest.Pytester) -> None:
    assert settings_of(pytester) == {**DEFAULTS, "dir": str(pytester.path / ".lmstudio")}


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: given.name)
def test_command_line_beats_environment_beats_ini(
    given: Given, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini(pytester, **{given.name: given.ini[0]})
    from_ini = settings_of(pytester, "-n0")[given.name]
    monkeypatch.setenv(given.variable, given.environment[0])
    from_environment = settings_of(pytester, "-n0")[given.name]
    from_command_line = settings_of(pytester, "-n0", flag(given.name, given.command_line[0]))[given.name]
    assert [from_ini, from_environment, from_command_line] == [
        given.ini[1],
        given.environment[1],
        given.command_line[1],
    ]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: given.name)
def test_an_empty_environment_variable_counts_as_unset(
    given: Given, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini(pytester, **{given.name: given.ini[0]})
    monkeypatch.setenv(given.variable, "")
    assert settings_of(pytester, "-n0")[given.name] == given.ini[1]


@pytest.mark.parametrize(
    ("args", "stream"),
    [
        (["--no-lmstudio-stream"], False),
        (["--no-lmstudio-stream", "--lmstudio-stream"], True),
        (["-o", "lmstudio_stream=no"], False),
    ],
)
def test_streaming_is_switched_by_a_pair_of_flags(args: list[str], stream: bool, pytester: pytest.Pytester) -> None:
    assert settings_of(pytester, *args)["stream"] is stream


@pytest.mark.parametrize(
    "table",
    [
        "tool.pytest.ini_options",
        pytest.param(
            "tool.pytest",
            marks=pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="there are no native tables before 9.0"),
        ),
    ],
)
def test_a_pyproject_may_hold_texts(table: str, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(f'[{table}]\nlmstudio_timeout = "90"\nlmstudio_stream = "off"\nlmstudio_breaker = "2:1"')
    found = settings_of(pytester)
    assert (found["timeout"], found["stream"], found["breaker"]) == (90.0, False, "2:1")


@pytest.mark.parametrize(
    "table",
    [
        "tool.pytest.ini_options",
        pytest.param(
            "tool.pytest",
            marks=pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="native tables hold texts alone before 9.2"),
        ),
    ],
)
def test_a_pyproject_may_hold_numbers_and_booleans(table: str, pytester: pytest.Pytester) -> None:
    values = "timeout = 90", "backoff = 0.25", "stream = false", "max_error_rate = 0", "pipeline_version = 7"
    pytester.makepyprojecttoml("\n".join([f"[{table}]", *(f"lmstudio_{value}" for value in values)]))
    found = settings_of(pytester)
    names = ("timeout", "backoff", "stream", "max_error_rate", "pipeline_version")
    assert [found[name] for name in names] == [90.0, 0.25, False, 0.0, "7"]


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "slow-model": {"timeout": 90.0, "concurrency": 2},
    "fast-feedback": {"params": {"max_tokens": 256, "temperature": 0.4}},
    "stress": {"concurrency": 16, "timeout": 20.0},
    "noisy-network": {"retries": 5, "backoff": 0.8},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_changes_what_it_says_and_nothing_else(recipe: str, pytester: pytest.Pytester) -> None:
    found = settings_of(pytester, f"--lmstudio-recipe={recipe}")
    home = str(pytester.path / ".lmstudio")
    assert found == {**DEFAULTS, "dir": home, "recipe": recipe, **RECIPES[recipe]}


@pytest.mark.parametrize("source", ["command line", "environment", "ini"])
def test_what_is_given_beats_a_recipe_wherever_it_was_given(
    source: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["-n0", "--lmstudio-recipe=stress"]
    if source == "command line":
        args += ["--lmstudio-timeout=45"]
    elif source == "environment":
        monkeypatch.setenv("LLM_REQUEST_TIMEOUT_MS", "45000")
    else:
        ini(pytester, timeout="45")
    found = settings_of(pytester, *args)
    assert (found["timeout"], found["concurrency"]) == (45.0, 16)


def test_the_closest_marker_beats_every_other_source(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_RETRIES", "1")
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.llm(timeout=1, retries=1, model="of-module", backoff=1)

        def values(lm):
            return lm.settings.timeout, lm.settings.retries, lm.settings.model, lm.settings.backoff

        @pytest.mark.llm(timeout=2, retries=2, model="of-class")
        class TestClass:
            @pytest.mark.llm(timeout="auto", retries=0)
            def test_near(self, lm):
                assert values(lm) == ("auto", 0, "of-class", 1)

            @pytest.mark.llm(stream=False, cache=False)
            def test_class(self, lm):
                assert values(lm) == (2, 2, "of-class", 1)
                assert (lm.settings.stream, lm.settings.cache) == (False, "off")

        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.llm(retries=9))])
        def test_parameter(lm, n):
            assert values(lm) == (1, 9, "of-module", 1)
        """
    )
    result = run(pytester, "--lmstudio-timeout=33", "--lmstudio-retries=44", "--lmstudio-model=of-command-line", "-n0")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("given/here", "given/here"),
        ("/abs/dir", "/abs/dir"),
        ("~/evals", "HOME/evals"),
        ("~nobody-has-this-name/x", "~nobody-has-this-name/x"),
    ],
)
def test_a_folder_may_begin_with_a_tilde(
    value: str, folder: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = pytester.mkdir("home of someone")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    expected = Path(pytester.path, folder.replace("HOME", str(home)))
    assert settings_of(pytester, f"--lmstudio-dir={value}")["dir"] == str(expected)
