"""A back-off of the user's own, given by a hook."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.plugin.inner import refusal, run
from tests.standin import StandIn, loading_503, reply, status

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

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


WRONG = """
    import sys, pytest

    BODIES = {
        "raises": lambda retry: 1 / 0, "exits": lambda retry: sys.exit(3), "none": lambda retry: None,
        "nan": lambda retry: float("nan"), "text": lambda retry: "5", "fails": lambda retry: pytest.fail("no"),
    }
    def pytest_lmstudio_retry_strategy(name):
        return BODIES[name]
"""
TWO = """
    def test_asks(lm): lm("one")
    def test_asks_again(lm): assert lm("two").text == "echo: two"
"""


@pytest.mark.parametrize("way", [("-n0",), ("-n2",)], ids=" ".join)
@pytest.mark.parametrize(
    ("name", "did"),
    [
        ("raises", "raised ZeroDivisionError: division by zero (conftest.py:4)"),
        ("exits", "raised SystemExit: 3 (conftest.py:4)"),
        ("none", "returned None"),
        ("nan", "returned nan"),
        ("text", "returned a str"),
        ("fails", "raised Failed: no (outcomes.py:"),
    ],
)
def test_a_strategy_that_gives_no_wait_fails_its_test_in_one_line_and_loses_nothing(
    way: tuple[str, ...], name: str, did: str, suite: Suite
) -> None:
    suite.conftest(WRONG)
    suite.write(TWO)
    suite.server.when(lambda seen: seen.text == "one", status(500, "broken"))
    ran = suite.run(*way, f"--lmstudio-retry-strategy={name}", "-rf", "--tb=short")
    assert ran.outcomes == {"failed": 1, "passed": 1}
    (error,) = {line.removeprefix("E   ") for line in ran.out.splitlines() if line.startswith("E   ")}
    said = f"the retry strategy {name!r} of the hook pytest_lmstudio_retry_strategy {did}"
    assert error.startswith(f"pytest_lmstudio.errors.LMRequestError: {said}")
    assert error.endswith(
        "; make it return seconds, a number from 0 up. The call was not tried again after attempt 1 of 4 (server_error)"
    )
    assert "retry.py" not in ran.out
    assert ran.report["calls"] | {"total": 2, "ok": 1, "failed": 1} == ran.report["calls"]
    assert ran.report["errors_by_kind"] == {"server_error": 1}
    assert ran.report["lost"]["requests_without_outcome"] == 0
    assert [note[: len(said)] for note in ran.report["notes"] if "strategy" in note] == [said]


@pytest.mark.parametrize("way", [("-n0",), ("-n2",)], ids=" ".join)
@pytest.mark.parametrize(
    ("body", "did"),
    [
        ("return 5", "returned a value of type int; make it return a function that takes a Retry"),
        ("raise LookupError('what?')", "raised LookupError: what? (conftest.py:2)"),
    ],
)
def test_a_hook_that_gives_no_strategy_is_one_line(
    way: tuple[str, ...], body: str, did: str, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(f"def pytest_lmstudio_retry_strategy(name):\n    {body}\n")
    pytester.makepyfile(ASKS)
    assert refusal(run(pytester, "--lmstudio-retry-strategy=mine", *way)) == (
        f"the hook pytest_lmstudio_retry_strategy, asked for 'mine', {did}"
    )
