"""Before the first request: is the server there, which model answers, and is it loaded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS, Suite
from tests.standin import Model, StandIn

if TYPE_CHECKING:
    from tests.standin.routes import Api

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
FORTY = """
    import pytest
    @pytest.mark.parametrize("n", range(40))
    def test_it(lm, n): lm(f"prompt {n}")
"""
QUEUEING = (
    "up to 6 requests may be in flight, but the server answers 4 at once; the rest waits inside the server, where "
    "waiting eats the timeout: lower EVAL_CONCURRENCY, or load the model with more parallel slots"
)
ONE = "def test_it(lm): lm('hi')"


@WAYS
@pytest.mark.timeout(60)
def test_without_a_server_every_test_is_lost_at_once(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.stop()
    suite.write(FORTY)
    ran = suite.run(*way, "--lmstudio-backoff=30")
    assert (ran.ret, ran.summary) == (1, "40 lm-error")
    assert ran.report["errors_by_kind"] == {"unreachable": 40}
    assert ran.report["calls"] | {"total": 40, "sent": 40, "failed": 40} == ran.report["calls"]
    assert ran.report["attempts"]["total"] == 0
    assert ran.report["server"]["reachable"] is False
    assert len(ran.named("preflight")) == 1
    assert ran.out.count("lms server start") == 1
    assert ran.out.count("\nlost          test_suite.py::test_it[") == 10
    assert ": unreachable\n              and 30 more: `pytest --lf --collect-only -q` lists them\n" in ran.out
    assert ran.report["gate"]["failed"] is True


@WAYS
def test_without_a_server_cached_calls_still_answer(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(FORTY)
    suite.run("-n0")
    suite.server.stop()
    ran = suite.run(*way)
    assert (ran.ret, ran.summary) == (0, "40 passed")
    assert ran.report["calls"] | {"total": 40, "cached": 40, "sent": 0} == ran.report["calls"]


@WAYS
def test_a_server_that_starts_late_is_waited_for(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.stop()
    starter = threading.Timer(1.5, suite.server.start)
    starter.start()
    suite.write(ONE)
    ran = suite.run(*way, "--lmstudio-wait=20")
    starter.join()
    assert (ran.ret, ran.summary) == (0, "1 passed")


def test_a_model_that_is_not_loaded_is_warmed_up_once(suite: Suite) -> None:
    suite.server.models[:] = [Model("asleep", loaded=False, load_s=0.3), Model("other", loaded=False)]
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(8))
        def test_it(lm, n): lm(f"prompt {n}")
    """)
    ran = suite.run("-n4", "--lmstudio-model=asleep")
    assert ran.summary == "8 passed"
    assert suite.server.loads == {"asleep": 1}
    assert ran.report["calls"] | {"total": 8, "sent": 8} == ran.report["calls"]
    warm = [request.body["max_tokens"] for request in suite.server.requests if "max_tokens" in request.body]
    assert warm == [1]


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ([], "no llm model is loaded, and none is named; known: none"),
        (
            [Model("a", loaded=False), Model("b", loaded=False)],
            "no llm model is loaded, and none is named; known: a, b",
        ),
        ([Model("a"), Model("b")], "several llm models are loaded, and none is named; loaded: a, b"),
    ],
    ids=["none", "none loaded", "several"],
)
def test_no_model_named_and_not_one_loaded(suite: Suite, models: list[Model], text: str) -> None:
    suite.server.models[:] = models
    suite.write(ONE)
    ran = suite.run("-n0")
    assert (ran.ret, ran.summary) == (1, "1 failed")
    (error,) = ran.named("gen_error")
    assert (error["error_kind"], error["error_category"], error["message"]) == ("no_model", "other", text)
    assert f"[no_model] the server at {suite.server.url} has no such model: {text}; name one that it has" in ran.out
    assert suite.server.requests == []


def test_the_one_loaded_model_is_asked_among_many(suite: Suite) -> None:
    suite.server.models[:] = [Model("a", loaded=False), Model("b"), Model("v", type="embedding")]
    suite.write("def test_it(lm): assert lm('hi').model == 'b'\ndef test_vectors(lm): lm.embed('x')")
    assert suite.run("-n0").summary == "2 passed"
    assert [request.model for request in suite.server.requests] == ["b", "v"]


@pytest.mark.parametrize(("api", "kind"), [("v1", "lmstudio"), ("v0", "lmstudio"), ("openai", "openai")])
@WAYS
def test_servers_of_every_age(pytester: pytest.Pytester, way: tuple[str, ...], api: Api, kind: str) -> None:
    with StandIn(api=api) as server:
        suite = Suite(pytester, server)
        suite.write(ONE)
        ran = suite.run(*way)
        assert (ran.ret, ran.summary) == (0, "1 passed")
        seen = ran.report["server"]
        assert (seen["url"], seen["reachable"], seen["kind"]) == (server.url, True, kind)
        (model,) = seen["models"]
        assert model["id"] == "test-model"
        assert model["quantization"] == (None if api == "openai" else "Q4_K_M")
        assert model["parallel"] == (4 if api == "v1" else None)


@WAYS
def test_a_server_that_wants_a_token(
    pytester: pytest.Pytester, way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn(token="let-me-in") as server:
        suite = Suite(pytester, server)
        suite.write("def test_it(lm): lm('hi')\ndef test_two(lm): lm('ho')")
        ran = suite.run(*way)
        assert (ran.ret, ran.summary) == (1, "2 failed")
        assert ran.report["errors_by_kind"] == {"auth": 2}
        assert len(server.requests) <= 2
        monkeypatch.setenv("LM_API_TOKEN", "let-me-in")
        assert suite.run(*way).summary == "2 passed"


@WAYS
@pytest.mark.parametrize(("limit", "notes"), [(4, 0), (6, 1)])
def test_more_requests_than_the_server_answers_at_once_are_pointed_out(
    suite: Suite, way: tuple[str, ...], limit: int, notes: int
) -> None:
    suite.write(ONE)
    ran = suite.run(*way, f"--lmstudio-concurrency={limit}")
    assert ran.ret == 0
    assert ran.report["notes"] == [QUEUEING] * notes
