"""A server's log tells what it tells: by its own phrases, within a span of time, and nothing of what was asked."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.server.log_lines import Entry, entries, told_by_llama_cpp, told_by_lmstudio, within

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT = "Client disconnected. Stopping generation... (If the model is busy processing the prompt, it will finish first.)"
CRASH = "Error: The model has crashed without additional information. (Exit code: 18446744072635812000)"
DAY = "2026-11-22"


def at(clock: str) -> float:
    return datetime.fromisoformat(f"{DAY} {clock}").timestamp()


def new(*lines: tuple[str, str, str]) -> str:
    """Return lines as LM Studio 0.4 writes them."""
    return "".join(f"[{DAY} {clock}][{level}][LM STUDIO SERVER] {message}\n" for clock, level, message in lines)


def old(*lines: tuple[str, str, str]) -> str:
    """Return entries as LM Studio 0.3 writes them."""
    return "".join(f"{DAY} {clock}  [{level}]\n [LM STUDIO SERVER] {message}\n" for clock, level, message in lines)


def oldest(*lines: tuple[str, str, str]) -> str:
    """Return lines as LM Studio 0.2 writes them."""
    return "".join(f"[{DAY} {clock}.945] [{level}] [LM STUDIO SERVER] {message}\n" for clock, level, message in lines)


FORMS = pytest.mark.parametrize("form", [new, old, oldest])
BEGUN = "Running chat completion on conversation with 1 messages."


def counts(text: str, since: str = "00:00:00", until: str = "23:59:59") -> dict[str, int]:
    return dict(told_by_lmstudio(text, at(since), at(until)).counts)


def test_entries_are_read_in_every_form_and_over_several_lines() -> None:
    text = (
        "the rest of an older entry\n"
        f"[{DAY} 10:00:00][INFO][a/b] one\n"
        f'{DAY} 10:00:01 [ERROR]\r\n [Server Error] {{\r\n  "error": 1\r\n}}\r\n'
        f"[{DAY} 10:00:02.123] [info] [x][y=z] three\u2028[{DAY} 10:00:03][ERROR] no line of its own\n"
        f"{DAY} 10:00:04  [INFO]\n"
    )
    assert list(entries(text)) == [
        Entry(f"{DAY} 10:00:00", "INFO", "[a/b] one"),
        Entry(f"{DAY} 10:00:01", "ERROR", '\n [Server Error] {\n  "error": 1\n}'),
        Entry(f"{DAY} 10:00:02", "INFO", f"[x][y=z] three\u2028[{DAY} 10:00:03][ERROR] no line of its own"),
        Entry(f"{DAY} 10:00:04", "INFO", "\n"),
    ]


@FORMS
def test_a_client_that_leaves_a_running_request_has_hung_up(form: object) -> None:
    text = form(
        ("10:00:00", "INFO", BEGUN), ("10:00:05", "INFO", LEFT), ("10:00:05", "INFO", "Finished streaming response")
    )  # type: ignore[operator]
    told = told_by_lmstudio(text, at("09:59:00"), at("10:01:00"))
    assert (dict(told.counts), told.hung_up_s) == ({"hung_up": 1}, [at("10:00:05")])


@FORMS
def test_a_connection_that_closes_after_its_answer_has_not(form: object) -> None:
    text = form(
        ("10:00:00", "INFO", BEGUN), ("10:00:05", "INFO", "Finished streaming response"), ("10:00:05", "INFO", LEFT)
    )  # type: ignore[operator]
    assert counts(text) == {"closed": 1}


def test_two_that_run_and_one_that_leaves_are_told_apart_from_the_close_of_the_other() -> None:
    text = new(
        ("10:00:00", "INFO", BEGUN),
        ("10:00:00", "INFO", BEGUN),
        ("10:00:05", "INFO", LEFT),
        ("10:00:05", "INFO", "Finished streaming response"),
        ("10:00:09", "INFO", "Generated prediction: {}"),
        ("10:00:14", "INFO", LEFT),
    )
    assert counts(text) == {"hung_up": 1, "closed": 1}


def test_an_aborted_request_without_an_end_of_its_own_does_not_keep_the_next_one_open() -> None:
    text = new(
        ("10:00:00", "INFO", BEGUN),
        ("10:00:05", "INFO", LEFT),
        ("10:00:09", "INFO", BEGUN),
        ("10:00:12", "INFO", "Finished streaming response"),
        ("10:00:17", "INFO", LEFT),
    )
    assert counts(text) == {"hung_up": 1, "closed": 1}


def test_a_crash_ends_all_that_ran() -> None:
    text = new(
        ("10:00:00", "INFO", BEGUN),
        ("10:00:01", "INFO", BEGUN),
        ("10:00:02", "ERROR", CRASH),
        ("10:00:09", "INFO", LEFT),
    )
    told = told_by_lmstudio(text, at("10:00:00"), at("11:00:00"))
    assert dict(told.counts) == {"crashed": 1, "closed": 1}
    assert told.exit_codes == ["18446744072635812000"]


def test_clients_of_the_sdk_that_leave_are_nobody_s_trouble() -> None:
    assert counts(new(("10:00:00", "INFO", BEGUN)) + f"[{DAY} 10:00:01][INFO][Client=abc] Client disconnected.\n") == {}


@pytest.mark.parametrize(
    ("level", "message", "name"),
    [
        ("ERROR", "[Server Error] " + CRASH, "crashed"),
        ("ERROR", "Caused By: Error: Channel Error", "crashed"),
        (
            "ERROR",
            "Failed to load model. Error: Model loading was stopped due to insufficient system resources.",
            "out_of_memory",
        ),
        (
            "ERROR",
            '[Server Error] {\n  "error": "error loading model: unable to allocate CUDA0 buffer"\n}',
            "out_of_memory",
        ),
        ("DEBUG", "CUDA error: out of memory\n  current device: 0", "out_of_memory"),
        ("ERROR", "Engine protocol predict request returned 500: Context size has been exceeded.", "context"),
        ("ERROR", "request (36377 tokens) exceeds the available context size (4096 tokens)", "context"),
        ("ERROR", "the context length (n_keep: 13055>= n_ctx: 4096)", "context"),
        ("WARN", "Trying to keep the first 9 tokens when context the overflows.", "context"),
        ("INFO", '[JIT] Requested model (a/b) is not loaded. Loading "a/b" now...', "loads"),
        ("INFO", "Model unloaded: a/b", "unloads"),
        ("ERROR", "Error: Model is unloaded.", "unloads"),
        ("INFO", "Processing queued request...", "queued"),
        ("INFO", "Model is currently generating. Queuing request..", "queued"),
    ],
)
def test_a_known_phrase_is_counted(level: str, message: str, name: str) -> None:
    for form in (new, old, oldest):
        assert counts(form(("10:00:00", level, message))) == {name: 1}


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("DEBUG", 'Received request: POST to /v1/chat/completions with body {"content": "The model has crashed"}'),
        ("ERROR", "Received request for /v1 with invalid JSON: The model has crashed. out of memory"),
        ("INFO", 'Generated prediction: {"content": "Client disconnected. Stopping generation"}'),
        ("INFO", "Model generated tool calls: [Model unloaded]"),
        ("INFO", "Said by the model: The model has crashed, out of memory, context size has been exceeded"),
        ("DEBUG", "Generate: n_ctx = 131072, n_batch = 512, n_predict = 2500, n_keep = 849"),
        ("DEBUG", "llama_context: n_ctx_per_seq (4096) < n_ctx_train (131072)"),
        ("INFO", "Just-in-time model loading active."),
    ],
)
def test_what_only_quotes_or_resembles_one_is_not(level: str, message: str) -> None:
    for form in (new, old, oldest):
        assert counts(form(("10:00:00", level, message))) == {}


def test_a_prompt_of_many_lines_in_a_body_tells_nothing() -> None:
    body = f'Received request: POST to /v1/chat/completions with body {{\n  "content": "x\n {LEFT}\n {CRASH}\n"\n}}'
    assert counts(old(("10:00:00", "DEBUG", body))) == {}


def test_only_the_time_of_the_run_counts() -> None:
    text = "".join(new((clock, "ERROR", CRASH)) for clock in ("09:59:59", "10:00:00", "10:30:00", "10:30:01"))
    assert counts(text, "10:00:00", "10:30:00") == {"crashed": 2}


def test_times_that_are_none_belong_to_no_span() -> None:
    assert [within(text, 0, 1e12) for text in ("2026-13-45 99:00:00", "0000-00-00 00:00:00", "")] == [None, None, None]
    assert within("0001-01-01 00:00:00", 0, 1e12) is None


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be where clocks went back from 3:00 to 2:00 on 25 October 2026."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone of a process cannot be set here")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_the_hour_that_clocks_repeat_is_either_of_the_two() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    second = first + 3600
    assert (
        time.strftime("%F %T", time.localtime(first))
        == time.strftime("%F %T", time.localtime(second))
        == "2026-10-25 02:30:00"
    )
    assert within("2026-10-25 02:30:00", first - 60, first + 60) == first
    assert within("2026-10-25 02:30:00", second - 60, second + 60) == second
    assert within("2026-10-25 02:30:00", second + 60, second + 120) is None


def test_what_a_flood_of_lines_leaves_is_bounded() -> None:
    text = new(*[(f"10:{n // 60 % 60:02d}:{n % 60:02d}", "INFO", said) for n in range(900) for said in (BEGUN, LEFT)])
    told = told_by_lmstudio(text, at("00:00:00"), at("23:00:00"))
    assert (told.counts["hung_up"], len(told.hung_up_s)) == (900, 500)
    codes = new(*[("10:00:00", "ERROR", f"The model has crashed (Exit code: {n})") for n in range(20)])
    assert told_by_lmstudio(codes, 0, 1e12).exit_codes == ["0", "1", "2", "3", "4"]


LLAMA_CPP = """\
0.00.655.399 I srv    load_model: initializing, n_slots = 2, n_ctx_slot = 2048, kv_unified = 'false'
0.01.174.848 E srv    send_error: task id = 16, error: request exceeds the available context size (2048 tokens)
0.01.174.928 W srv          stop: cancel task, id_task = 16
0.01.175.000 I slot      release: id  1 | task 19 | stop processing: n_tokens = 1937, truncated = 0
1.01.191.310 W srv          stop: cancel task, id_task = 19
1.01.291.673 W srv          stop: cancel task, id_task = 1925
1.02.000.000 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 123
1.03.000.000 I srv  update_slots: no slot is available, deferring task
"""


def test_a_llama_cpp_log_tells_who_left_and_what_failed() -> None:
    told = told_by_llama_cpp(LLAMA_CPP)
    assert dict(told.counts) == {"context": 1, "hung_up": 2, "out_of_memory": 1, "queued": 1}
    assert told.hung_up_s == []


def test_the_environment_s_time_zone_is_that_of_the_tests_again() -> None:
    assert os.environ.get("TZ") != "CET-1CEST,M3.5.0,M10.5.0/3"
