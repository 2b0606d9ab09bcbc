"""A back-off of the user's own, given by a hook."""

from __future__ import annotations

import json

import pytest

from tests.plugin.inner import refusal, run
from tests.standin import StandIn, loading_503, reply, status

KNOWS_LINEAR = """
    def pytest_lmstudio_retry_strategy(name):
        if name == "linear":
            return lambda retry: retry.base_s * retry.attempt
"""
ASKS = """
    def test_asks(lm):
        assert lm("hello").attempts == 3
"""


@pytest.mark.parametrize("way", [("-n0",), ("-n2",), ("-p", "no:xdist")], ids=" ".join)
def test_a_hook_in_the_conftest_gives_the_waits(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makeconftest(KNOWS_LINEAR)
    pytester.makepyfile(ASKS)
    with StandIn() as server:
        server.script(status(500, "broken"), status(500, "broken"), reply("at last"))
        args = (f"--lmstudio-url={server.url}", "--lmstudio-retry-strategy=linear", "--lmstudio-backoff=0.011")
        run(pytester, *args, *way).assert_outcomes(passed=1)
    log = next((pytester.path / ".lmstudio" / "runs").glob("*/events.jsonl"))
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [event["retry_in_ms"] for event in events if event["event"] == "gen_error"] == [11, 22]


@pytest.mark.parametrize("way", [("-n0",), ("-n2",)], ids=" ".join)
def test_a_name_that_the_hook_does_not_know_is_one_line(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makeconftest(KNOWS_LINEAR)
    pytester.makepyfile(ASKS)
    assert refusal(run(pytester, "--lmstudio-retry-strategy=lineal", *way)) == (
        "--lmstudio-retry-strategy='lineal' (command line): "
        "expected 'exponential', 'decorrelated', or a name that a hook knows"
    )


def test_a_hook_cannot_take_the_place_of_a_strategy_that_is_documented(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_lmstudio_retry_strategy(name):\n    return lambda retry: 1 / 0\n")
    pytester.makepyfile("def test_asks(lm):\n    assert lm('hello').attempts == 2\n")
    with StandIn() as server:
        server.script(loading_503())
        result = run(pytester, f"--lmstudio-url={server.url}", "--lmstudio-backoff=0.01", "-n0")
    result.assert_outcomes(passed=1)


def test_a_hook_with_a_wrong_signature_is_told_by_pytest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_lmstudio_retry_strategy(nome):\n    return None\n")
    pytester.makepyfile(ASKS)
    result = pytester.runpytest_subprocess("-p", "no:asyncio")
    assert result.ret != pytest.ExitCode.OK
    assert "Argument(s) {'nome'} are declared in the hookimpl but can not be found in the hookspec" in (
        result.stdout.str() + result.stderr.str()
    )
