"""`doctor`: every trouble has its line and its remedy, and what it advises fits what it measured."""

from __future__ import annotations

import json
import math
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.cli import presence
from pytest_lmstudio.cli.advice import Setting, Speed, answer_within, needed_timeout_s, to_set
from pytest_lmstudio.cli.findings import Finding
from pytest_lmstudio.engine.attempt import Page
from pytest_lmstudio.server import preflight, probe
from pytest_lmstudio.settings import Settings
from tests.standin import (
    Model,
    StandIn,
    auth_401,
    close_before_headers,
    crash,
    echo,
    hang,
    loading_503,
    reply,
    wrong_model,
)
from tests.unit.cli.asked import TOKEN, ask, silent_port, standin, taken_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Capsys = pytest.CaptureFixture[str]
TALK = "one two three four five six seven eight"


@pytest.fixture(autouse=True)
def _no_lm_studio_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server on the developer's machine change no result."""
    monkeypatch.setattr(presence, "lmstudio_ports", lambda _: [])
    monkeypatch.setattr(presence, "greets", lambda _: False)


@contextmanager
def talker(says: bytes) -> Iterator[int]:
    """Yield the port of a server that says the same to everybody, whatever they say."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    connection.recv(65_536)
                    connection.sendall(says)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def page(status: str, body: str, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(head).encode()


# All is well.


def test_a_healthy_server_is_all_well_and_says_what_to_set(capsys: Capsys) -> None:
    with standin(Model("qwen", parallel=4, context_length=4096)) as server:
        server.default = reply(TALK, per_token_s=0.001)
        said = ask(capsys, "doctor", "--url", server.url)
        bodies = [received.body for received in server.requests]
    assert said.status == 0
    assert "ok server LM Studio, 0.4.0 or newer by the routes that it has" in said.words
    assert "ok token none is asked for" in said.words
    assert "ok models 1 model listed, 1 loaded qwen: loaded, Q4_K_M, context 4,096, 4 at once" in said.words
    assert "ok model qwen, the only one that is loaded" in said.words
    assert "(5 times, " in said.words
    assert "tokens/s" in said.words
    assert "ok concurrency 4 of the 4 requests that the server answers at once" in said.words
    assert "All well. To set, in the shell or in CI:" in said.words
    assert f"  export LMSTUDIO_URL={server.url}\n  export EVAL_CONCURRENCY=4\nor in pytest.ini" in said.out
    assert f"  lmstudio_url = {server.url}\n  lmstudio_concurrency = 4\n" in said.out
    assert [body["max_tokens"] for body in bodies] == [1, 1, 1, 1, 1, 32]
    assert {body["model"] for body in bodies} == {"qwen"}


def test_no_line_is_wider_than_a_terminal_of_80_columns(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with standin(*(Model(f"publisher/model-number-{n}-of-many", parallel=1) for n in range(12))) as server:
        said = ask(capsys, "doctor", "--url", server.url, "--model", "publisher/model-number-3-of-many")
    assert said.status == 0
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert "and 2 more" in said.out
    assert "\x1b" not in said.out


def test_nothing_is_written(capsys: Capsys, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    with standin() as server:
        assert ask(capsys, "doctor", "--url", server.url).status == 0
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]  # it is a path


@pytest.mark.parametrize(
    ("api", "version", "words"),
    [
        ("v1", ">=0.4.0", "LM Studio, 0.4.0 or newer"),
        ("v0", ">=0.3.6,<0.4.0", "LM Studio, 0.3.6 to below 0.4.0"),
        ("openai", None, "an OpenAI-compatible server, not LM Studio"),
    ],
)
def test_the_age_is_told_by_the_routes(capsys: Capsys, api: str, version: str | None, words: str) -> None:
    with standin(api=api) as server:
        server.default = reply(TALK)
        told = ask(capsys, "doctor", "--json", "--url", server.url).told
    assert (told["status"], told["server"]["version"]) == ("ok", version)
    assert told["findings"][0]["text"].startswith(words)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        ("b4719-ab12", "a llama.cpp server, build b4719-ab12, not LM Studio"),
        ("b0-unknown", "a llama.cpp server, not LM Studio"),
        (None, "a llama.cpp server, not LM Studio"),
    ],
)
def test_the_build_of_llama_cpp_is_told_where_it_is_known(
    monkeypatch: pytest.MonkeyPatch, build: str | None, told: str
) -> None:
    bodies = {"/v1/models": {"object": "list", "data": [{"id": "qwen", "owned_by": "llamacpp", "meta": {}}]}}
    bodies["/props"] = {"build_info": build} if build else {}

    async def get(_: object, path: str, limit_s: float) -> Page:
        return Page(200 if path in bodies else 404, {}, json.dumps(bodies.get(path, {})))

    async def get_json(transport: object, path: str, limit_s: float) -> tuple[int, object]:
        page = await get(transport, path, limit_s)
        return page.status, json.loads(page.text)

    monkeypatch.setattr(probe, "get", get)
    monkeypatch.setattr(preflight, "get_json", get_json)
    with probe.Probe("http://127.0.0.1:1", None) as one:
        assert next(presence.Presence(one, None).findings()).text == told


def test_before_0_4_one_request_at_a_time_is_advised(capsys: Capsys) -> None:
    with standin(api="v0") as server:
        told = ask(capsys, "doctor", "--json", "--url", server.url).told
    found = next(finding for finding in told["findings"] if finding["about"] == "concurrency")
    assert (found["status"], found["remedy"]) == ("note", "`export EVAL_CONCURRENCY=1`")
    assert told["settings"]["EVAL_CONCURRENCY"] == "1"


def test_more_in_flight_than_the_server_answers_is_a_note(capsys: Capsys) -> None:
    with standin(Model("qwen", parallel=2)) as server:
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 0
    assert "note concurrency 4 requests may be in flight, the server answers 2 at once" in said.words
    assert "`export EVAL_CONCURRENCY=2`" in said.words
    assert "It works; see the notes." in said.words


def test_a_limit_below_what_the_server_can_do_is_kept(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAL_CONCURRENCY", "3")
    with standin(Model("qwen", parallel=8)) as server:
        told = ask(capsys, "doctor", "--json", "--url", server.url).told
    assert told["settings"]["EVAL_CONCURRENCY"] == "3"


# The server.


def test_no_server(capsys: Capsys) -> None:
    with taken_port() as port:
        said = ask(capsys, "doctor", "--url", f"http://127.0.0.1:{port}")
    assert said.status == 1
    assert f"MEND server nothing answers at http://127.0.0.1:{port} (no connection: " in said.words
    assert "-> start the server with `lms server start`" in said.words
    assert said.out.endswith("Mend that, then run this again.\n")


def test_an_lm_studio_on_another_port_is_found(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "lmstudio_ports", lambda _: [4321])
    monkeypatch.setattr(presence, "greets", lambda url: url == "http://127.0.0.1:4321")
    with taken_port() as port:
        told = ask(capsys, "doctor", "--json", "--url", f"http://127.0.0.1:{port}").told
    assert told["server"]["better_url"] == "http://127.0.0.1:4321"
    assert told["findings"][0]["remedy"] == (
        "LM Studio answers at http://127.0.0.1:4321: `export LMSTUDIO_URL=http://127.0.0.1:4321`"
    )


def test_a_wrong_port_tells_who_answers_there(capsys: Capsys) -> None:
    answer = page(
        "404 Not Found", "<html><title>Graf\x1b[31mana &amp; co</title>", "Server: nginx", "Content-Type: text/html"
    )
    with talker(answer) as port:
        said = ask(capsys, "doctor", "--url", f"http://127.0.0.1:{port}")
    assert said.status == 1
    who = r"HTTP 404, text/html, from nginx, titled 'Graf\x1b[31mana & co'"
    assert f"MEND server something else answers at http://127.0.0.1:{port}: {who}" in said.words
    assert "give its address with --url or LMSTUDIO_URL" in said.words


def test_a_short_text_of_a_stranger_is_quoted(capsys: Capsys) -> None:
    with talker(page("200 OK", "Some daemon is running", "Content-Type: text/plain")) as port:
        said = ask(capsys, "doctor", "--url", f"http://127.0.0.1:{port}")
    assert "HTTP 200, text/plain, saying 'Some daemon is running'" in said.words


def test_a_port_that_speaks_no_http(capsys: Capsys) -> None:
    with talker(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        said = ask(capsys, "doctor", "--url", f"http://127.0.0.1:{port}")
    assert said.status == 1
    assert "-> what listens there does not speak HTTP: give its address" in said.words


@pytest.mark.parametrize("path", ["/api/v0", "/api", "/lm/studio"])
def test_a_wrong_path_is_named_with_the_right_one(capsys: Capsys, path: str) -> None:
    with standin() as server:
        told = ask(capsys, "doctor", "--json", "--url", server.url + path).told
        assert server.requests == []
    assert told["status"] == "mend"
    assert told["server"]["better_url"] == server.url
    assert told["findings"] == [
        {
            "status": "mend",
            "about": "server",
            "text": f"wrong path: {server.url}{path} lists no models, {server.url} does",
            "remedy": f"leave the path out: `export LMSTUDIO_URL={server.url}`",
            "details": [],
        }
    ]


# The token.


def test_a_token_that_is_missing(capsys: Capsys) -> None:
    with standin(token=TOKEN) as server:
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 1
    assert "ok server LM Studio" in said.words
    assert "MEND token one is asked for, and none is set" in said.words
    assert "then `export LM_API_TOKEN=...`" in said.words


def test_a_token_that_is_wrong_is_named_by_its_variable_and_never_shown(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "sk-lm-zyxwvuts:9876543210zyxwvutsrq"
    monkeypatch.setenv("LMSTUDIO_API_TOKEN", wrong)
    with standin(token=TOKEN) as server:
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 1
    assert "MEND token that in LMSTUDIO_API_TOKEN was refused: it did not list its models (HTTP 401)" in said.words
    assert wrong[:9] not in said.out + said.err


@pytest.mark.parametrize(
    ("asked", "words"),
    [(TOKEN, "that in LM_API_TOKEN is accepted"), (None, "none is asked for; LM_API_TOKEN is sent")],
)
def test_a_token_that_fits(capsys: Capsys, monkeypatch: pytest.MonkeyPatch, asked: str | None, words: str) -> None:
    monkeypatch.setenv("LM_API_TOKEN", TOKEN)
    with standin(token=asked) as server:
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 0
    assert f"ok token {words}" in said.words
    assert TOKEN[:9] not in said.out


def test_a_token_that_no_header_can_carry_is_wrong_use(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_API_TOKEN", "caf\xe9")
    said = ask(capsys, "doctor")
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "pytest-lmstudio: LM_API_TOKEN (environment): the token holds characters that no HTTP header can carry; "
        "set it again\n"
    )


# The model.


def found_of(capsys: Capsys, server: StandIn, *arguments: str) -> tuple[str, str, str | None]:
    """Return status, text and remedy of what is said of the model, which is the last thing said."""
    told = ask(capsys, "doctor", "--json", "--url", server.url, *arguments).told
    last = told["findings"][-1]
    assert last["about"] == "model"
    assert server.requests == []
    return last["status"], last["text"], last["remedy"]


def test_no_model_is_loaded(capsys: Capsys) -> None:
    with standin(Model("a b", loaded=False)) as server:
        assert found_of(capsys, server) == (
            "mend",
            "no model is loaded",
            "load one, such as `lms load 'a b'`; or name it, and a request loads it: `export LMSTUDIO_MODEL='a b'`",
        )


def test_no_model_is_there(capsys: Capsys) -> None:
    with StandIn(models=[]) as server:
        assert found_of(capsys, server) == (
            "mend",
            "no model is loaded",
            "download an LLM with `lms get`, then load it with `lms load`",
        )


def test_two_models_and_none_is_named(capsys: Capsys) -> None:
    with standin(Model("one"), Model("two")) as server:
        assert found_of(capsys, server) == (
            "mend",
            "2 models: none is named, and each is loaded",
            "name one with --model, or `export LMSTUDIO_MODEL=one`",
        )


def test_only_embedding_models(capsys: Capsys) -> None:
    with standin(Model("nomic", type="embedding"), Model("qwen", loaded=False)) as server:
        status, text, remedy = found_of(capsys, server)
    assert (status, text) == ("mend", "only embedding models are loaded, and they make no text")
    assert remedy is not None
    assert remedy.startswith("load one, such as `lms load qwen`")


def test_an_embedding_model_is_named(capsys: Capsys) -> None:
    with standin(Model("nomic", type="embedding"), Model("qwen")) as server:
        assert found_of(capsys, server, "--model", "nomic") == (
            "mend",
            "nomic makes embeddings, no text",
            "name an LLM with --model or LMSTUDIO_MODEL",
        )


def test_a_model_that_is_not_there_and_one_like_it(capsys: Capsys) -> None:
    with standin(Model("qwen3-8b")) as server:
        assert found_of(capsys, server, "--model", "qwen3-4b") == (
            "mend",
            "qwen3-4b is not listed",
            "did you mean qwen3-8b? name it with --model or LMSTUDIO_MODEL",
        )


def test_a_model_that_cannot_be_loaded_on_request(capsys: Capsys) -> None:
    with standin(Model("one"), Model("two", loaded=False), jit=False) as server:
        assert found_of(capsys, server, "--model", "two") == (
            "mend",
            "two is not loaded, and just-in-time loading is off",
            "`lms load two`, or turn just-in-time loading on in LM Studio",
        )


def test_a_model_that_a_request_loads_is_a_note_and_may_take_longer(capsys: Capsys) -> None:
    with standin(Model("two", loaded=False, load_s=0.5)) as server:
        said = ask(capsys, "doctor", "--url", server.url, "--model", "two", "--timeout", "0.4", "--samples", "1")
        assert server.loads == {"two": 1}
    assert said.status == 0
    assert "note model two is not loaded; the first request loads it" in said.words


@pytest.mark.parametrize(("typed", "limit"), [("1.5", "1.5 s"), ("0.1", "1 s")])
def test_a_port_that_takes_connections_and_says_nothing_is_given_up_after_the_timeout(
    capsys: Capsys, typed: str, limit: str
) -> None:
    with silent_port() as port:
        said = ask(capsys, "doctor", "--url", f"http://127.0.0.1:{port}", "--timeout", typed)
    assert said.status == 1
    assert (
        f"MEND server it is there, but it did not list its models: {limit} passed before the answer was whole -> "
        "restart the server, and look in its log Mend that, then run this again."
    ) in said.words


@pytest.mark.parametrize(("timeout_s", "limits"), [(math.inf, (10.0, 5.0)), (7.0, (7.0, 5.0)), (2.0, (2.0, 2.0))])
def test_what_a_server_has_in_memory_takes_some_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float, limits: tuple[float, float]
) -> None:
    asked: list[float] = []

    async def get(_: object, path: str, limit_s: float) -> Page:
        asked.append(limit_s)
        return Page(200, {}, "{}")

    async def get_json(transport: object, path: str, limit_s: float) -> tuple[int, object]:
        return (await get(transport, path, limit_s)).status, {}

    monkeypatch.setattr(probe, "get", get)
    monkeypatch.setattr(preflight, "get_json", get_json)
    with probe.Probe("http://127.0.0.1:1", None, timeout_s=timeout_s) as one:
        one.look()
        one.page("/")
    assert (set(asked[:-1]), asked[-1]) == ({limits[0]}, limits[1])


# The generations.


def test_a_slow_model(capsys: Capsys) -> None:
    with standin() as server:
        server.default = echo(delay_s=5)
        said = ask(capsys, "doctor", "--url", server.url, "--timeout", "0.2")
        assert len(server.requests) == 1
    assert said.status == 1
    assert "MEND generation too slow, or stuck: 0.2 s passed before the answer was whole" in said.words
    assert "`export LLM_REQUEST_TIMEOUT_MS=90000`" in said.words


def test_a_model_that_is_too_slow_for_a_longer_answer(capsys: Capsys) -> None:
    with standin() as server:
        server.when(lambda received: received.body["max_tokens"] > 1, hang())
        said = ask(capsys, "doctor", "--url", server.url, "--timeout", "0.3", "--samples", "1")
    assert said.status == 1
    assert "ok generation 1 token in" in said.words
    assert "MEND speed too slow, or stuck: 0.3 s passed" in said.words


@pytest.mark.parametrize("break_", [close_before_headers, crash, loading_503])
def test_an_unstable_server(capsys: Capsys, break_: Callable[[], object]) -> None:
    with standin() as server:
        server.script(echo(), break_(), echo(), break_(), echo())  # type: ignore[arg-type]  # each is a step
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 1
    assert "MEND generation unstable: 2 of 5 generations of 1 token failed, the last with [" in said.words
    assert "`pytest-lmstudio verify` tells whether a longer timeout helps" in said.words


def test_another_model_that_answers_is_said_once(capsys: Capsys) -> None:
    with standin() as server:
        server.default = wrong_model("other")
        said = ask(capsys, "doctor", "--url", server.url)
        assert len(server.requests) == 1
    assert said.status == 1
    assert "MEND generation no answer: [wrong_model] asked for test-model, answered by other" in said.words


def test_what_a_hostile_server_says_cannot_command_a_terminal(capsys: Capsys) -> None:
    with standin() as server:
        server.default = auth_401("\x1b]0;owned\x07 ::error::x \u202e")
        said = ask(capsys, "doctor", "--url", server.url)
    assert said.status == 1
    assert r"\x1b]0;owned\x07 \x3a:error::x \u202e" in said.words
    assert said.out.isascii()


# Wrong use.


@pytest.mark.parametrize(
    ("environ", "arguments", "line"),
    [
        ({"LMSTUDIO_URL": "ftp://x"}, [], "LMSTUDIO_URL='ftp://x' (environment): expected a base URL"),
        ({}, ["--url", ""], "--url='' (command line): expected a base URL"),
        ({"LLM_REQUEST_TIMEOUT_MS": "x"}, [], "LLM_REQUEST_TIMEOUT_MS='x' (environment): expected milliseconds"),
        ({}, ["--timeout", "0"], "--timeout='0' (command line): expected seconds above 0"),
        ({"EVAL_CONCURRENCY": "many"}, [], "EVAL_CONCURRENCY='many' (environment): expected a whole number"),
    ],
)
def test_a_wrong_value_is_one_line(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], arguments: list[str], line: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    said = ask(capsys, "doctor", *arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"pytest-lmstudio: {line}")
    assert said.err.count("\n") == 1


def test_a_wrong_count_is_wrong_use(capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as done:
        ask(capsys, "doctor", "--samples", "0")
    assert done.value.code == 2
    assert "argument --samples: '0': expected a whole number from 1 to 1000000" in capsys.readouterr().err


def test_an_interrupt_leaves_no_trace_and_no_connection(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_lmstudio.server.probe.Probe.generate", interrupt)
    with standin() as server:
        said = ask(capsys, "doctor", "--url", server.url)
        server.wait_for(lambda: not server.connections)
    assert said.status == 130
    assert "Traceback" not in said.out + said.err
    assert not [thread for thread in threading.enumerate() if thread.name == "lmstudio-engine"]


# What it advises.


@pytest.mark.parametrize(
    ("speed", "needed_s"),
    [
        (Speed(1000.0, 100.0), 15.0),  # (1 s + 5.12 s) twice over, in steps of 5 s
        (Speed(None, 1000.0), 10.0),
        (Speed(500.0, 10.0), 105.0),
        (Speed(0.0, 0.01), 600.0),
        (Speed(100.0, None), None),
    ],
)
def test_the_timeout_follows_the_speed(speed: Speed, needed_s: float | None) -> None:
    assert needed_timeout_s(speed) == needed_s


def test_a_timeout_is_enough_for_an_answer_of_so_many_tokens() -> None:
    assert answer_within(Speed(500.0, 10.0), 45.0) == 220
    assert answer_within(Speed(60_000.0, 10.0), 45.0) == 0
    assert answer_within(Speed(500.0, None), 45.0) is None


def test_a_slow_model_gets_a_longer_timeout_advised() -> None:
    settings = list(to_set(Settings(), parallel=2, speed=Speed(500.0, 10.0), model="a b", url=None))
    assert [setting.export for setting in settings] == [
        "export LMSTUDIO_MODEL='a b'",
        "export EVAL_CONCURRENCY=2",
        "export LLM_REQUEST_TIMEOUT_MS=105000",
    ]
    assert [setting.ini for setting in settings] == [
        "lmstudio_model = a b",
        "lmstudio_concurrency = 2",
        "lmstudio_timeout = 105",
    ]


def test_what_is_enough_is_left_alone() -> None:
    assert list(to_set(Settings(), parallel=None, speed=Speed(10.0, 500.0), model=None, url=None)) == []


def test_commands_are_not_broken_over_two_lines() -> None:
    finding = Finding("mend", "server", "wrong", f"{'word ' * 8}`export LMSTUDIO_URL=http://127.0.0.1:1234`")
    shown = [line.text for line in finding.lines(80)]
    assert any("`export LMSTUDIO_URL=http://127.0.0.1:1234`" in line for line in shown)
    assert Setting("timeout", "0.5").export == "export LLM_REQUEST_TIMEOUT_MS=500"
