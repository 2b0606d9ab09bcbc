"""The diagnosis of real runs against the stand-in: the row is there, what it says can be typed, and the log is used."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.suite import ALONE, WORKERS, Ran, Suite
from tests.standin import (
    Model,
    StandIn,
    crash,
    cut_after_delta,
    drip,
    echo,
    error_string,
    hang,
    html_500,
    rate_limit,
    reset_before_headers,
)
from tests.standin.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET_WORDS = "the-prompt-nobody-may-see"
TESTS = f"""
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_one(lm, n):
        assert lm(f"{SECRET_WORDS} {{n}}")

    def test_last(lm):
        assert lm("healthy")
"""
ONCE = ("--lmstudio-retries=0", "--lmstudio-breaker=off")
OVERFLOW = (
    'Engine protocol predict request returned 400: {"error":{"code":400,"message":"request (9025 tokens) exceeds the '
    'available context size (8192 tokens), try increasing it","type":"exceed_context_size_error"}}'
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home directory in which LM Studio keeps its log, as the stand-in writes it from now on."""
    lm_studio = tmp_path / "home" / ".lmstudio"
    lm_studio.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(lm_studio.parent))
    monkeypatch.setenv("USERPROFILE", str(lm_studio.parent))
    write_line = Journal.log

    def log(journal: Journal, *args: Any, **kwargs: Any) -> None:
        write_line(journal, *args, **kwargs)
        journal.write(lm_studio)

    monkeypatch.setattr(Journal, "log", log)
    return lm_studio.parent


def symptoms(ran: Ran) -> list[str]:
    return [row["symptom"] for row in ran.report["diagnosis"] if row["symptom"] != "the pipeline version is not set"]


def first(ran: Ran) -> dict[str, str]:
    found: dict[str, str] = ran.report["diagnosis"][0]
    return found


def typed(ran: Ran, option: str) -> str:
    """Return an option with the value that the first row says."""
    found = re.search(rf"{option}=[\w.-]+", first(ran)["fix"])
    assert found is not None, first(ran)
    return found[0]


def is_asked(what: str) -> Any:
    return lambda request: what in request.text


@pytest.mark.parametrize("how", [ALONE, WORKERS])
def test_timeouts_are_told_with_what_the_server_s_log_has_of_them(
    suite: Suite, server: StandIn, home: Path, how: tuple[str, ...]
) -> None:
    assert home.is_dir()
    server.log_prompts = True
    server.when(is_asked(SECRET_WORDS), drip(interval_s=0.05))
    suite.write(TESTS)
    ran = suite.run(*how, *ONCE, "--lmstudio-timeout=1")
    assert first(ran)["symptom"] == "long answers are cut at the run's own timeout while they come"
    assert "; the server's log has 4 Client disconnected lines here, 4 of them ours" in first(ran)["evidence"]
    log = ran.report["server"]["log"]
    assert (log["source"], log["complete"], log["counts"]["hung_up"]) == ("lmstudio", True, 4)
    assert SECRET_WORDS in server.log
    assert SECRET_WORDS not in json.dumps(ran.report) + (ran.folder / "events.jsonl").read_text("utf-8")


def test_a_crash_is_told_with_its_exit_code(suite: Suite, server: StandIn, home: Path) -> None:
    assert home.is_dir()
    server.when(is_asked(SECRET_WORDS), crash("The model has crashed without additional information. (Exit code: 6)"))
    suite.write(TESTS)
    ran = suite.run(*ALONE, *ONCE)
    assert symptoms(ran) == ["the model crashed while it answered"]
    assert first(ran)["evidence"].endswith("in this run's time: 4 x 'model has crashed' (exit code 6)")


def test_a_run_without_failures_does_not_look_into_the_log(suite: Suite, home: Path) -> None:
    assert home.is_dir()
    suite.write(TESTS)
    ran = suite.run(*ALONE)
    assert ran.named("server_log") == []
    assert ran.report["server"]["log"] is None


def test_the_log_of_another_server_is_not_looked_into(suite: Suite, server: StandIn, home: Path) -> None:
    internal = home / ".lmstudio" / ".internal"
    internal.mkdir()
    (internal / "http-server-config.json").write_text(json.dumps({"port": server.port + 1}), encoding="utf-8")
    server.default = html_500()
    suite.write(TESTS)
    assert suite.run(*ALONE, *ONCE).report["server"]["log"] is None


def test_a_server_that_is_no_lm_studio_has_no_log_of_one(pytester: pytest.Pytester, home: Path) -> None:
    assert home.is_dir()
    with StandIn(api="openai") as server:
        server.default = html_500()
        suite = Suite(pytester, server)
        suite.write(TESTS)
        ran = suite.run(*ALONE, *ONCE)
    assert ran.report["server"]["kind"] == "openai"
    assert ran.report["server"]["log"] is None


def test_the_bundle_holds_the_end_of_the_log_with_secrets_masked(
    suite: Suite, server: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.is_dir()
    monkeypatch.setenv("SOME_VENDOR_API_KEY", "key-of-another-vendor")
    server.log_prompts = True
    server.when(is_asked("question"), reset_before_headers(delay_s=0.0))
    suite.write("""
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_one(lm, n):
            lm(f"question {n} key-of-another-vendor")
    """)
    ran = suite.run(*ALONE, *ONCE)
    assert ran.report["escalation"]["escalate"] is True
    with zipfile.ZipFile(ran.folder / "escalation.zip") as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "question 3 ***" in files["server-log-tail.txt"]
    assert "IT MAY HOLD PROMPTS AND ANSWERS" in files["README.txt"]
    assert "key-of-another" not in "".join(files.values())
    assert all("question" not in text for name, text in files.items() if name != "server-log-tail.txt")


def test_the_model_that_answers_can_be_typed_as_the_row_says(suite: Suite) -> None:
    suite.write(TESTS)
    ran = suite.run(*ALONE, "--lmstudio-model=misspelt")
    assert symptoms(ran) == ["another model answers than the one asked for"]
    assert suite.run(*ALONE, typed(ran, "--lmstudio-model")).summary == "5 passed"


@pytest.fixture
def crowded(pytester: pytest.Pytester) -> Iterator[Suite]:
    """Return a suite that asks much at once, of a server that bears two requests and fails the rest.

    Which of those begun together arrive first is chance, so one of two may fail, and then one at once is the advice.
    """
    with StandIn(models=[Model("test-model", parallel=64)], capacity=64) as server:
        server.default = echo(delay_s=0.2)
        server.when(lambda _: server.in_flight > 2, error_string(500, "Compute error.", delay_s=0.2))
        suite = Suite(pytester, server)
        suite.write("""
            def test_few(lm):
                for n in range(8):
                    lm(f"alone {n}")

            def test_many(lm):
                lm.map([f"prompt {n}" for n in range(30)])
        """)
        yield suite


def test_the_limit_that_the_row_says_mends_a_server_that_bears_no_more(crowded: Suite) -> None:
    ran = crowded.run(*ALONE, *ONCE, "--lmstudio-concurrency=8")
    assert first(ran)["symptom"] == "failures grow with the requests in flight"
    assert typed(ran, "--lmstudio-concurrency") in {"--lmstudio-concurrency=1", "--lmstudio-concurrency=2"}
    ran = crowded.run(*ALONE, *ONCE, typed(ran, "--lmstudio-concurrency"))
    assert (ran.summary, ran.report["attempts"]["failed"]) == ("2 passed", 0)


def test_the_timeout_that_the_row_says_mends_a_slow_server(suite: Suite, server: StandIn) -> None:
    server.default = echo(delay_s=0.5)
    suite.write(TESTS)
    ran = suite.run(*ALONE, *ONCE, "--lmstudio-timeout=0.1")
    assert symptoms(ran) == ["attempts are cut at the run's own timeout, and whole answers come close to it"]
    assert typed(ran, "--lmstudio-timeout") == "--lmstudio-timeout=1"
    longer = suite.run(*ALONE, *ONCE, "--lmstudio-timeout=20")
    assert longer.summary == "5 passed"


@pytest.mark.parametrize(
    ("step", "args", "expected"),
    [
        (error_string(400, OVERFLOW), ONCE, "prompts do not fit into the model's context"),
        (error_string(400, "Model unloaded."), ONCE, "the model was unloaded while it answered"),
        (error_string(400, "Error rendering prompt with jinja template: x"), ONCE, "the server rejects the requests"),
        (html_500(), ONCE, "the server fails inside"),
        (rate_limit(0.01), ONCE, "the server asks to slow down"),
        (reset_before_headers(), ONCE, "connections to this machine are cut before an answer begins"),
        (cut_after_delta(2), ONCE, "answers are cut in the middle"),
        (
            hang(),
            (*ONCE, "--lmstudio-timeout=1"),
            "attempts are cut at the run's own timeout, and whole answers come close to it",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_disaster_is_told_by_its_row_first(
    suite: Suite, server: StandIn, step: Any, args: tuple[str, ...], expected: str
) -> None:
    server.default = step
    suite.write(TESTS)
    ran = suite.run(*ALONE, *args)
    assert symptoms(ran) == [expected]
    assert f"! {expected}"[:60] in "\n".join(ran.section)


def test_a_server_that_goes_is_told_from_one_that_never_was(suite: Suite, server: StandIn) -> None:
    suite.write(
        f"""
        import pathlib, socket, time

        def test_before(lm):
            assert lm("before")

        def test_goes():
            pathlib.Path("stop").touch()
            with pytest.raises(OSError):
                while True:
                    socket.create_connection(("127.0.0.1", {server.port})).close()
                    time.sleep(0.01)

        @pytest.mark.parametrize("n", range(4))
        def test_after(lm, n):
            lm(f"after {{n}}")
    """.replace("import pathlib", "import pytest, pathlib")
    )
    over = threading.Event()

    def stop_when_told() -> None:
        while not over.wait(0.01):
            if (suite.pytester.path / "stop").exists():
                server.stop()
                return

    stopper = threading.Thread(target=stop_when_told)
    stopper.start()
    ran = suite.run(*ALONE, *ONCE)
    over.set()
    stopper.join()
    assert symptoms(ran) == ["the server went away while the run was on"]
    assert first(ran)["evidence"].startswith("1 call went well before, and none later; connections were refused for ")
    ran = suite.run(*ALONE, *ONCE, "--lmstudio-cache=off", "-k", "after")
    assert symptoms(ran) == ["the server cannot be reached"]
