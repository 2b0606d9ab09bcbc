"""The limit over all workers, and identical requests in flight."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.standin import hang, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Suite


@pytest.mark.parametrize("workers", ["-n0", "-n6"])
def test_the_limit_holds_over_all_workers(suite: Suite, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAL_CONCURRENCY", "3")
    suite.server.default = reply("x", delay_s=0.1)
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(12))
        def test_it(lm, n): lm.map([f"prompt {n} {m}" for m in range(2)])
    """)
    ran = suite.run(workers)
    assert ran.summary == "12 passed"
    assert len(suite.server.requests) == ran.report["calls"]["sent"] == 24
    most = 2 if workers == "-n0" else 3  # one test alone keeps two in flight
    assert suite.server.peak_in_flight == most
    assert ran.report["concurrency"] | {"limit": 3, "peak_in_flight": most} == ran.report["concurrency"]
    assert all(event["waited_ms"] >= 0 for event in ran.named("gen_request"))


def test_the_limit_holds_over_threads_of_a_test(suite: Suite) -> None:
    suite.server.default = reply("x", delay_s=0.02)
    suite.write("""
        from concurrent.futures import ThreadPoolExecutor
        def test_it(lm):
            with ThreadPoolExecutor(16) as pool: list(pool.map(lm, [f"prompt {n}" for n in range(48)]))
    """)
    assert suite.run("-n0", "--lmstudio-concurrency=5").summary == "1 passed"
    assert suite.server.peak_in_flight == 5


def test_an_attempt_that_timed_out_while_waiting_keeps_its_slot_until_it_is_tried_again(suite: Suite) -> None:
    suite.server.script(hang())
    suite.write("def test_it(lm): lm.map(['a', 'b', 'c'], timeout=1.0)")
    ran = suite.run("-n0", "--lmstudio-concurrency=1", "--lmstudio-backoff=0.3")
    assert ran.summary == "1 passed"
    first, second = suite.server.requests[:2]
    assert first.text == second.text
    assert ran.report["calls"] | {"sent": 3, "ok": 3} == ran.report["calls"]


@pytest.mark.parametrize("stream", ["--lmstudio-stream", "--no-lmstudio-stream"])
def test_identical_prompts_in_flight_over_workers_are_sent_once(suite: Suite, stream: str) -> None:
    suite.server.default = reply("x", delay_s=0.5)
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(8))
        def test_it(lm, n): assert lm("same") == lm("same") or True
    """)
    ran = suite.run("-n4", stream)
    assert ran.summary == "8 passed"
    assert len(suite.server.requests) == 1
    calls = ran.report["calls"]
    assert (calls["total"], calls["sent"], calls["cached"] + calls["coalesced"]) == (16, 1, 15)


def test_identical_prompts_of_threads_are_sent_once(suite: Suite) -> None:
    suite.write("""
        import threading
        def test_it(lm):
            start = threading.Barrier(8)
            def ask(n):
                for m in range(40):
                    start.wait()
                    lm(f"same {m}")
            threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """)
    ran = suite.run("-n0")
    assert Counter(request.text for request in suite.server.requests).most_common(1) == [("same 0", 1)]
    assert ran.report["calls"] | {"total": 320, "sent": 40} == ran.report["calls"]


@pytest.mark.parametrize("way", ["cache=False", "mode"])
def test_calls_that_may_not_read_the_cache_are_sent_each(suite: Suite, way: str) -> None:
    suite.server.default = reply("x", delay_s=0.2)
    call = "lm('same', cache=False)" if way == "cache=False" else "lm('same')"
    suite.write(f"""
        import threading
        def test_it(lm):
            threads = [threading.Thread(target=lambda: {call}) for _ in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """)
    suite.run("-n0", *(() if way == "cache=False" else ("--lmstudio-cache=refresh",)))
    assert len(suite.server.requests) == 3


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_when_the_leader_fails_a_follower_leads(suite: Suite, workers: str) -> None:
    suite.server.script(hang())
    suite.write("""
        import pytest, threading
        @pytest.mark.parametrize("n", range(2))
        def test_it(lm, n):
            def impatient():
                try: lm("same", timeout=0.3, retries=0)
                except ConnectionError: pass
            threads = [threading.Thread(target=impatient) for _ in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """)
    ran = suite.run(workers, "--lmstudio-max-error-rate=1")
    assert ran.summary == "2 passed"
    calls = ran.report["calls"]
    assert (calls["failed"], calls["ok"], calls["cached"] + calls["coalesced"]) == (1, 1, 2)
    assert len(suite.server.requests) == 2
