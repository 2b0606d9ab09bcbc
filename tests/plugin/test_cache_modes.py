"""The cache through the plugin: what is asked anew, what is kept, what an offline run says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import reply, status

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
TWO = """
    def test_one(lm): lm("one", temperature=0)
    def test_two(lm): lm("two", temperature=0)
"""


@WAYS
def test_modes(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(TWO)

    def counts(mode: str) -> tuple[int, int, int, int | None]:
        before = len(suite.server.requests)
        report = suite.run(*way, f"--lmstudio-cache={mode}").report
        sent, cache = len(suite.server.requests) - before, report["cache"]
        return sent, report["calls"]["cached"], cache["stores"], cache["entries"]

    assert counts("off") == (2, 0, 0, None)
    assert counts("readwrite") == (2, 0, 2, 2)
    assert counts("readwrite") == (0, 2, 0, 2)
    assert counts("refresh") == (2, 0, 2, 2)
    assert counts("offline") == (0, 2, 0, 2)


def test_refresh_replaces_what_was_stored(suite: Suite) -> None:
    suite.write("def test_it(lm): print('said', lm('hi'))")
    suite.server.script(reply("old"), reply("new"))
    suite.run("-n0")
    suite.run("-n0", "--lmstudio-cache=refresh")
    assert "said new" in suite.run("-n0", "-s").out


@WAYS
def test_offline_needs_no_server_and_sends_nothing(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(TWO)
    suite.run("-n0")
    suite.server.stop()
    before = len(suite.server.all_requests)
    ran = suite.run(*way, "--lmstudio-cache=offline")
    assert (ran.ret, ran.summary) == (0, "2 passed")
    assert ran.report["calls"] | {"total": 2, "cached": 2, "sent": 0} == ran.report["calls"]
    assert len(suite.server.all_requests) == before


@pytest.mark.parametrize(
    ("call", "args", "differs"),
    [
        ('lm("one", temperature=0.7)', (), "temperature"),
        ('lm("other", temperature=0)', (), "messages"),
        ('lm("one", temperature=0, model="another")', (), "model"),
        ('lm("one", temperature=0, max_tokens=5)', (), "max_tokens"),
        ('lm("one", temperature=0)', ("--lmstudio-pipeline-version=v2",), "pipeline"),
    ],
    ids=["temperature", "prompt", "model", "parameter", "pipeline"],
)
def test_an_offline_miss_says_what_differs(suite: Suite, call: str, args: tuple[str, ...], differs: str) -> None:
    suite.write("def test_it(lm): lm('one', temperature=0)")
    suite.run("-n0")
    asked = len(suite.server.all_requests)
    suite.write(f"def test_it(lm): {call}")
    ran = suite.run("-n0", "--lmstudio-cache=offline", *args)
    assert (ran.ret, ran.summary) == (1, "1 failed")
    assert len(suite.server.all_requests) == asked
    (error,) = ran.named("gen_error")
    assert (error["error_kind"], error["error_category"], error["attempt"]) == ("cache_miss", "other", 0)
    assert differs in error["message"]
    assert ran.report["calls"] | {"total": 1, "sent": 1, "failed": 1} == ran.report["calls"]
    assert ran.report["cache"]["misses"] == 1
    assert f"[cache_miss] the server at {suite.server.url} was not asked, since the cache is offline" in ran.out


def test_offline_without_a_remembered_model_says_to_name_one(suite: Suite) -> None:
    suite.write("def test_it(lm): lm('one')")
    ran = suite.run("-n0", "--lmstudio-cache=offline")
    assert ran.summary == "1 failed"
    assert ran.named("gen_error")[0]["message"] == (
        "the model is not known, since none is remembered for this address; name --lmstudio-model "
        "(`pytest-lmstudio cache stats` lists those of the cache)"
    )
    assert [row["symptom"] for row in ran.report["diagnosis"]] == [
        "it is not known which model the offline cache is asked for"
    ]
    assert suite.server.all_requests == []


def test_offline_a_model_that_nobody_asked_has_nothing_of_the_test(suite: Suite) -> None:
    suite.write("def test_it(lm): lm('one')")
    ran = suite.run("-n0", "--lmstudio-cache=offline", "--lmstudio-model=nobody")
    assert [row["symptom"] for row in ran.report["diagnosis"]] == ["tests were never recorded in the offline cache"]


def test_offline_the_list_of_models_is_refused_in_words_of_its_own(suite: Suite) -> None:
    suite.write("""
        import pytest
        from pytest_lmstudio import LMCacheMissError
        def test_it(lm):
            with pytest.raises(LMCacheMissError) as raised: lm.models()
            print(raised.value)
    """)
    ran = suite.run("-n0", "-s", "--lmstudio-cache=offline")
    assert ran.summary == "1 passed"
    assert (
        f"[cache_miss] models() asks the server at {suite.server.url}, and with --lmstudio-cache=offline nobody does; "
        "a list of models is never recorded: name the model with --lmstudio-model, or run this test with "
        "--lmstudio-cache=readwrite"
    ) in ran.out
    assert suite.server.all_requests == []


@WAYS
def test_the_pipeline_version_separates_answers(
    suite: Suite, way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(TWO)
    cached = []
    for version in ("v1", "v2", "v1"):
        monkeypatch.setenv("EVAL_PIPELINE_VERSION", version)
        report = suite.run(*way).report
        cached.append((report["pipeline_version"], report["calls"]["cached"], report["cache"]["entries"]))
    assert cached == [("v1", 0, 2), ("v2", 0, 4), ("v1", 2, 4)]


def test_failures_are_never_stored(suite: Suite) -> None:
    suite.write("def test_it(lm): lm('one')")
    suite.server.script(status(500))
    assert suite.run("-n0", "--lmstudio-retries=0").report["cache"]["entries"] == 0
    again = suite.run("-n0").report["calls"]
    assert (again["ok"], again["cached"]) == (1, 0)


@WAYS
def test_a_suite_larger_than_the_cache_still_hits_all_of_it(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("def test_it(lm): lm.map([f'prompt {n}' for n in range(60)])")
    size = "--lmstudio-cache-size=50"
    assert suite.run(*way, size).report["cache"] | {"hits": 0, "stores": 50, "entries": 50} == {
        "hits": 0, "misses": 60, "stores": 50, "evictions": 0, "entries": 50, "size_limit": 50,
    }  # fmt: skip
    for _ in range(2):
        assert suite.run(*way, size).report["cache"] == {
            "hits": 50, "misses": 10, "stores": 0, "evictions": 0, "entries": 50, "size_limit": 50,
        }  # fmt: skip
    assert len(suite.server.requests) == 80


def test_six_hundred_calls_over_a_cache_of_five_hundred(suite: Suite) -> None:
    suite.write("def test_it(lm): lm.map([f'prompt {n}' for n in range(600)])")
    suite.run("-n0")
    ran = suite.run("-n0")
    assert ran.report["cache"] == {
        "hits": 500, "misses": 100, "stores": 0, "evictions": 0, "entries": 500, "size_limit": 500,
    }  # fmt: skip
    assert any(row["symptom"] == "the cache is smaller than the suite" for row in ran.report["diagnosis"])
