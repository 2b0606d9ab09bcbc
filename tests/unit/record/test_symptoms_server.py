"""Rows about a server, a key, a route, a model and its memory: each on its signature, and on no look-alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.errors import NOTHING_OF_THE_TEST, UNKNOWN_MODEL
from pytest_lmstudio.record.diagnosis import ROWS
from tests.unit.record.cases import Case, bad, bads, good, goods, of_kind, quoted, rows_of, server_log, turns
from tests.unit.record.logs import START_S, preflight, unsent
from tests.unit.record.test_symptoms_calls import CASES as OF_CALLS

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event

ROW = {row.symptom: row for row in ROWS}
ENGINE = "Engine protocol predict request returned 400: "
OVERFLOW = (
    ENGINE
    + '{"error":{"code":400,"message":"request (36377 tokens) exceeds the available context size (4096 tokens)"}}'
)
N_KEEP = "The number of tokens to keep is greater than the context length (n_keep: 13055>= n_ctx: 4096)."
SHARED = ENGINE.replace("400", "500") + '{"error":{"code":500,"message":"Context size has been exceeded."}}'
CRASH = "The model has crashed without additional information. (Exit code: null)"


def overflow(message: str, count: int = 1, gap_ms: int = 10_000, **fields: Any) -> list[Event]:
    return bads(count, "context_overflow", gap_ms=gap_ms, error_category="other", message=message, **fields)


SETUP = [
    Case(
        "the run's own server died",
        [*goods(3), *bads(2, "disconnect"), server_log("embedded", exited=True, counts={"out_of_memory": 1})],
        "its process had ended before the run did; its log tells: 1 x out of memory",
        [*goods(3), *bads(2, "disconnect"), server_log("embedded", counts={"out_of_memory": 1})],
    ),
    Case(
        "the server went away while the run was on",
        [*goods(5), *bad("c0", "connect", 60_000, 5), *bad("c1", "connect", 62_000, 5), *good("after", 90_000)],
        "5 calls went well before, and 1 later; connections were refused for 2 s (2 attempts)",
        [*bad("c0", "connect", 0, 5), *good("after", 90_000)],
    ),
    Case(
        "the server cannot be reached",
        [unsent("a", "unreachable", message="refused\x1b"), *bads(1, "connect")],
        '2 errors of kind unreachable or connect, the first: "no"',
        [*bads(2, "disconnect")],
    ),
    Case("the server refuses the API token", of_kind("auth", "auth"), quoted("auth"), of_kind("bad_request")),
    Case("the server does not know the route", of_kind("wrong_url"), quoted("wrong_url"), of_kind("no_model")),
    Case(
        "the model asked for is not there",
        [preflight(loaded=False), *of_kind("no_model")],
        quoted("no_model"),
        of_kind("wrong_url"),
        "load it before the run with `lms load qwen`",
    ),
    Case(
        "the model asked for is not there",
        [preflight(id="gemma 3; rm -rf"), *of_kind("no_model", count=2)],
        quoted("no_model", 2),
        [*goods(2)],
        "name one that is there (the server lists MODEL): `lms load MODEL` and --lmstudio-model=MODEL",
    ),
    Case("the model asked for is not there", of_kind("no_model"), quoted("no_model"), of_kind("out_of_memory")),
    Case(
        "another model answers than the one asked for",
        [preflight(id="gemma"), *of_kind("wrong_model", message="asked for qwen, answered by gemma")],
        quoted("wrong_model", message="asked for qwen, answered by gemma"),
        of_kind("no_model"),
        "name the one that answers with --lmstudio-model=gemma, or load the one that is meant with `lms load qwen`",
    ),
    Case(
        "another model answers than the one asked for",
        [preflight(), *of_kind("wrong_model")],
        quoted("wrong_model"),
        of_kind("no_model"),
        "load the one that is meant with `lms load qwen`",
    ),
    Case(
        "the server rejects the requests",
        of_kind("bad_request", message="Error rendering prompt with jinja template: x"),
        quoted("bad_request", message="Error rendering prompt with jinja template: x"),
        of_kind("auth"),
        "mend the order and roles of the messages (many templates want one system message, first, and then user and "
        "assistant in turn), or choose another prompt template for the model",
    ),
    Case(
        "the server rejects the requests",
        of_kind("bad_request", message="Failed to initialize samplers: failed to parse grammar"),
        quoted("bad_request", message="Failed to initialize samplers: failed to parse grammar"),
        of_kind("auth"),
        "make the JSON schema or the tools simpler: fewer tools, no bounds such as a large maxLength or maxItems",
    ),
    Case(
        "the server rejects the requests",
        of_kind("bad_request", message="Unrecognized key(s) in object: 'seed'"),
        quoted("bad_request", message="Unrecognized key(s) in object: 'seed'"),
        of_kind("auth"),
        "leave out the parameter that the message names",
    ),
    Case("the server rejects the requests", of_kind("bad_request"), quoted("bad_request"), of_kind("cache_miss")),
    Case(
        "it is not known which model the offline cache is asked for",
        [unsent("a", "cache_miss", error_category="other", message=f"{UNKNOWN_MODEL}, since none is remembered")],
        '1 error of kind cache_miss, the first: "the model is not known, since none is remembered"',
        [unsent("a", "cache_miss", error_category="other", message=NOTHING_OF_THE_TEST)],
    ),
    Case(
        "tests were never recorded in the offline cache",
        [unsent("a", "cache_miss", error_category="other", message=NOTHING_OF_THE_TEST)],
        '1 error of kind cache_miss, the first: "no answer of this test is in the cache"',
        [unsent("a", "cache_miss", error_category="other", message="the nearest answer of this test differs in seed")],
    ),
    Case(
        "the answer was not in the offline cache",
        [unsent("a", "cache_miss", error_category="other", message="nothing like it")],
        '1 error of kind cache_miss, the first: "nothing like it"',
        goods(1),
    ),
]

MODELS = [
    Case(
        "the server cannot load the model",
        [*of_kind("out_of_memory"), server_log(counts={"out_of_memory": 2})],
        quoted("out_of_memory") + "; the server's log has in this run's time: 2 x out of memory",
        of_kind("no_model"),
        "make room with `lms unload --all`, then `lms load qwen --context-length 4096`; if that fails take a smaller "
        "model or quantization",
    ),
    Case(
        "the server ran out of memory while it answered",
        [*of_kind("model_lost", "network", CRASH), server_log(counts={"out_of_memory": 1, "crashed": 1})],
        "1 attempt broke; the server's log has in this run's time: 1 x out of memory, 1 x 'model has crashed'",
        [*of_kind("model_lost", "network", CRASH), server_log(counts={"crashed": 1})],
        "load the model with less context (`lms load qwen --context-length 4096`), or fewer layers on the GPU (--gpu), "
        "or take a smaller one",
    ),
    Case(
        "prompts do not fit into the model's context",
        [preflight(), *overflow(OVERFLOW, chars=120_000), *overflow(N_KEEP, name="b", chars=9_000)],
        "2 errors of kind context_overflow; the longest such prompt has 120,000 characters, the model is loaded with "
        "4,096 tokens of context",
        [preflight(), *goods(2, chars=36_000)],
        "load the model with room for them: `lms load qwen --context-length 49152`, or shorten them",
    ),
    Case(
        "prompts do not fit into the model's context",
        overflow("no", chars=30_000),
        "1 error of kind context_overflow; the longest such prompt has 30,000 characters",
        overflow(SHARED, 3, gap_ms=1, chars=30_000),
        "load the model with room for them: `lms load qwen --context-length 16384`, or shorten them",
    ),
    Case(
        "requests in flight use up the context that they share",
        [preflight(), *overflow(SHARED, 4, gap_ms=1)],
        "4 errors of kind context_overflow with up to 4 requests in flight",
        [preflight(), *overflow(SHARED, 4), *overflow(OVERFLOW, 4, gap_ms=1, name="b")],
        "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2), or load the model with more: "
        "`lms load qwen --context-length 8192`",
    ),
    Case(
        "models take turns",
        [*turns(5000), server_log(counts={"loads": 5})],
        "2 models took 5 turns; a request after one took 5 s, others 1 s (medians); the server's log has in this run's "
        "time: 5 x a model being loaded",
        turns(1500),
    ),
    Case(
        "the model crashed while it answered",
        [
            *bads(4, "model_lost", gap_ms=1, message=CRASH),
            server_log(counts={"crashed": 1}, exit_codes=["null", "<b>"]),
        ],
        quoted("model_lost", 4, CRASH)
        + "; the server's log has in this run's time: 1 x 'model has crashed' (exit code null)",
        of_kind("model_lost", "network", "Model unloaded."),
        "set EVAL_CONCURRENCY=2 (--lmstudio-concurrency=2), load the model with less context "
        "(`lms load qwen --context-length 4096`), and update LM Studio and its runtime",
    ),
    Case(
        "the model crashed while it answered",
        of_kind("model_lost", "network", CRASH),
        quoted("model_lost", message=CRASH),
        of_kind("server_error", "network", CRASH),
        "load the model with less context (`lms load qwen --context-length 4096`), and update LM Studio and its "
        "runtime",
    ),
    Case(
        "the model was unloaded while it answered",
        [*of_kind("model_lost", "network", "Model reloaded."), server_log(counts={"unloads": 1, "loads": 2})],
        quoted("model_lost", message="Model reloaded.")
        + "; the server's log has in this run's time: 1 x a model being unloaded, 2 x a model being loaded",
        of_kind("model_lost", "network", CRASH),
        "load it once before the run with `lms load qwen`, which sets no time to live; use one model at a time, and "
        "turn 'Only Keep Last JIT Loaded Model' off in the server's settings",
    ),
    Case(
        "the first request is slow, the others are quick",
        [*good("first", -60_000, 20_000), *goods(4, latency_ms=1000)],
        "the first answer took 20 s, the other 4 took 1 s (median)",
        [*good("first", -60_000, 4000), *goods(4, latency_ms=1000)],
        "load the model before the run with `lms load qwen`, and keep it loaded",
    ),
]
CASES = [*SETUP, *MODELS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_symptom_is_seen_with_its_evidence_and_what_to_change(case: Case) -> None:
    row = rows_of(case.shows, **case.facts)[case.symptom]
    assert row["evidence"] == case.evidence
    assert row["fix"] == (case.fix or ROW[case.symptom].fix)
    assert row["cause"] == (case.cause or ROW[case.symptom].cause)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_a_near_miss_is_not_taken_for_the_symptom(case: Case) -> None:
    assert case.symptom not in rows_of(case.near_miss, **case.near_facts)


def test_of_an_offline_cache_each_reason_is_told_of_the_calls_that_it_stopped() -> None:
    messages = (UNKNOWN_MODEL, NOTHING_OF_THE_TEST, "the nearest answer of this test differs in seed", UNKNOWN_MODEL)
    lines = [unsent(str(n), "cache_miss", error_category="other", message=said) for n, said in enumerate(messages)]
    found = [(symptom, row["evidence"].partition(" of kind")[0]) for symptom, row in rows_of(lines).items()]
    assert found == [
        ("it is not known which model the offline cache is asked for", "2 errors"),
        ("tests were never recorded in the offline cache", "1 error"),
        ("the answer was not in the offline cache", "1 error"),
    ]


@pytest.mark.parametrize("server", ["llama.cpp", "openai", "embedded"])
@pytest.mark.parametrize("case", [*CASES, *OF_CALLS], ids=lambda case: case.symptom)
def test_a_server_that_is_not_lm_studio_is_told_none_of_its_commands(case: Case, server: str) -> None:
    seen = [line for line in case.shows if line["event"] == "preflight"] or [preflight()]
    kind = "llama.cpp" if server == "embedded" else server
    told = {**seen[-1], "server": {**seen[-1]["server"], "kind": kind}}
    own = [server_log("embedded")] if server == "embedded" else []
    logs = [line for line in case.shows if line["event"] == "server_log" and not own]
    others = [line for line in case.shows if line["event"] not in {"preflight", "server_log"}]
    for row in rows_of([told, *others, *logs, *own], **case.facts).values():
        text = " ".join((row["check"], row["fix"], row["cause"]))
        assert "lms " not in text
        assert "LM Studio" not in text


def test_every_row_that_names_lm_studio_has_other_words_for_other_servers() -> None:
    names = ("lms ", "LM Studio")
    for row in ROWS:
        said = [(row.check, row.elsewhere.check), (row.fix, row.elsewhere.fix), (row.cause, row.elsewhere.cause)]
        silent = [own for own, other in said if any(name in own for name in names) and not other]
        assert not silent, row.symptom
        assert not any(name in other for name in names for _, other in said)


def test_a_llama_cpp_server_is_not_told_commands_of_lm_studio() -> None:
    seen = preflight()
    seen["server"]["kind"] = "llama.cpp"
    row = rows_of([seen, *overflow(OVERFLOW)])["prompts do not fit into the model's context"]
    assert (
        row["fix"]
        == "start llama-server with room for 49152 tokens a request (-c, which its slots share), or shorten prompts"
    )
    row = rows_of([seen, *overflow(OVERFLOW), server_log("embedded")])["prompts do not fit into the model's context"]
    assert (
        row["fix"] == "shorten the prompts, or ask a server of your own, whose context you can choose (--lmstudio-url)"
    )


def test_what_a_dying_server_cut_is_explained_by_its_going() -> None:
    cut = bads(3, "disconnect", gap_ms=1, latency_ms=55_000)
    refused = [line for n in range(4) for line in bad(f"r{n}", "connect", 56_000 + n, 3)]
    assert list(rows_of([preflight(), *goods(5), *cut, *refused])) == ["the server went away while the run was on"]


def test_the_times_of_a_log_are_unix_seconds_and_nothing_else_is_believed() -> None:
    hostile = server_log(
        counts={"crashed": "many", "loads": -1, "queued": True, "<b>": 3}, hung_up_s=[START_S, "x", None]
    )
    row = rows_of([*of_kind("model_lost", "network", CRASH), hostile])["the model crashed while it answered"]
    assert row["evidence"] == quoted("model_lost", message=CRASH)
    stranger = server_log(source="somebody", counts={"crashed": 1})
    row = rows_of([*of_kind("model_lost", "network", CRASH), stranger])["the model crashed while it answered"]
    assert row["evidence"] == quoted("model_lost", message=CRASH)


def test_of_many_models_three_are_named() -> None:
    seen = preflight()
    seen["server"]["models"] = [{**seen["server"]["models"][0], "id": name} for name in ("a", "b", "c", "d")]
    row = rows_of([seen, *of_kind("no_model")])["the model asked for is not there"]
    assert row["fix"] == "name one that is there (the server lists a, b, c): `lms load a` and --lmstudio-model=a"


def test_a_model_for_embeddings_is_not_offered_for_a_chat() -> None:
    row = rows_of([preflight(id="embed", type="embedding"), *of_kind("no_model")])["the model asked for is not there"]
    assert row["fix"] == ROW["the model asked for is not there"].fix


def test_prompts_of_unknown_length_are_told_no_size_to_load() -> None:
    lines = [{**line, "prompt_chars": None} for line in overflow("Context size has been exceeded.")]
    row = rows_of(lines)["prompts do not fit into the model's context"]
    assert row["fix"] == "load the model with a larger context (`lms load --context-length`), or shorten the prompts"
