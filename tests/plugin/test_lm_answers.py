"""What a test gets: replies, objects, lists, streams, vectors, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import (
    Model,
    auth_401,
    close_before_headers,
    cut_after_delta,
    endless_stream,
    length_thinking,
    reply,
    vector,
)

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])


def test_a_reply_holds_what_the_server_said(suite: Suite) -> None:
    suite.server.default = reply("Paris it is", reasoning="hm hm")
    suite.write("""
        import pytest
        @pytest.mark.parametrize("stream", [True, False])
        def test_it(lm, stream):
            reply = lm("hi", stream=stream, cache=False)
            assert (str(reply), "Paris" in reply, "Rome" in reply) == ("Paris it is", True, False)
            assert (reply.text, reply.reasoning, reply.model) == ("Paris it is", "hm hm", "test-model")
            assert (reply.finish_reason, reply.attempts, reply.cached, reply.parsed) == ("stop", 1, False, None)
            assert reply.usage["completion_tokens"] == 5
            assert (reply.ttft_ms is not None) == stream
            assert 0 < (reply.ttft_ms or 0.1) <= reply.latency_ms < 5000
            assert reply.raw["choices"][0]["message"]["content"] == "Paris it is"
    """)
    assert suite.run("-n0").summary == "2 passed"


@WAYS
def test_a_cached_reply_keeps_its_times(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        import dataclasses
        def test_it(lm):
            first, second = lm("hi"), lm("hi")
            assert second == dataclasses.replace(first, cached=True, attempts=0)
            assert list(lm.stream("hi")) == ["echo:", " hi"]
    """)
    ran = suite.run(*way)
    assert ran.summary == "1 passed"
    assert len(suite.server.requests) == 1
    assert ran.report["calls"]["cached"] == 2


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
BROKEN = [
    (
        '{"n": 2}',
        "stop",
        "the answer breaks its schema at $.n: 2 is less than the minimum of 3 (rule properties/n/minimum)",
    ),
    ("{}", "stop", "the answer breaks its schema at $: 'n' is a required property (rule required)"),
    ("nothing", "stop", "the answer is no JSON: Expecting value: line 1 column 1 (char 0)"),
    (
        '{"n": ',
        "length",
        (
            "the answer is no JSON: Expecting value: line 1 column 6 (char 5); "
            "the answer was cut by max_tokens (finish_reason length): raise it"
        ),
    ),
]


@pytest.mark.parametrize(("text", "finish", "message"), BROKEN, ids=["rule", "missing", "no-json", "cut"])
def test_json_that_breaks_its_schema_fails_the_test(suite: Suite, text: str, finish: str, message: str) -> None:
    suite.server.default = reply(text, finish_reason=finish)
    suite.write(f"""
        import pytest
        from pytest_lmstudio import LMSchemaError
        def test_raises(lm):
            with pytest.raises(AssertionError) as raised: lm.json("hi", {SCHEMA!r})
            assert type(raised.value) is LMSchemaError
            assert str(raised.value) == {message!r}
            assert raised.value.reply.text == {text.strip()!r} or raised.value.reply.text == {text!r}
        def test_fails(lm): lm.chat([{{"role": "user", "content": "hi"}}], schema={SCHEMA!r})
    """)
    ran = suite.run("-n0")
    assert ran.outcomes == {"passed": 1, "failed": 1}
    assert ran.report["calls"] | {"ok": 1, "cached": 1, "failed": 0} == ran.report["calls"]


def test_json_that_fits_is_returned(suite: Suite) -> None:
    suite.server.default = reply('```json\n{"n": 3}\n```')
    suite.write(f"""
        def test_json(lm): assert lm.json("hi", {SCHEMA!r}) == {{"n": 3}}
        def test_chat(lm):
            reply = lm.chat([{{"role": "user", "content": "hi"}}], schema={SCHEMA!r})
            assert (reply.parsed, reply.cached) == ({{"n": 3}}, True)
    """)
    assert suite.run("-n0").summary == "2 passed"


@WAYS
def test_map_keeps_order_and_samples_equal_prompts_anew(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.when(lambda r: r.text == "b", reply("slow b", delay_s=0.2))
    suite.write("""
        def test_it(lm):
            replies = lm.map(["a", "b", "a", "c", "a"])
            assert [reply.text for reply in replies] == ["echo: a", "slow b", "echo: a", "echo: c", "echo: a"]
            assert [reply.cached for reply in replies] == [False] * 5
            assert [reply.cached for reply in lm.map(["a", "a", "a", "a"])] == [True, True, True, False]
            assert lm("a").cached
            assert lm.map([]) == []
    """)
    ran = suite.run(*way)
    assert ran.summary == "1 passed"
    assert sorted(request.text for request in suite.server.requests) == ["a", "a", "a", "a", "b", "c"]
    assert ran.report["cache"]["entries"] == 6


def test_map_runs_every_prompt_to_its_end_and_raises_the_first_that_matters(suite: Suite) -> None:
    suite.server.when(lambda r: r.text == "lost", close_before_headers())
    suite.server.when(lambda r: r.text == "refused", auth_401())
    suite.write("""
        import pytest
        from pytest_lmstudio import LMError
        def test_raises(lm):
            with pytest.raises(LMError) as raised: lm.map(["a", "lost", "b", "refused"], retries=0)
            error = raised.value
            assert error.kind == "auth"
            assert [str(reply) for reply in error.replies] == ["echo: a", "None", "echo: b", "None"]
            assert [one.kind for one in error.errors] == ["disconnect", "auth"]
        def test_returns(lm):
            found = lm.map(["a", "lost", "refused"], retries=0, return_errors=True)
            assert [getattr(one, "kind", None) for one in found] == [None, "disconnect", "auth"]
        def test_is_lost(lm): lm.map(["a", "lost"], retries=0)
        def test_fails(lm): lm.map(["lost", "refused"], retries=0)
    """)
    ran = suite.run("-n0", "--lmstudio-max-error-rate=1")
    assert ran.outcomes == {"passed": 2, "failed": 1, "lm_error": 1}


@WAYS
def test_a_stream_that_is_left_is_cancelled_and_abandoned(suite: Suite, way: tuple[str, ...]) -> None:
    suite.server.default = endless_stream()
    suite.write("""
        def test_break(lm):
            for piece in lm.stream("hi"): break
            assert piece == "word1"
        def test_kept(lm):
            pieces = lm.stream("ho")
            assert next(pieces) == "word1"
            globals()["kept"] = pieces
    """)
    ran = suite.run(*way)
    assert (ran.ret, ran.summary) == (0, "2 passed")
    suite.server.wait_for(lambda: suite.server.in_flight == 0)
    assert [request.outcome for request in suite.server.requests] == ["aborted", "aborted"]
    assert ran.report["calls"] == {
        "total": 2, "sent": 0, "ok": 0, "failed": 0, "cached": 0, "coalesced": 0, "abandoned": 2,
    }  # fmt: skip
    assert ran.report["rates"]["error_rate"] is None
    assert ran.report["cache"]["entries"] == 0
    assert ran.report["gate"]["failed"] is False


def test_a_stream_is_tried_again_only_before_its_first_text(suite: Suite) -> None:
    suite.server.script(close_before_headers(), reply("one two"), cut_after_delta(1))
    suite.write("""
        import pytest
        def test_before(lm): assert list(lm.stream("hi")) == ["one", " two"]
        def test_after(lm):
            pieces = lm.stream("ho")
            assert next(pieces) == "word1"
            with pytest.raises(ConnectionError, match="disconnect"): next(pieces)
        def test_replayed(lm):
            assert list(lm.stream("hi")) == ["one", " two"]
            assert lm("hi").cached
    """)
    ran = suite.run("-n0", "--lmstudio-max-error-rate=1")
    assert ran.summary == "3 passed"
    assert len(suite.server.requests) == 3
    assert ran.report["calls"] | {"ok": 1, "failed": 1, "cached": 2} == ran.report["calls"]


def test_embeddings_come_in_the_order_of_their_texts(suite: Suite) -> None:
    suite.server.models.append(Model("embedder", type="embedding"))
    suite.write(f"""
        import pytest
        def test_it(lm):
            assert lm.embed(["one", "two"]) == [pytest.approx({vector("one")}), pytest.approx({vector("two")})]
            assert lm.embed("one") == [pytest.approx({vector("one")})]
            assert len(lm.embed(["one", "two"])) == 2
    """)
    ran = suite.run("-n0")
    assert ran.summary == "1 passed"
    assert ran.report["calls"] | {"total": 3, "sent": 2, "cached": 1} == ran.report["calls"]


def test_models_lists_loaded_ones_first_and_is_no_call(suite: Suite) -> None:
    suite.server.models[:] = [Model("asleep", loaded=False), Model("awake"), Model("vectors", type="embedding")]
    suite.write("""
        def test_it(lm):
            found = {model.id: (model.type, model.loaded) for model in lm.models()}
            assert found == {"asleep": ("llm", False), "awake": ("llm", True), "vectors": ("embedding", True)}
            assert lm.models()[-1].id == "asleep"
    """)
    ran = suite.run("-n0")
    assert ran.summary == "1 passed"
    assert not ran.home.exists()


def test_thinking_that_took_all_tokens_is_an_answer_and_never_cached(suite: Suite) -> None:
    suite.server.default = length_thinking("hm")
    suite.write("""
        def test_it(lm):
            for _ in range(2):
                reply = lm("hi")
                assert (reply.text, reply.reasoning, reply.finish_reason, reply.cached) == ("", "hm", "length", False)
    """)
    ran = suite.run("-n0")
    assert ran.summary == "1 passed"
    assert ran.report["cache"]["entries"] == 0
