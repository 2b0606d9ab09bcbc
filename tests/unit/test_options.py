"""The table of settings, read from a command line, an environment and an ini file that only this test knows."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio import names, options, values
from pytest_lmstudio.engine import retry
from pytest_lmstudio.flags import FLAGS
from pytest_lmstudio.settings import BreakerLimits, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPELLINGS = {
    "url": ("--lmstudio-url", "LMSTUDIO_URL", "lmstudio_url"),
    "model": ("--lmstudio-model", "LMSTUDIO_MODEL", "lmstudio_model"),
    "timeout": ("--lmstudio-timeout", "LLM_REQUEST_TIMEOUT_MS", "lmstudio_timeout"),
    "first_token_timeout": (
        "--lmstudio-first-token-timeout",
        "LLM_FIRST_TOKEN_TIMEOUT_MS",
        "lmstudio_first_token_timeout",
    ),
    "inter_token_timeout": (
        "--lmstudio-inter-token-timeout",
        "LLM_INTER_TOKEN_TIMEOUT_MS",
        "lmstudio_inter_token_timeout",
    ),
    "retries": ("--lmstudio-retries", "LLM_MAX_RETRIES", "lmstudio_retries"),
    "backoff": ("--lmstudio-backoff", "LLM_RETRY_BACKOFF_MS", "lmstudio_backoff"),
    "retry_strategy": ("--lmstudio-retry-strategy", "LLM_RETRY_STRATEGY", "lmstudio_retry_strategy"),
    "concurrency": ("--lmstudio-concurrency", "EVAL_CONCURRENCY", "lmstudio_concurrency"),
    "latency_threshold": ("--lmstudio-latency-threshold", "LLM_LATENCY_THRESHOLD_MS", "lmstudio_latency_threshold"),
    "breaker": ("--lmstudio-breaker", "LLM_BREAKER", "lmstudio_breaker"),
    "cache": ("--lmstudio-cache", "LLM_CACHE", "lmstudio_cache"),
    "cache_size": ("--lmstudio-cache-size", "EVAL_CACHE_SIZE", "lmstudio_cache_size"),
    "pipeline_version": ("--lmstudio-pipeline-version", "EVAL_PIPELINE_VERSION", "lmstudio_pipeline_version"),
    "max_error_rate": ("--lmstudio-max-error-rate", "LLM_MAX_ERROR_RATE", "lmstudio_max_error_rate"),
    "on_error": ("--lmstudio-on-error", "LLM_ON_ERROR", "lmstudio_on_error"),
    "stream": ("--lmstudio-stream", "LLM_STREAM", "lmstudio_stream"),
    "order": ("--lmstudio-order", "LMSTUDIO_ORDER", "lmstudio_order"),
    "recipe": ("--lmstudio-recipe", "LLM_RECIPE", "lmstudio_recipe"),
    "wait": ("--lmstudio-wait", "LMSTUDIO_WAIT", "lmstudio_wait"),
    "dir": ("--lmstudio-dir", "LMSTUDIO_DIR", "lmstudio_dir"),
    "report": ("--lmstudio-report", "LMSTUDIO_REPORT", "lmstudio_report"),
    "html": ("--lmstudio-html", "LMSTUDIO_HTML", "lmstudio_html"),
    "html_texts": ("--lmstudio-html-texts", "LMSTUDIO_HTML_TEXTS", "lmstudio_html_texts"),
    "metrics_port": ("--lmstudio-metrics-port", "LMSTUDIO_METRICS_PORT", "lmstudio_metrics_port"),
    "metrics_file": ("--lmstudio-metrics-file", "LMSTUDIO_METRICS_FILE", "lmstudio_metrics_file"),
}


@dataclass
class Invocation:
    dir: Path


@dataclass
class FakeConfig:
    """As much of pytest's config as the table reads."""

    rootpath: Path
    command_line: Mapping[str, Any] = field(default_factory=dict)
    ini: Mapping[str, Any] = field(default_factory=dict)
    inipath: Path | None = None

    def __post_init__(self) -> None:
        self.invocation_params = Invocation(self.rootpath / "started-here")

    def getoption(self, name: str, default: object = None) -> object:
        return self.command_line.get(name.removeprefix("lmstudio_"), default)

    def getini(self, name: str) -> object:
        return self.ini.get(name.removeprefix("lmstudio_"))


def resolve(
    root: Path,
    command_line: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, Any] | None = None,
) -> options.Resolved:
    config = FakeConfig(root, command_line or {}, ini or {}, root / "tox.ini")
    return options.resolve(cast("pytest.Config", config), environ or {})


def test_every_setting_is_spelled_as_documented() -> None:
    assert {flag.name: (flag.option, flag.env, flag.ini) for flag in FLAGS} == SPELLINGS
    assert set(Settings._fields) == SPELLINGS.keys() | {"params"}


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    assert resolved == options.Resolved(Settings(dir=str(tmp_path / ".lmstudio")), {})
    assert options.header_lines(resolved, tmp_path / ".lmstudio") == []
    assert not resolved.wants_workers


@pytest.mark.parametrize(
    ("command_line", "variable", "ini", "found"),
    [
        ({"timeout": "1"}, "2000", "3", (1.0, "command line")),
        ({}, "2000", "3", (2.0, "environment")),
        ({}, "", "3", (3.0, "ini")),
        ({}, "", 3, (3.0, "ini")),
        ({}, "", "", (90.0, "recipe")),
    ],
)
def test_the_closest_source_wins(
    tmp_path: Path, command_line: dict[str, str], variable: str, ini: object, found: tuple[float, str]
) -> None:
    environ = {"LLM_REQUEST_TIMEOUT_MS": variable}
    resolved = resolve(tmp_path, {"recipe": "slow-model", **command_line}, environ, {"timeout": ini})
    assert (resolved.settings.timeout, resolved.sources["timeout"]) == found
    assert (resolved.settings.concurrency, resolved.sources["concurrency"]) == (2, "recipe")


@pytest.mark.parametrize(("value", "stream"), [(True, True), (False, False), ("off", False)])
def test_an_ini_file_may_hold_a_switch_as_a_bool(tmp_path: Path, value: object, stream: bool) -> None:
    assert resolve(tmp_path, ini={"stream": value}).settings.stream is stream


@pytest.mark.parametrize(
    ("command_line", "environ", "ini", "line"),
    [
        ({"wait": "-1"}, {}, {}, "--lmstudio-wait='-1' (command line): expected seconds from 0 to 86400"),
        ({}, {"LLM_STREAM": "x"}, {}, "LLM_STREAM='x' (environment): expected 'on' or 'off'"),
        ({}, {"LLM_ON_ERROR": " "}, {}, "LLM_ON_ERROR=' ' (environment): expected 'gate' or 'fail'"),
        ({}, {}, {"on_error": "warn"}, "lmstudio_on_error='warn' (tox.ini): expected 'gate' or 'fail'"),
        ({"model": ""}, {}, {}, "--lmstudio-model='' (command line): expected a name"),
        (
            {"url": "http://me:s3cret@h"},
            {},
            {},
            (
                "--lmstudio-url='http://***@h' (command line): "
                "a URL may not hold a password; put the token into LM_API_TOKEN"
            ),
        ),
        (
            {},
            {"LM_API_TOKEN": "s3cret\x00token"},
            {},
            "LM_API_TOKEN (environment): the token holds characters that no HTTP header can carry; set it again",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(
    tmp_path: Path, command_line: dict[str, str], environ: dict[str, str], ini: dict[str, str], line: str
) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        resolve(tmp_path, command_line, environ, ini)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("command_line", "environ", "ini", "wanted"),
    [
        ({"concurrency": "4"}, {}, {}, True),
        ({}, {"EVAL_CONCURRENCY": "4"}, {}, True),
        ({}, {}, {"concurrency": "4"}, True),
        ({"url": "http://h"}, {}, {}, True),
        ({}, {"LMSTUDIO_URL": "http://h"}, {}, False),
        ({}, {}, {"url": "http://h"}, False),
        ({"recipe": "stress"}, {}, {}, False),
    ],
)
def test_workers_are_wanted_only_when_asked_for(
    tmp_path: Path, command_line: dict[str, str], environ: dict[str, str], ini: dict[str, str], wanted: bool
) -> None:
    assert resolve(tmp_path, command_line, environ, ini).wants_workers is wanted


def test_paths_are_relative_to_where_they_were_given(tmp_path: Path) -> None:
    settings = resolve(tmp_path, {"report": "r.json"}, {"LMSTUDIO_HTML": "r.html"}, {"dir": "evals"}).settings
    here = tmp_path / "started-here"
    assert (settings.dir, settings.report, settings.html) == (
        str(tmp_path / "evals"), str(here / "r.json"), str(here / "r.html"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({}, None),
        ({"LM_API_TOKEN": "a"}, "a"),
        ({"LMSTUDIO_API_TOKEN": " b\n"}, "b"),
        ({"LM_API_TOKEN": "a", "LMSTUDIO_API_TOKEN": "b"}, "a"),
        ({"LM_API_TOKEN": " ", "LMSTUDIO_API_TOKEN": "b"}, "b"),
    ],
)
def test_the_token_comes_from_the_environment_alone(tmp_path: Path, environ: dict[str, str], token: str | None) -> None:
    assert names.token(environ) == token
    assert resolve(tmp_path, environ=environ).settings == resolve(tmp_path).settings


def test_the_header_shows_what_differs_and_where_it_came_from(tmp_path: Path) -> None:
    resolved = resolve(
        tmp_path,
        {"recipe": "fast-feedback", "stream": "off", "max_error_rate": "10%"},
        {"LLM_BREAKER": "off", "LLM_RETRY_BACKOFF_MS": "800"},
        {"timeout": "60"},
    )
    assert options.header_lines(resolved, tmp_path / ".lmstudio") == [
        (
            "lmstudio: timeout=60s (lmstudio_timeout), breaker=off (LLM_BREAKER), "
            "max_error_rate=10% (--lmstudio-max-error-rate), stream=off (--no-lmstudio-stream), "
            "recipe=fast-feedback (--lmstudio-recipe), max_tokens=256 (recipe), temperature=0.4 (recipe)"
        )
    ]


@given(
    st.builds(
        Settings,
        timeout=st.floats(0.001, 86400) | st.just("auto"),
        breaker=st.none() | st.builds(BreakerLimits, st.integers(1, 10**6), st.floats(0, 86400)),
        latency_threshold=st.none() | st.floats(0.001, 86400),
        params=st.lists(st.tuples(st.text(), st.integers() | st.text()), unique_by=lambda pair: pair[0]).map(tuple),
    )
)
def test_settings_travel_as_plain_data(settings: Settings) -> None:
    assert Settings.from_dict(settings.as_dict()) == settings
    if settings.breaker is not None:
        assert values.breaker(str(settings.breaker)) == settings.breaker


def test_the_strategies_known_by_name_are_those_that_exist() -> None:
    assert tuple(retry.STRATEGIES) == options.STRATEGIES


@pytest.mark.parametrize("name", ["dir", "report"])
def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    (tmp_path / "started-here" / "there").mkdir(parents=True)
    place = "there/new" if name == "dir" else "there/new.json"
    assert getattr(resolve(tmp_path, {name: place}).settings, name) == str(tmp_path / "started-here" / place)
    assert list((tmp_path / "started-here" / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "refused"), [(errno.ENOENT, True), (errno.EPERM, True), (errno.ENOSPC, False)], ids=errno.errorcode.get
)
def test_a_place_that_takes_nothing_is_refused_unless_it_is_only_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    """As root meets it in /proc, whose permissions allow everything."""

    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    here = tmp_path / "started-here"
    here.mkdir()
    if not refused:
        assert resolve(tmp_path, {"dir": "new"}).settings.dir == str(here / "new")
        return
    told = f"--lmstudio-dir='new' (command line): nothing can be written in {here}; name another folder"
    with pytest.raises(pytest.UsageError, match=f"^{re.escape(told)}$"):
        resolve(tmp_path, {"dir": "new"})
    assert resolve(tmp_path).settings.dir == str(tmp_path / ".lmstudio")  # what nobody chose is nobody's mistake
    assert resolve(tmp_path, {"dir": "new", "cache": "offline"}).settings.dir == str(here / "new")
