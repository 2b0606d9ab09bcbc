"""A test that got no answer is lost, in whichever phase: neither passed nor failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import auth_401, close_before_headers

if TYPE_CHECKING:
    from tests.plugin.suite import Suite
    from tests.standin import StandIn

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])

SUITE = """
    import pytest, unittest

    @pytest.fixture
    def asks_before(lm): return lm("lost setup")

    @pytest.fixture
    def asks_after(lm):
        yield
        lm("lost teardown")

    @pytest.fixture(scope="module")
    def asks_once(lm_session): return lm_session("lost module")

    def test_in_setup(asks_before): pass
    def test_in_call(lm): lm("lost call")
    def test_in_teardown(asks_after): pass
    def test_passes(lm): assert "echo: fine" in lm("fine")
    def test_fails(lm): assert lm("fine too") == "x"

    def test_group_of_lost(lm):
        errors = []
        for n in range(2):
            try: lm(f"lost in group {n}")
            except Exception as e: errors.append(e)
        raise ExceptionGroup("both", [errors[0], ExceptionGroup("inner", errors[1:])])

    def test_group_of_both(lm):
        try: lm("lost in mixed group")
        except Exception as e: raise ExceptionGroup("both", [e, ValueError("mine")])

    @pytest.mark.xfail
    def test_xfail(lm): lm("lost xfail")

    @pytest.mark.xfail(strict=True)
    def test_xfail_strict(lm): lm("lost xfail strict")

    @pytest.mark.xfail(raises=ValueError)
    def test_xfail_raises(lm): lm("lost xfail raises")

    @pytest.mark.xfail
    def test_xfail_wrong_answer(lm): assert lm("expected to fail") == "x"

    def test_fails_before_a_lost_teardown(asks_after):
        assert False

    @pytest.fixture
    def broken():
        yield
        raise RuntimeError("teardown")

    def test_lost_before_a_broken_teardown(lm, broken): lm("lost then broken")

    def test_chained(lm):
        try: lm("lost chained")
        except Exception as e: raise AssertionError("mine") from e

    def test_caught(lm):
        with pytest.raises(ConnectionError): lm("lost but caught")

    def test_refused(lm): lm("refuse")

    def test_module_one(asks_once): pass
    def test_module_two(asks_once): pass

    class TestUnit(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _with(self, lm): self.lm = lm
        def test_unit_lost(self): self.lm("lost unit")
        def test_unit_passes(self): self.assertIn("fine", str(self.lm("fine unit")))
        def test_unit_fails(self): self.assertIn("nope", str(self.lm("fine unit two")))
"""


LOST, PASSED, FAILED = "LM-ERROR", "PASSED", "FAILED"
WORDS = {
    "test_in_setup": {LOST},
    "test_in_call": {LOST},
    "test_in_teardown": {PASSED, LOST},
    "test_passes": {PASSED},
    "test_fails": {FAILED},
    "test_group_of_lost": {LOST},
    "test_group_of_both": {FAILED},
    "test_xfail": {LOST},
    "test_xfail_strict": {LOST},
    "test_xfail_raises": {LOST},
    "test_xfail_wrong_answer": {"XFAIL"},
    "test_fails_before_a_lost_teardown": {FAILED, LOST},
    "test_lost_before_a_broken_teardown": {LOST, "ERROR"},
    "test_chained": {FAILED},
    "test_caught": {PASSED},
    "test_refused": {FAILED},
    "test_module_one": {LOST},
    "test_module_two": {LOST},
    "TestUnit::test_unit_lost": {LOST},
    "TestUnit::test_unit_passes": {PASSED},
    "TestUnit::test_unit_fails": {FAILED},
}
LOSES = ("--lmstudio-retries=0", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%", "-v")


@pytest.fixture(autouse=True)
def loses(server: StandIn) -> None:
    server.when(lambda r: "lost" in r.text, close_before_headers())
    server.when(lambda r: "refuse" in r.text, auth_401())


@WAYS
def test_a_test_is_lost_by_a_network_error_in_any_phase(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    ran = suite.run(*way, *LOSES)
    assert ran.words == WORDS
    assert ran.outcomes == {"passed": 3, "failed": 6, "error": 1, "lm_error": 10, "xfailed": 1}
    assert ran.ret == 1


@WAYS
def test_on_error_fail_makes_every_failed_call_fail_its_test(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    ran = suite.run(*way, *LOSES, "--lmstudio-on-error=fail")
    assert all(LOST not in words for words in ran.words.values())
    assert ran.words["test_in_call"] == {FAILED}
    assert ran.words["test_in_setup"] == {"ERROR"}
    assert ran.words["test_in_teardown"] == {PASSED, "ERROR"}
    assert ran.words["test_xfail"] == ran.words["test_xfail_strict"] == {"XFAIL"}
    assert ran.words["test_xfail_raises"] == {FAILED}
    assert ran.words["test_caught"] == {PASSED}


@WAYS
def test_calls_are_booked_to_the_test_that_made_them_or_was_set_up(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    ran = suite.run(*way, *LOSES)
    booked = {(one["nodeid"].partition("::")[2], one["error_kind"]) for one in ran.named("gen_error")}
    lost = {name for name, words in WORDS.items() if LOST in words} - {"test_module_one", "test_module_two"}
    lost |= {"test_group_of_both", "test_chained", "test_caught"}
    modules = {name for name, _ in booked if name in {"test_module_one", "test_module_two"}}
    assert booked == {(name, "disconnect") for name in lost | modules} | {("test_refused", "auth")}
    assert modules
