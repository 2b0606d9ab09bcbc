"""A test that got no answer is lost, in whichever phase: neither passed nor failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import auth_401, close_before_headers

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

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

    def test_fails_after_a_lost_setup(asks_after):
        assert False

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


@WAYS
def test_phases(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.when(lambda r: "lost" in r.text, close_before_headers())
    suite.server.when(lambda r: "refuse" in r.text, auth_401())
    suite.write(SUITE)
    ran = suite.run(*way, "--lmstudio-retries=0", "-rA", "--lmstudio-max-error-rate=100%", "--lmstudio-breaker=off", "-v")
    print(ran.out, ran.err)
    print(ran.report)
    assert 0
