"""The stand-in server answers, lists, loads and refuses as LM Studio does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.standin import Model, StandIn, embedding, reply, tool_call, vector
from tests.standin.probe import CHAT, ask, choices, events, get, leave, post

# -- answers ---------------------------------------------------------------------------------------


def test_a_body_has_every_field_in_lm_studios_order_and_two_blanks_of_indent() -> None:
    with StandIn() as server:
        response = ask(server, "say hi", temperature=0)
    body = response.json()
    assert response.text == json.dumps(body, indent=2)
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    message = {"role": "assistant", "content": "echo: say hi", "reasoning_content": "", "tool_calls": []}
    counts = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert body == {
        "object": "chat.completion",
        "model": "test-model",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {**counts, "completion_tokens_details": {"reasoning_tokens": 0}},
        "stats": {},
        "system_fingerprint": "test-model",
    }


def test_heads_are_those_of_express() -> None:
    with StandIn() as server:
        body, stream = ask(server).headers, ask(server, stream=True).headers
    assert [*body] == ["x-powered-by", "content-type", "content-length", "etag", "date", "connection", "keep-alive"]
    assert body["content-type"] == "application/json; charset=utf-8"
    assert body["keep-alive"] == "timeout=5"
    assert stream["content-type"] == "text/event-stream"
    assert stream["transfer-encoding"] == "chunked"
    assert "content-length" not in stream


def test_a_stream_is_one_delta_a_word_an_empty_one_a_finish_and_done() -> None:
    with StandIn() as server:
        server.script(reply("Hello there", reasoning="so ok"))
        response = ask(server, stream=True)
    assert choices(response) == [
        ({"role": "assistant", "reasoning_content": "so"}, None),
        ({"reasoning_content": " ok"}, None),
        ({"content": "Hello"}, None),
        ({"content": " there"}, None),
        ({"content": ""}, None),
        ({}, "stop"),
    ]
    assert events(response)[-1] == "[DONE]"
    assert all("usage" not in event for event in events(response)[:-1])


def test_the_usage_event_comes_only_when_asked_for() -> None:
    with StandIn() as server:
        response = ask(server, "a b", stream=True, stream_options={"include_usage": True})
    last = events(response)[-2]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


def test_a_tool_call_streams_as_two_fragments() -> None:
    with StandIn() as server:
        server.script(reply("", tool_calls=[tool_call("get_weather", '{"city":"Paris"}', id="456579262")]))
        response = ask(server, stream=True)
    opening = {"index": 0, "id": "456579262", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "type": "function", "function": {"arguments": '{"city":"Paris"}'}}
    assert choices(response) == [
        ({"role": "assistant", "tool_calls": [opening]}, None),
        ({"tool_calls": [rest]}, None),
        ({}, "tool_calls"),
    ]


@pytest.mark.parametrize(("limit", "content", "reasoning"), [(3, "a", "x y"), (1, "", "x"), (9, "a b c", "x y")])
def test_max_tokens_is_spent_on_thinking_first(limit: int, content: str, reasoning: str) -> None:
    with StandIn() as server:
        server.default = reply("a b c", reasoning="x y")
        body = ask(server, max_tokens=limit).json()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (content, reasoning)
    assert choice["finish_reason"] == ("stop" if limit == 9 else "length")
    assert body["usage"]["completion_tokens"] == (5 if limit == 9 else limit - 1)


def test_embeddings_are_the_same_for_the_same_text() -> None:
    with StandIn(models=[Model("embed", type="embedding")]) as server:
        body = post(server.url + "/v1/embeddings", json={"model": "embed", "input": ["a", "b", "a"]}).json()
        server.script(embedding(dimensions=3))
        short = post(server.url + "/v1/embeddings", json={"input": "a"}).json()
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    assert [row["embedding"] for row in body["data"]] == [vector("a"), vector("b"), vector("a")]
    assert body["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert short["data"][0]["embedding"] == vector("a", 3)


def test_the_older_route_adds_statistics_and_a_text_completion_has_text() -> None:
    with StandIn() as server:
        old = ask(server, path="/api/v0/chat/completions").json()
        plain = post(server.url + "/v1/completions", json={"prompt": "once"}).json()
    assert old["model_info"] == {"arch": "llama", "quant": "Q4_K_M", "format": "gguf", "context_length": 8192}
    assert old["stats"]["stop_reason"] == "eosFound"
    assert (plain["object"], plain["choices"][0]["text"]) == ("text_completion", "echo: once")


# -- models and routes -----------------------------------------------------------------------------


def test_models_are_listed_in_three_ways() -> None:
    models = [Model("a"), Model("b", loaded=False), Model("e", type="embedding", quantization=None)]
    with StandIn(models=models) as server:
        openai, v0, v1 = (get(server.url + p).json() for p in ("/v1/models", "/api/v0/models", "/api/v1/models"))
    assert openai["data"][0] == {"id": "a", "object": "model", "owned_by": "organization_owner"}
    assert [row["id"] for row in openai["data"]] == ["a", "b", "e"]
    assert [(row["type"], row["state"]) for row in v0["data"]] == [
        ("llm", "loaded"),
        ("llm", "not-loaded"),
        ("embeddings", "loaded"),
    ]
    assert ["loaded_context_length" in row for row in v0["data"]] == [True, False, True]
    config = {"context_length": 8192, "parallel": 4}
    assert [row["loaded_instances"] for row in v1["models"]] == [
        [{"id": "a", "config": config}],
        [],
        [{"id": "e", "config": config}],
    ]
    assert [row["quantization"] for row in v1["models"]][1:] == [{"name": "Q4_K_M", "bits_per_weight": 4}, None]


@pytest.mark.parametrize(("api", "seen"), [("v1", [200, 200, 200]), ("v0", [200, 200, 0]), ("openai", [200, 404, 404])])
def test_the_age_of_the_server_decides_on_its_routes(api: Any, seen: list[int]) -> None:
    with StandIn(api=api) as server:
        answers = [get(server.url + path) for path in ("/v1/models", "/api/v0/models", "/api/v1/models")]
    assert [0 if "Unexpected" in answer.text else answer.status_code for answer in answers] == seen


def test_an_unknown_route_is_answered_200_and_fails_the_test() -> None:
    server = StandIn()
    server.start()
    response = ask(server, path="/chat/completions")
    with pytest.raises(AssertionError, match=r"nobody expects: POST /chat/completions$"):
        server.__exit__(None, None, None)
    assert response.text == '{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
    assert (response.status_code, len(response.content)) == (200, 67)
    assert server.log.endswith("Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway")


def test_a_route_that_the_test_expects_is_no_surprise() -> None:
    with StandIn() as server:
        server.expected.add("GET /health")
        get(server.url + "/health")
    assert server.unexpected == []


@pytest.mark.parametrize(
    ("models", "wanted", "code", "told"),
    [
        ([Model("a")], "zzz", 200, '"model": "a"'),
        ([Model("a")], None, 200, '"model": "a"'),
        ([Model("a"), Model("b")], "b", 200, '"model": "b"'),
        (
            [Model("a"), Model("b")],
            "zzz",
            404,
            r"Model \"zzz\" not found. Please specify a valid model.\n\nYour models:",
        ),
        ([Model("a"), Model("b")], None, 400, "Multiple models are loaded. Please specify a model by providing a"),
        ([Model("a", loaded=False)], "zzz", 400, "No models loaded. Please load a model in the developer page or use"),
    ],
)
def test_an_unknown_model_is_served_by_the_only_one_loaded(
    models: list[Model], wanted: str | None, code: int, told: str
) -> None:
    with StandIn(models=models) as server:
        response = post(server.url + CHAT, json={"model": wanted} if wanted else {})
    assert response.status_code == code
    assert told in response.text


def test_parallel_first_requests_load_a_copy_each() -> None:
    with StandIn(models=[Model("m", loaded=False, load_s=0.3)]) as server:
        clients = [leave(server, {"model": "m"}) for _ in range(3)]
        server.wait_for(lambda: [request.outcome for request in server.requests] == ["answered"] * 3)
        instances = get(server.url + "/api/v1/models").json()["models"][0]["loaded_instances"]
        for client in clients:
            client.close()
    assert server.loads == {"m": 3}
    assert [(row["id"], row["remaining_ttl_seconds"]) for row in instances] == [
        ("m", 3600),
        ("m:2", 3600),
        ("m:3", 3600),
    ]


def test_load_and_unload_name_the_instance() -> None:
    with StandIn(models=[Model("m", loaded=False)]) as server:
        load, unload = server.url + "/api/v1/models/load", server.url + "/api/v1/models/unload"
        names = [post(load, json={"model": "m"}).json()["instance_id"] for _ in range(2)]
        gone = post(unload, json={"instance_id": "m:2"}).json()
        missing = post(load, json={"model": "none"}).status_code
    assert (names, gone, missing) == (["m", "m:2"], {"instance_id": "m:2"}, 404)


def test_a_token_is_wanted_on_every_route_but_the_greeting() -> None:
    with StandIn(token="sk-lm-right") as server:
        missing, wrong, right = (
            get(server.url + "/v1/models", headers=headers)
            for headers in ({}, {"Authorization": "Bearer lm-studio-is-it"}, {"Authorization": "Bearer sk-lm-right"})
        )
        greeting = get(server.url + "/lmstudio-greeting")
    assert [r.status_code for r in (missing, wrong, right, greeting)] == [401, 401, 200, 200]
    assert missing.json()["error"]["code"] == "invalid_api_key"
    assert wrong.json()["error"]["message"].startswith("Malformed LM Studio API token provided: lm-studio-********.")
    assert greeting.content == b'{"lmstudio":true}'
