"""Keywords of a call: which go into the body, which say how it travels, and which are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.client.asking import Asked, effective, messages_for, sorted_out, texts_for
from pytest_lmstudio.keywords import TRANSPORT
from pytest_lmstudio.records import CallOptions
from pytest_lmstudio.settings import CacheMode, Settings
from pytest_lmstudio.values import RECIPES

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = CallOptions(timeout_s=45.0, retries=3, backoff_s=0.8, cache="readwrite", stream=True, inter_token_s=60.0)
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}


def ask(settings: Settings, marker: Mapping[str, Any] | None = None, /, **keywords: Any) -> Asked:
    return sorted_out(settings, marker or {}, keywords)


def test_without_keywords_the_settings_hold() -> None:
    assert ask(Settings()) == Asked(None, DEFAULT, {})


def test_transport_keywords_stay_out_of_the_body() -> None:
    keywords: dict[str, Any] = {"timeout": 1, "first_token_timeout": 0.5, "inter_token_timeout": "off", "retries": 0}
    keywords |= {"backoff": 0, "model": "m", "cache": False, "stream": False}
    assert keywords.keys() == TRANSPORT.keys()
    options = CallOptions(1.0, retries=0, backoff_s=0.0, cache="off", stream=False, first_token_s=0.5)
    assert ask(Settings(), **keywords) == Asked("m", options, {})


def test_the_call_beats_the_marker_which_beats_the_recipe() -> None:
    settings = Settings(params=RECIPES["fast-feedback"]["params"], timeout=20.0)
    marker: dict[str, Any] = {"timeout": 30.0, "retries": 5, "model": "marked", "max_tokens": 64, "seed": 1}
    asked = ask(settings, marker, timeout="auto", model="called", seed=2, stop=["\n"])
    assert asked.model == "called"
    assert (asked.options.timeout_s, asked.options.retries) == (None, 5)
    assert asked.params == {"max_tokens": 64, "temperature": 0.4, "seed": 2, "stop": ["\n"]}


def test_none_takes_a_parameter_out() -> None:
    asked = ask(Settings(params=(("max_tokens", 256),)), {"temperature": 0.5}, max_tokens=None, temperature=None)
    assert asked.params == {}


@pytest.mark.parametrize(
    ("mode", "used"),
    [("readwrite", "off"), ("refresh", "off"), ("off", "off"), ("offline", "offline")],
)
def test_a_call_without_the_cache_is_still_not_sent_offline(mode: CacheMode, used: str) -> None:
    settings = Settings(cache=mode)
    assert ask(settings, cache=False).options.cache == used
    assert ask(settings, {"cache": False}).options.cache == used
    assert ask(settings, cache=True).options.cache == mode
    assert ask(settings, {"cache": True}).options.cache == mode


def test_a_call_may_use_the_cache_that_its_marker_leaves_alone() -> None:
    assert ask(Settings(), {"cache": False}, cache=True).options.cache == "readwrite"


def test_extra_body_passes_what_only_the_server_knows() -> None:
    asked = ask(Settings(), max_tokens=5, extra_body={"mirostat": 2, "timeout": 9, "max_tokens": 7})
    assert asked.params == {"max_tokens": 7, "mirostat": 2, "timeout": 9}
    assert asked.options == DEFAULT


def test_extra_body_can_send_null_which_a_keyword_cannot() -> None:
    asked = ask(Settings(), {"seed": 1}, seed=None, temperature=0, extra_body={"temperature": None, "grammar": None})
    assert asked.params == {"temperature": None, "grammar": None}


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        (
            {"max_token": 5},
            (
                "unknown keyword 'max_token'; did you mean 'max_tokens'? "
                "(a parameter that only your server knows goes into extra_body={'max_token': ...})"
            ),
        ),
        (
            {"zzz": 5},
            "unknown keyword 'zzz' (a parameter that only your server knows goes into extra_body={'zzz': ...})",
        ),
        (
            {"extra_body": {"stream": True, "model": "m"}},
            "extra_body: model, stream cannot be set there; use the call's own arguments",
        ),
        ({"extra_body": [1]}, "extra_body=[1]: expected a dict with names of request parameters"),
        ({"extra_body": {1: 2}}, "extra_body={1: 2}: expected a dict with names of request parameters"),
    ],
)
def test_an_unknown_keyword_is_a_type_error(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        ask(Settings(), **keywords)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["n", "messages", "stream_options", "input"])
def test_what_the_call_sets_itself_is_no_keyword(name: str) -> None:
    with pytest.raises(TypeError, match=f"^unknown keyword '{name}'"):
        ask(Settings(), **{name: 1})


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"timeout": 0}, "timeout=0: expected seconds above 0 and up to 86400, or 'auto'"),
        ({"retries": None}, "retries=None: expected a number"),
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number from 1"),
        ({"temperature": "hot"}, "temperature='hot': expected a number from 0"),
        ({"model": ""}, "model='': expected a text that is not empty"),
    ],
)
def test_a_wrong_value_is_a_value_error(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        ask(Settings(), **keywords)
    assert str(caught.value) == text


def test_a_marker_changes_the_settings_a_test_sees() -> None:
    marker = {"timeout": 90.0, "retries": 1, "backoff": 0.0, "model": "m", "stream": False, "cache": False, "seed": 7}
    assert effective(Settings(), marker) == Settings(
        timeout=90.0, retries=1, backoff=0.0, model="m", stream=False, cache="off"
    )
    assert effective(Settings(), {"seed": 7}) == Settings()


@pytest.mark.parametrize(
    ("prompt", "system", "messages"),
    [
        ("Hi", None, [USER]),
        ("Hi", "Be brief.", [SYSTEM, USER]),
        ("", None, [{"role": "user", "content": ""}]),
        ((USER,), "Be brief.", [SYSTEM, USER]),
        ([{"role": "system", "content": "Own."}, USER], "Be brief.", [{"role": "system", "content": "Own."}, USER]),
        ([{"role": "assistant", "tool_calls": []}], None, [{"role": "assistant", "tool_calls": []}]),
    ],
)
def test_a_prompt_becomes_messages(prompt: object, system: str | None, messages: list[dict[str, Any]]) -> None:
    assert messages_for(prompt, system) == messages


def test_a_conversation_is_copied() -> None:
    conversation = [dict(USER)]
    messages_for(conversation, "Be brief.")[1]["content"] = "changed"
    assert conversation == [USER]


@pytest.mark.parametrize("prompt", [[], None, 7, b"Hi", ["Hi"], [USER, "Hi"], {"role": "user", "content": "Hi"}])
def test_what_is_no_prompt_is_a_type_error(prompt: object) -> None:
    with pytest.raises(TypeError, match=r"^a prompt is a str, a conversation a list of message dicts; got "):
        messages_for(prompt, None)


@pytest.mark.parametrize("message", [{"content": "Hi"}, {"role": None, "content": "Hi"}, {}])
def test_a_message_needs_a_role(message: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"^each message needs a 'role', such as 'user'$"):
        messages_for([USER, message], None)


@pytest.mark.parametrize(("texts", "inputs"), [("a", ["a"]), (["a", "b"], ["a", "b"]), (("a",), ["a"])])
def test_texts_to_embed(texts: object, inputs: list[str]) -> None:
    assert texts_for(texts) == inputs


@pytest.mark.parametrize("texts", [[], None, [1], b"a", {"a"}])
def test_what_is_no_text_to_embed_is_a_type_error(texts: object) -> None:
    with pytest.raises(TypeError, match=r"^embed takes a str or a list of str that is not empty; got "):
        texts_for(texts)
