"""What a failed test shows of its calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import close_before_headers, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])


def sections(out: str) -> list[str]:
    """Return the sections of failed tests, with nothing that depends on the time."""
    found = re.findall(r"^-+ LM Studio calls -+\n(.*?)(?=^[-_=]{5,})", out, re.DOTALL | re.MULTILINE)
    return [re.sub(r"\d+ ms", "N ms", re.sub(r"waited \d+ ms, then ", "", text)) for text in found]


@WAYS
def test_each_call_is_shown(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.when(lambda r: r.text == "hello", reply("line one\nline two \x1b[31mred\x07", reasoning="hm"))
    suite.server.when(lambda r: r.text == "gone", close_before_headers())
    suite.write("""
        def test_it(lm):
            lm("hello", system="Be brief.")
            lm("hello", system="Be brief.")
            try: lm("gone", retries=1)
            except ConnectionError: pass
            assert False
        def test_passes(lm): lm("fine")
        def test_plain(): assert False
    """)
    ran = suite.run(*way, "--lmstudio-max-error-rate=1")
    assert ran.ret == 1
    (shown,) = sections(ran.out)
    head, _, rest = shown.partition("call 3: ")
    assert head == (
        "call 1: test-model, answered in N ms, finish_reason stop\n"
        "  system: Be brief.\n"
        "  user: hello\n"
        "  attempt 1: answered in N ms\n"
        "  reasoning: hm\n"
        "  reply: line one\n"
        "    line two \\x1b[31mred\\x07\n"
        "call 2: test-model, cached\n"
        "  system: Be brief.\n"
        "  user: hello\n"
        "  reasoning: hm\n"
        "  reply: line one\n"
        "    line two \\x1b[31mred\\x07\n"
    )
    assert re.fullmatch(
        r"test-model, failed: disconnect\n"
        r"  user: gone\n"
        r"  attempt 1: disconnect \(waiting\) after N ms: [^\n]+\n"
        r"  attempt 2: disconnect \(waiting\) after N ms: [^\n]+\n"
        rf"  error: \[disconnect\] the server at {re.escape(suite.server.url)} closed the connection [^\n]+\n",
        rest,
    )
    assert "\x1b[31m" not in ran.out
    assert "\x07" not in ran.out


def test_calls_of_a_session_fixture_are_shown_with_the_test_in_whose_setup_they_ran(suite: Suite) -> None:
    suite.write("""
        import pytest
        @pytest.fixture(scope="session")
        def greeting(lm_session): return lm_session("hello")
        def test_one(greeting): assert False
        def test_two(greeting): assert False
    """)
    ran = suite.run("-n0")
    (shown,) = sections(ran.out)
    assert "user: hello" in shown
    assert [event["nodeid"] for event in ran.named("gen_success")] == ["test_suite.py::test_one"]


def test_lm_session_takes_the_settings_but_no_marks(suite: Suite) -> None:
    suite.write("""
        import pytest
        @pytest.fixture(scope="module")
        def asked(lm_session):
            assert lm_session.settings.retries == 2
            return lm_session("hello", max_tokens=3)
        @pytest.mark.llm(retries=0, temperature=0.5)
        def test_it(asked, lm):
            assert lm.settings.retries == 0
            lm("own")
    """)
    assert suite.run("-n0", "--lmstudio-retries=2").summary == "1 passed"
    first, second = [request.body for request in suite.server.requests]
    assert (first["max_tokens"], "temperature" in first) == (3, False)
    assert second["temperature"] == 0.5


def test_long_texts_are_cut_and_many_calls_left_out(suite: Suite) -> None:
    suite.server.default = reply("y" * 3000)
    suite.write("""
        def test_it(lm):
            lm.map([f"prompt {n} " + "x" * 3000 for n in range(25)])
            assert False
    """)
    (shown,) = sections(suite.run("-n0").out)
    assert shown.startswith("(the last 20 of 25 calls)\ncall 6: ")
    assert "... (1,000 more characters)" in shown
    assert len(shown) < 20 * 4500
