"""Why an offline look-up missed."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lmstudio.engine.key import question
from pytest_lmstudio.engine.nearest import differences, explain_miss
from pytest_lmstudio.records import CallOptions, Request

OPTIONS = CallOptions(timeout_s=45.0, retries=3, backoff_s=0.8, cache="offline", stream=True)
SECRET = "the secret prompt"
USER = {"role": "user", "content": SECRET}
BODY: dict[str, Any] = {"model": "m", "messages": [USER], "temperature": 0}


def request(body: dict[str, Any], version: str = "v1", sample: int = 0) -> Request:
    asked = question(version, "chat", body, sample)
    return Request("c", "test_a", "chat", "m", body, asked, "k", 0, OPTIONS)


def entry(nodeid: str = "test_a", **more: Any) -> dict[str, Any]:
    return {"nodeid": nodeid, "asked": question("v1", "chat", {**BODY, **more}, 0)}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request({**BODY, "temperature": 0.7}), "temperature (0 in the cache, 0.7 asked)"),
        (request({**BODY, "model": "n\x1b"}), r"model ('m' in the cache, 'n\x1b' asked)"),
        (request({**BODY, "seed": 7}), "seed (not there in the cache, 7 asked)"),
        (request({"model": "m", "messages": [USER]}), "temperature (0 in the cache, not there asked)"),
        (request(BODY, version="v2"), "pipeline_version ('v1' in the cache, 'v2' asked)"),
        (request(BODY, sample=1), "sample (0 in the cache, 1 asked)"),
        (
            request({**BODY, "messages": [{"role": "user", "content": "the secret prompts"}]}),
            "messages[0].content (17 characters in the cache, 18 asked, from character 18)",
        ),
        (
            request({**BODY, "messages": [{"role": "user", "content": "The"}]}),
            "messages[0].content (17 characters in the cache, 3 asked, from character 1)",
        ),
        (
            request({**BODY, "messages": [{**USER, "role": "tool"}]}),
            "messages[0].role ('user' in the cache, 'tool' asked)",
        ),
        (request({**BODY, "messages": [USER, USER]}), "messages (1 in the cache, 2 asked)"),
        (
            request({**BODY, "messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}]}),
            "messages[0].content (17 characters in the cache, list of 1 asked)",
        ),
        (request(BODY), "nothing, but it cannot be read"),
        (
            request({**BODY, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}),
            (
                "a (not there in the cache, 1 asked); b (not there in the cache, 2 asked); "
                "c (not there in the cache, 3 asked); d (not there in the cache, 4 asked); and 2 more"
            ),
        ),
    ],
)  # fmt: skip
def test_a_miss_names_what_differs(asked: Request, why: str) -> None:
    assert explain_miss(asked, [entry()]) == f"the nearest answer of this test differs in {why}"


def test_the_nearest_entry_of_the_same_test_counts() -> None:
    entries = [
        entry(temperature=1, seed=1),
        entry("test_b", temperature=0.7),
        {"nodeid": "test_a"},
        {"nodeid": "test_a", "asked": "?"},
        entry(temperature=0.9),
        entry(temperature=0.8),
    ]
    why = explain_miss(request({**BODY, "temperature": 0.7}), iter(entries))
    assert why == "the nearest answer of this test differs in temperature (0.9 in the cache, 0.7 asked)"


@pytest.mark.parametrize("entries", [[], [entry("test_b")], [{}], [{"nodeid": "test_a", "asked": None}]])
def test_a_test_without_entries_is_told_so(entries: list[dict[str, Any]]) -> None:
    assert explain_miss(request(BODY), entries) == "no answer of this test is in the cache"


@pytest.mark.parametrize(
    "old",
    [
        "x",
        None,
        [],
        {},
        [None],
        ["x"],
        [{}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "x"}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": [{"text": "x"}]}],
    ],
)
@pytest.mark.parametrize(
    "new",
    [
        [USER],
        [{"role": "user", "content": [{"type": "text", "text": SECRET}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}],
        [{"role": "user", "content": [SECRET]}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": SECRET}}]}],
    ],
)
def test_no_prompt_is_quoted(old: Any, new: Any) -> None:
    for name in ("messages", "input"):
        for one, other in ((old, new), (new, old)):
            told = "".join(differences({"body": {name: one}}, {"body": {name: other}}))
            assert name in told
            assert SECRET not in told
    told = "".join(differences({"body": old}, {"body": {"messages": new}}))
    assert SECRET not in told


def test_a_text_in_another_place_is_cut() -> None:
    told = list(differences({"stop": "a"}, {"stop": "b" * 500}))
    assert told == [f"stop ('a' in the cache, '{'b' * 56}... asked)"]


def test_an_entry_that_is_deeper_than_can_be_shown_is_told_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    why = explain_miss(request(BODY), [entry(temperature=None), {**entry(), "asked": {"body": deep}}])
    assert why == "the nearest answer of this test differs in temperature (None in the cache, 0 asked)"
    strange = entry()
    strange["asked"]["body"]["temperature"] = deep
    why = explain_miss(request(BODY), [strange])
    assert why == "the nearest answer of this test differs in more than can be compared"


def test_an_entry_that_differs_in_a_million_places_is_not_listed() -> None:
    wide = [{"role": "user", "content": "x"}] * 1_000_000
    why = explain_miss(request({**BODY, "messages": [USER] * 1_000_000}), [entry(messages=wide)])
    assert why.endswith("; and 996 more")
