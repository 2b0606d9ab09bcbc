"""What pytest's header says of the settings: what differs from the default and why, and nothing else."""

from __future__ import annotations

import pytest

from tests.plugin.inner import header_of, run

# Workers are not what these are about, so each run says -n0, which the header does not mention.
SHOWN = [
    ("--lmstudio-url=http://h:1/v1/", "url=http://h:1 (--lmstudio-url)"),
    ("--lmstudio-model=a/b", "model=a/b (--lmstudio-model)"),
    ("--lmstudio-timeout=1.5", "timeout=1.5s (--lmstudio-timeout)"),
    ("--lmstudio-timeout=auto", "timeout=auto (--lmstudio-timeout)"),
    ("--lmstudio-retries=0", "retries=0 (--lmstudio-retries)"),
    ("--lmstudio-backoff=0", "backoff=0s (--lmstudio-backoff)"),
    ("--lmstudio-concurrency=2", "concurrency=2 (--lmstudio-concurrency)"),
    ("--lmstudio-latency-threshold=3", "latency_threshold=3s (--lmstudio-latency-threshold)"),
    ("--lmstudio-breaker=3:0.2", "breaker=3:0.2 (--lmstudio-breaker)"),
    ("--lmstudio-breaker=off", "breaker=off (--lmstudio-breaker)"),
    ("--lmstudio-cache=offline", "cache=offline (--lmstudio-cache)"),
    ("--lmstudio-max-error-rate=0.125", "max_error_rate=12.5% (--lmstudio-max-error-rate)"),
    ("--no-lmstudio-stream", "stream=off (--no-lmstudio-stream)"),
    ("--lmstudio-wait=60", "wait=60s (--lmstudio-wait)"),
    (
        "--lmstudio-recipe=fast-feedback",
        "recipe=fast-feedback (--lmstudio-recipe), max_tokens=256 (recipe), temperature=0.4 (recipe)",
    ),
    (
        "--lmstudio-recipe=stress",
        "timeout=20s (recipe), concurrency=16 (recipe), recipe=stress (--lmstudio-recipe)",
    ),
]


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")


@pytest.mark.parametrize(("argument", "shown"), SHOWN)
def test_a_setting_that_differs_is_shown_with_its_source(argument: str, shown: str, pytester: pytest.Pytester) -> None:
    assert header_of(run(pytester, argument, "-n0")) == [f"lmstudio: {shown}"]


def test_each_source_is_named_as_the_user_knows_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nlmstudio_cache_size = 9\nlmstudio_stream = off")
    monkeypatch.setenv("LLM_RETRY_BACKOFF_MS", "1500")
    monkeypatch.setenv("EVAL_PIPELINE_VERSION", "v1")
    assert header_of(run(pytester, "--lmstudio-on-error=fail", "-n0")) == [
        (
            "lmstudio: backoff=1.5s (LLM_RETRY_BACKOFF_MS), cache_size=9 (lmstudio_cache_size), "
            "pipeline_version=v1 (EVAL_PIPELINE_VERSION), on_error=fail (--lmstudio-on-error), "
            "stream=off (lmstudio_stream)"
        )
    ]


def test_paths_are_shown_whole(pytester: pytest.Pytester) -> None:
    lines = header_of(
        run(pytester, "--lmstudio-dir=d", "--lmstudio-report=r/report.json", "--lmstudio-html=h.html", "-n0")
    )
    root = pytester.path
    assert lines == [
        (
            f"lmstudio: dir={root}/d (--lmstudio-dir), report={root}/r/report.json (--lmstudio-report), "
            f"html={root}/h.html (--lmstudio-html)"
        )
    ]


@pytest.mark.parametrize(
    "args",
    [(), ("--lmstudio-timeout=45", "--lmstudio-cache=readwrite", "--lmstudio-stream", "--lmstudio-breaker=5:30")],
)
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_defaults_are_not_shown_given_or_not(args: tuple[str, ...], workers: str, pytester: pytest.Pytester) -> None:
    assert header_of(run(pytester, workers, *args)) == []


def test_the_token_is_not_shown(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_API_TOKEN", "sk-lm-secret")
    assert header_of(run(pytester)) == []


def test_workers_are_announced_with_the_reason_and_the_way_out(pytester: pytest.Pytester) -> None:
    assert header_of(run(pytester, "--lmstudio-concurrency=2")) == [
        "lmstudio: concurrency=2 (--lmstudio-concurrency)",
        "lmstudio: 2 xdist workers, because of the concurrency given (-n0 runs all in this process)",
    ]


def test_workers_for_a_url_are_announced_with_that_reason(pytester: pytest.Pytester) -> None:
    args = "--lmstudio-url=http://127.0.0.1:1", "--lmstudio-recipe=slow-model"
    assert header_of(run(pytester, *args)) == [
        (
            "lmstudio: url=http://127.0.0.1:1 (--lmstudio-url), timeout=90s (recipe), concurrency=2 (recipe), "
            "recipe=slow-model (--lmstudio-recipe)"
        ),
        "lmstudio: 2 xdist workers, because of --lmstudio-url (-n0 runs all in this process)",
    ]


@pytest.mark.parametrize("quiet", ["-q", "--no-header"])
def test_a_quiet_run_has_no_header(quiet: str, pytester: pytest.Pytester) -> None:
    assert header_of(run(pytester, "--lmstudio-retries=1", "-n0", quiet)) == []
