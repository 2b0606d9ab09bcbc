"""The token goes into the Authorization header and nowhere else, not even by way of a server that repeats it."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.plugin.inner import run
from tests.standin import StandIn, auth_401, error_string, redirect, status, stream_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.standin import Received, Step

TOKENS = ("sk-lm-AAAAAAAA:BBBBBBBBBBBBBBBBBBBB", "hunter2hunter2-of-a-proxy+/=")
ASKS = """
    import pytest

    PROMPTS = ["fine", "refused", "broken", "broken in stream", "unknown", "full 1", "full 2", "full 3"]

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_asks(lm, prompt):
        lm(prompt, retries=1)

    def test_catches(lm):
        try:
            lm("refused", cache=False)
        except Exception as error:
            print(error, repr(error), error.args, vars(error))
            raise
"""
EVERYTHING = (
    "-vv", "-rA", "--showlocals", "--full-trace", "--junitxml=junit.xml", "--lmstudio-report=copy.json",
    "--lmstudio-html=page.html", "--lmstudio-backoff=0", "--durations=3",
)  # fmt: skip


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file that a run left behind, those inside archives too."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.name, (data := path.read_bytes())
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


def places_of(token: str, result: pytest.RunResult, folder: Path) -> list[str]:
    """Return where a token, or the beginning of it, is to be seen."""
    shown = [("stdout", result.stdout.str().encode()), ("stderr", result.stderr.str().encode())]
    return [name for name, data in [*shown, *written(folder)] if token[:8].encode() in data]


def starts_with(prompt: str) -> Callable[[Received], bool]:
    return lambda received: received.text.startswith(prompt)


def steps_that_repeat(token: str) -> dict[str, Step]:
    """Return, by the beginning of the prompt, answers that repeat the token, whole or cut."""
    echo = f"upstream said no to 'Authorization: Bearer {token}' ({token[:10]}********)"
    return {
        "refused": auth_401(f"Malformed LM Studio API token provided: {token[:10]}********."),
        "broken in stream": stream_error(echo, after_tokens=2),
        "broken": status(500, f"<pre>{echo}</pre>"),
        "unknown": error_string(400, f"{token}: {echo}"),
        "full": error_string(400, f"Insufficient system resources: failed to allocate memory; {echo}"),
    }


@pytest.mark.parametrize(("stream", "workers"), [("--lmstudio-stream", "-n0"), ("--no-lmstudio-stream", "-n2")])
@pytest.mark.parametrize("token", TOKENS)
def test_a_server_that_repeats_the_token_gives_it_away_nowhere(
    token: str, stream: str, workers: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", token)
    pytester.makepyfile(ASKS)
    with StandIn(token=token) as server:
        for prompt, step in steps_that_repeat(token).items():
            server.when(starts_with(prompt), step)
        result = run(pytester, f"--lmstudio-url={server.url}", stream, workers, *EVERYTHING)
        assert {received.headers.get("authorization") for received in server.requests} == {f"Bearer {token}"}
    lost = 2 if stream == "--lmstudio-stream" else 1  # the stand-in's error inside a stream is a 400 without one
    assert result.parseoutcomes() == {"passed": 1, "failed": 8 - lost, "lm": lost}  # as pytester reads lm-error
    files = {name for name, _ in written(pytester.path)}
    assert files >= {"events.jsonl", "report.json", "escalation.zip", "failures.jsonl", "environment.txt", "cache.db"}
    assert files >= {"junit.xml", "copy.json", "page.html"}
    assert places_of(token, result, pytester.path) == []


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_token_that_the_server_refuses_is_not_shown(
    workers: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lists no models either, so this is the preflight's error."""
    monkeypatch.setenv("LMSTUDIO_API_TOKEN", "wrong-token-0123456789")
    pytester.makepyfile("def test_asks(lm):\n    lm('hello')\n")
    with StandIn(token=TOKENS[0]) as server:
        result = run(pytester, f"--lmstudio-url={server.url}", workers, *EVERYTHING)
        sent = {received.headers.get("authorization") for received in server.all_requests}
    assert sent <= {"Bearer wrong-token-0123456789", None}
    result.assert_outcomes(failed=1)
    assert "Malformed LM Studio API token provided: ***" in result.stdout.str()
    assert places_of("wrong-token-0123456789", result, pytester.path) == []


def test_the_first_variable_that_is_set_is_the_token(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_asks(lm):\n    lm('hello', cache=False)\n")
    sent = []
    with StandIn() as server:
        for first, second in (("", ""), ("", "other"), ("one", "other"), (" one\n", "")):
            monkeypatch.setenv("LM_API_TOKEN", first)
            monkeypatch.setenv("LMSTUDIO_API_TOKEN", second)
            run(pytester, f"--lmstudio-url={server.url}", "-n0").assert_outcomes(passed=1)
            sent.append(server.requests[-1].headers.get("authorization"))
    assert sent == [None, "Bearer other", "Bearer one", "Bearer one"]


def test_a_redirect_does_not_take_the_token_to_another_server(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", TOKENS[0])
    pytester.makepyfile("def test_asks(lm):\n    lm('hello', model='test-model')\n")
    with StandIn() as other, StandIn() as server:
        server.default = redirect(f"{other.url}/v1/chat/completions")
        run(pytester, f"--lmstudio-url={server.url}", "-n0", "--lmstudio-backoff=0").assert_outcomes(failed=1)
        assert len(server.requests) == 1
        assert other.all_requests == []
