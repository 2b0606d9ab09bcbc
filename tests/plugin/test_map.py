"""`map` with `as_completed`: replies as they come, errors at the end, and what becomes of the calls that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.plugin.test_alm import ANYIO, LOOPS
from tests.plugin.test_alm import run as run_async
from tests.standin import Step, close_before_headers, hang, reply, status
from tests.standin.bodies import Answer
from tests.standin.steps import say

if TYPE_CHECKING:
    from tests.plugin.suite import Suite
    from tests.standin.exchange import Exchange

EVERYWHERE = pytest.mark.parametrize("args", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])


def answer_after(suite: Suite, prompt: str, answer: str, *others: str) -> None:
    """Let a prompt be answered only when others have been asked."""

    async def act(exchange: Exchange) -> None:
        while not set(others) <= {received.text for received in suite.server.requests}:
            await exchange.sleep(0.01)
        await say(exchange, Answer(answer))

    suite.server.when(lambda r: r.text == prompt, Step(prompt, act))


@EVERYWHERE
def test_replies_come_as_they_complete(suite: Suite, args: tuple[str, ...]) -> None:
    answer_after(suite, "slow", "late", "go")
    suite.write("""
        def test_it(lm):
            asked = lm.map(["slow", "a", "b"], as_completed=True)
            found = [(index, str(reply)) for index, reply in (next(asked), next(asked))]
            assert sorted(found) == [(1, "echo: a"), (2, "echo: b")]
            lm("go")
            assert [(index, str(reply)) for index, reply in asked] == [(0, "late")]
    """)
    ran = suite.run("--lmstudio-concurrency=4", *args)
    assert ran.summary == "1 passed", ran.out
    assert ran.report["calls"] | {"total": 4, "sent": 4, "ok": 4} == ran.report["calls"]


def test_what_is_in_the_cache_comes_first(suite: Suite) -> None:
    suite.write("""
        def test_first(lm): lm.map(["b", "d"])
        def test_then(lm):
            found = list(lm.map(["a", "b", "c", "d"], as_completed=True))
            assert [(index, str(reply)) for index, reply in found[:2]] == [(1, "echo: b"), (3, "echo: d")]
            assert [reply.cached for _, reply in found] == [True, True, False, False]
    """)
    ran = suite.run("-n0")
    assert ran.summary == "2 passed"
    assert ran.report["calls"] | {"total": 6, "sent": 4, "ok": 4, "cached": 2} == ran.report["calls"]


def test_equal_prompts_are_samples_with_places_of_their_own(suite: Suite) -> None:
    suite.write("""
        def test_it(lm):
            assert sorted(index for index, _ in lm.map(["a", "a", "b", "a"], as_completed=True)) == [0, 1, 2, 3]
            assert [reply.cached for reply in lm.map(["a", "a", "a"])] == [True, True, True]
            assert list(lm.map([], as_completed=True)) == []
    """)
    assert suite.run("-n0").summary == "1 passed"
    assert len(suite.server.requests) == 4


def test_the_limit_holds(suite: Suite) -> None:
    suite.server.default = reply("x", delay_s=0.03)
    suite.write("""
        def test_it(lm): assert len(list(lm.map([f"p{n}" for n in range(12)], as_completed=True))) == 12
    """)
    assert suite.run("-n0", "--lmstudio-concurrency=3").summary == "1 passed"
    assert suite.server.peak_in_flight == 3


@EVERYWHERE
def test_the_first_failure_is_raised_when_all_others_have_come(suite: Suite, args: tuple[str, ...]) -> None:
    suite.server.when(lambda r: r.text == "lost", close_before_headers())
    suite.server.when(lambda r: r.text == "refused", status(400, "no"))
    suite.write("""
        import pytest
        from pytest_lmstudio import LMError, LMRequestError
        def test_it(lm):
            found = []
            with pytest.raises(LMRequestError) as raised:
                for index, reply in lm.map(["a", "lost", "b", "refused"], as_completed=True, retries=0):
                    found.append((index, str(reply)))
            assert sorted(found) == [(0, "echo: a"), (2, "echo: b")]
            assert [reply and str(reply) for reply in raised.value.replies] == ["echo: a", None, "echo: b", None]
            assert [error.kind for error in raised.value.errors] == ["disconnect", "bad_request"]
        def test_lost(lm):
            for _ in lm.map(["c", "lost"], as_completed=True, retries=0): pass
        def test_in_places(lm):
            pairs = lm.map(["d", "lost", "refused"], as_completed=True, return_errors=True, retries=0)
            found = {index: getattr(one, "kind", None) or str(one) for index, one in pairs}
            assert found == {0: "echo: d", 1: "disconnect", 2: "bad_request"}
    """)
    ran = suite.run("-v", "--lmstudio-max-error-rate=1", *args)
    assert ran.words == {"test_it": {"PASSED"}, "test_lost": {"LM-ERROR"}, "test_in_places": {"PASSED"}}, ran.out
    assert ran.report["calls"] | {"total": 9, "sent": 9, "ok": 4, "failed": 5} == ran.report["calls"]


@pytest.mark.parametrize(
    "leaves",
    [
        "for index, _ in asked: break",
        "for index, _ in asked: left = asked; break",
        "index, _ = next(asked); asked.close()",
        "index, _ = next(asked)\n    assert False",
        "index, _ = next(asked); kept.append(asked)",
    ],
    ids=["break", "break held", "close", "failing", "forgotten"],
)
def test_what_is_left_is_cancelled_and_abandoned(suite: Suite, leaves: str) -> None:
    suite.server.default = hang()
    answer_after(suite, "a", "x", "b", "c")
    suite.write(
        'kept = []\ndef test_it(lm):\n    asked = lm.map(["b", "a", "c"], as_completed=True)\n'
        f"    {leaves}\n    assert index == 1\ndef test_next(lm): assert lm('a', cache=False) == 'x' or True\n"
    )
    ran = suite.run("-n0", "--lmstudio-concurrency=3")
    assert ran.outcomes == ({"passed": 1, "failed": 1} if "False" in leaves else {"passed": 2})
    suite.server.wait_for(lambda: suite.server.in_flight == 0, 60)
    assert ran.report["calls"] | {"total": 4, "sent": 2, "ok": 2, "abandoned": 2} == ran.report["calls"]
    assert [event["attempt"] for event in ran.named("gen_abandoned")] == [1, 1]


def test_an_answer_that_came_and_was_not_taken_is_abandoned(suite: Suite) -> None:
    suite.write("""
        import time
        from pathlib import Path
        def test_it(lm):
            asked = lm.map(["a", "b", "c"], as_completed=True)
            next(asked)
            until = time.monotonic() + 30
            while done() < 3 and time.monotonic() < until: time.sleep(0.01)
            asked.close()
            assert list(asked) == []
        def done():
            logs = Path(".lmstudio").glob("runs/*/events.jsonl")
            return sum(path.read_text().count("gen_success") for path in logs)
    """)
    ran = suite.run("-n0", "--lmstudio-concurrency=1")
    assert ran.summary == "1 passed"
    assert ran.report["calls"] | {"total": 3, "sent": 1, "ok": 1, "abandoned": 2} == ran.report["calls"]


def test_nothing_is_asked_before_the_first_is_wanted(suite: Suite) -> None:
    suite.write("""
        import pytest
        def test_it(lm):
            lm.map(["a", "b"], as_completed=True)
            with pytest.raises(TypeError, match="did you mean 'max_tokens'"):
                lm.map(["a"], as_completed=True, max_token=1)
            with pytest.raises(TypeError, match="map takes a list of prompts"):
                lm.map("a", as_completed=True)
    """)
    assert suite.run("-n0").summary == "1 passed"
    assert suite.server.all_requests == []


def test_a_failing_test_shows_the_calls_that_it_took(suite: Suite) -> None:
    suite.write("""
        def test_it(lm):
            for _, reply in lm.map(["one", "two"], as_completed=True): assert "three" not in reply
            assert False
    """)
    ran = suite.run("-n0")
    assert ran.summary == "1 failed"
    assert ran.out.count("user: one") == ran.out.count("user: two") == 1


def test_a_wait_that_is_cut_off_gives_its_places_back(suite: Suite) -> None:
    """As pytest-timeout does it: an exception out of nowhere, while the test waits for the next reply."""
    suite.server.default = hang()
    suite.server.when(lambda r: r.text == "a", reply("x"))
    suite.write("""
        import signal
        import pytest
        class Cut(Exception): pass
        def cut(*_): raise Cut
        def test_it(lm):
            signal.signal(signal.SIGALRM, cut)
            asked = lm.map(["a", "b", "c"], as_completed=True)
            next(asked)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Cut): next(asked)
            assert str(lm("a", cache=False)) == "x"
    """)
    ran = suite.run_apart("-n0", "--lmstudio-concurrency=2")
    assert ran.summary == "1 passed", ran.out
    assert ran.report["calls"] | {"total": 4, "sent": 2, "ok": 2, "abandoned": 2} == ran.report["calls"]


@LOOPS
def test_async_replies_come_as_they_complete(suite: Suite, loop: str) -> None:
    answer_after(suite, "slow", "late", "go")
    suite.server.when(lambda r: r.text == "lost", close_before_headers())
    ran = run_async(suite, loop, """
async def test_it(alm):
    asked = alm.map(["slow", "a", "b"], as_completed=True)
    assert sorted([(await anext(asked))[0], (await anext(asked))[0]]) == [1, 2]
    await alm("go")
    assert [(index, str(reply)) async for index, reply in asked] == [(0, "late")]
async def test_lost(alm):
    async for _ in alm.map(["a", "lost"], as_completed=True): pass
async def test_raised_once(alm):
    from pytest_lmstudio import LMError
    asked = alm.map(["a", "lost"], as_completed=True)
    assert (await anext(asked))[0] == 0
    with pytest.raises(LMError): await anext(asked)
    assert [one async for one in asked] == []
async def test_in_places(alm):
    asked = alm.map(["a", "lost"], as_completed=True, return_errors=True)
    assert {index: getattr(one, "kind", None) async for index, one in asked} == {0: None, 1: "disconnect"}
async def test_wrong(alm):
    with pytest.raises(TypeError, match="did you mean 'seed'"): alm.map(["a"], as_completed=True, sede=1)
    with pytest.raises(TypeError): await alm.map(["a"], as_completed=True)
""", "--lmstudio-retries=0", "--lmstudio-max-error-rate=1", "--lmstudio-concurrency=4")  # fmt: skip
    assert ran.outcomes == {"lm_error": 1, "passed": 4}, ran.out


@LOOPS
def test_async_calls_that_are_left_are_abandoned(suite: Suite, loop: str) -> None:
    suite.server.default = hang()
    suite.server.when(lambda r: r.text == "a", reply("x"))
    ran = run_async(suite, loop, """
PROMPTS = ["b", "a", "c"]
async def test_leaves(alm):
    async for index, _ in alm.map(PROMPTS, as_completed=True, cache=False): break
    assert index == 1
async def test_closes(alm):
    asked = alm.map(PROMPTS, as_completed=True, cache=False)
    assert (await anext(asked))[0] == 1
    await asked.aclose()
    assert [one async for one in asked] == []
left = []
async def test_forgets(alm):
    left.append(alm.map(PROMPTS, as_completed=True, cache=False))
    assert (await anext(left[0]))[0] == 1
""", "--lmstudio-concurrency=3")  # fmt: skip
    assert ran.summary == "3 passed", ran.out
    suite.server.wait_for(lambda: suite.server.in_flight == 0, 60)
    assert ran.report["calls"] | {"total": 9, "sent": 3, "ok": 3, "abandoned": 6} == ran.report["calls"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_calls_that_are_cancelled_are_abandoned(suite: Suite, backend: str) -> None:
    suite.server.default = hang()
    ran = run_async(suite, ANYIO.format(backend), """
import anyio
async def test_cancels(alm):
    with anyio.move_on_after(0.3) as scope:
        async for _ in alm.map(["a", "b"], as_completed=True): pass
    assert scope.cancelled_caught
""")  # fmt: skip
    assert ran.summary == "1 passed"
    suite.server.wait_for(lambda: suite.server.in_flight == 0, 60)
    assert ran.report["calls"] | {"total": 2, "sent": 0, "abandoned": 2} == ran.report["calls"]


#: What else the engine's thread would do between two calls that are left is done for sure.
SLOW_CANCEL = """
import concurrent.futures, signal, threading, time
import anyio, pytest
class Cut(Exception): pass
def cut(*_): raise Cut
cancel = concurrent.futures.Future.cancel
def slow_cancel(self):
    done = cancel(self)
    if threading.current_thread() is threading.main_thread(): time.sleep(0.1)
    return done
concurrent.futures.Future.cancel = slow_cancel
"""
CUT = """
def test_first(lm): lm("first")
def test_it(lm):
    signal.signal(signal.SIGALRM, cut)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(Cut): lm.map(["a", "b", "c"])
"""
CANCELLED = """
async def test_first(alm): await alm("first")
async def test_it(alm):
    with anyio.move_on_after(0.5) as scope:
        await alm.map(["a", "b", "c"])
    assert scope.cancelled_caught
"""


@pytest.mark.parametrize(
    "source",
    [CUT, ANYIO.format("asyncio") + CANCELLED, ANYIO.format("trio") + CANCELLED],
    ids=["lm", "alm-asyncio", "alm-trio"],
)
def test_a_place_that_a_cut_map_gives_back_goes_to_none_of_its_other_calls(suite: Suite, source: str) -> None:
    suite.server.default = hang()
    suite.server.when(lambda r: r.text == "first", reply("x"))
    suite.write(SLOW_CANCEL + source)
    ran = suite.run_apart("-n0", "-p", "anyio.pytest_plugin", "--lmstudio-concurrency=1")
    assert ran.summary == "2 passed", ran.out
    assert [request.text for request in suite.server.requests] == ["first", "a"]
