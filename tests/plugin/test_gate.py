"""The gate: how much may be lost, and what the exit status says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import StandIn, auth_401, close_before_headers

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
TWO_WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
LOSES = ("--lmstudio-retries=0", "--lmstudio-breaker=off")
THIRTY = """
    import pytest
    @pytest.mark.parametrize("n", range(30))
    def test_it(lm, n): lm(f"prompt {n}")
"""


def lose(server: StandIn, *numbers: int) -> None:
    server.when(lambda r: r.text in {f"prompt {n}" for n in numbers}, close_before_headers())


@WAYS
def test_one_of_thirty_is_tolerated(suite: Suite, way: tuple[str, ...]) -> None:
    lose(suite.server, 7)
    suite.write(THIRTY)
    ran = suite.run(*way, *LOSES)
    assert ran.ret == 0
    assert ran.summary == "29 passed, 1 lm-error"
    assert ran.report["gate"] == {
        "max_error_rate": 0.05,
        "failed": False,
        "reason": "error rate 3.3% (1 of 30 calls lost) is within the limit of 5%",
    }
    assert ran.section[0] == "gate passed: 3.3% of 30 calls lost, limit 5% (95% interval 0.6% to 16.7%)"


@WAYS
def test_two_of_thirty_are_not(suite: Suite, way: tuple[str, ...]) -> None:
    lose(suite.server, 7, 8)
    suite.write(THIRTY)
    ran = suite.run(*way, *LOSES)
    assert ran.ret == ran.report["exit_status"] == 1
    assert ran.summary == "28 passed, 2 lm-error"
    reason = (
        "error rate 6.7% (2 of 30 calls lost) is above the limit of 5%; "
        "6.7% of the LM tests lost (2 of 30) is above the limit of 5%"
    )
    assert ran.report["gate"] == {"max_error_rate": 0.05, "failed": True, "reason": reason}
    assert " ".join(" ".join(ran.section).split()).startswith(f"gate FAILED: {reason}")


@TWO_WAYS
def test_many_calls_in_few_tests_do_not_hide_lost_tests(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        def test_many(lm): lm.map([f"prompt {n}" for n in range(40)])
        def test_one(lm): lm("prompt 99")
    """)
    lose(suite.server, 99)
    ran = suite.run(*way, *LOSES)
    assert ran.ret == 1
    assert ran.report["gate"]["reason"] == "50.0% of the LM tests lost (1 of 2) is above the limit of 5%"


@pytest.mark.parametrize(("limit", "status"), [("100%", 0), ("1", 0), ("0.2", 0), ("19.9%", 1), ("0", 1)], ids=str)
def test_the_limit_is_a_share_or_a_percentage(suite: Suite, limit: str, status: int) -> None:
    lose(suite.server, *range(6))
    suite.write(THIRTY)
    ran = suite.run("-n0", *LOSES, f"--lmstudio-max-error-rate={limit}")
    assert ran.ret == status
    assert ran.report["gate"]["failed"] is bool(status)


@TWO_WAYS
def test_a_caught_error_counts_in_the_rate(suite: Suite, way: tuple[str, ...]) -> None:
    lose(suite.server, 1)
    suite.write("""
        def test_catches(lm):
            try: lm("prompt 1")
            except ConnectionError: pass
    """)
    ran = suite.run(*way, *LOSES)
    assert (ran.ret, ran.summary) == (1, "1 passed")
    assert ran.report["gate"]["reason"] == "error rate 100% (1 of 1 call lost) is above the limit of 5%"


@TWO_WAYS
def test_a_refused_token_fails_at_once(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.default = auth_401()
    suite.write("def test_one(lm): lm('one')\ndef test_two(lm): lm('two')")
    ran = suite.run(*way)
    assert (ran.ret, ran.summary) == (1, "2 failed")
    assert sorted(request.text for request in suite.server.requests) == ["one", "two"]
    assert ran.report["errors_by_category"] == {"auth": 2}
    assert ran.report["attempts"] | {"total": 2, "retries": 0} == ran.report["attempts"]


@TWO_WAYS
@pytest.mark.parametrize(
    ("source", "args", "status"),
    [
        ("def test_it(lm): lm('fine')", (), 0),
        ("def test_it(lm): assert lm('fine') == 'x'", (), 1),
        ("def test_it(lm): lm('fine')\nimport pytest\ndef test_exit(): pytest.exit('enough')", (), 2),
        ("def test_it(lm): lm('fine')", ("--lmstudio-max-error-rate=lots",), 4),
        ("def test_it(lm): lm('fine')", ("-k", "nothing"), 5),
    ],
    ids=["passed", "failed", "interrupted", "usage", "nothing"],
)
def test_exit_statuses_are_pytests(
    suite: Suite, way: tuple[str, ...], source: str, args: tuple[str, ...], status: int
) -> None:
    suite.write(source)
    assert suite.run(*way, *args).ret == status


@WAYS
def test_a_failed_gate_does_not_hide_failed_tests(suite: Suite, way: tuple[str, ...]) -> None:
    lose(suite.server, 1)
    suite.write("def test_lost(lm): lm('prompt 1')\ndef test_wrong(lm): assert lm('fine') == 'x'")
    ran = suite.run(*way, *LOSES, "-x")
    assert ran.ret == (2 if way == WORKERS else 1)  # xdist's own status for -x
    assert ran.summary.startswith("1 failed, 1 lm-error")
    assert ran.report["gate"]["failed"] is True


@WAYS
def test_a_run_without_calls_writes_and_says_nothing(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("def test_it(lm): assert lm.settings.retries == 3\ndef test_models(lm): assert len(lm.models()) == 1")
    ran = suite.run(*way)
    assert (ran.ret, ran.summary) == (0, "2 passed")
    assert "= LM Studio =" not in ran.out
    assert not ran.home.exists()


def test_a_test_that_got_its_fixture_late_fails_the_run_and_the_report_says_so(suite: Suite) -> None:
    """No setting was given and no test names the fixture, so nobody watched the loop."""
    suite.write(f"""
        def test_late(request, monkeypatch):
            monkeypatch.setenv("LMSTUDIO_URL", {suite.server.url!r})
            request.getfixturevalue("lm")("prompt 1", retries=0)
    """)
    lose(suite.server, 1)
    ran = suite.ran(suite.pytester.runpytest_subprocess("-p", "no:randomly"))
    assert ran.outcomes == {"lm_error": 1}
    assert ran.ret == ran.report["exit_status"] == 1
