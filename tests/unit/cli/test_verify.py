"""`verify`: two runs that are ordinary ones, and what they tell of the cause."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from pytest_lmstudio.cli import prompts, rounds, verify
from pytest_lmstudio.cli.conclusion import Cause, conclude
from pytest_lmstudio.record.events import read_events
from pytest_lmstudio.record.rebuild import rebuild
from pytest_lmstudio.server import preflight
from tests.standin import Model, close_before_headers, crash, echo, hang, reply
from tests.unit.cli.asked import TOKEN, Said, ask, silent_port, standin, taken_port

if TYPE_CHECKING:
    from tests.standin import StandIn

Capsys = pytest.CaptureFixture[str]
PAGES = Path(__file__).parents[3] / "docs"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own, and wait for nothing between attempts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_RETRY_BACKOFF_MS", "0")


def verified(capsys: Capsys, server: StandIn, *arguments: str) -> Said:
    return ask(capsys, "verify", "--url", server.url, *arguments)


def runs(folder: Path) -> list[Path]:
    """Return the folders of the runs, oldest first; ids begin with their second, so what they hold decides."""
    found = [path for path in (folder / ".lmstudio" / "runs").iterdir() if path.is_dir()]
    return sorted(found, key=lambda path: json.loads((path / "report.json").read_text("utf-8"))["started_at"])


# Whole runs.


def test_when_nothing_fails_one_run_is_enough(capsys: Capsys, tmp_path: Path) -> None:
    with standin() as server:
        said = verified(capsys, server)
        sent = [
            (received.text, received.body["max_tokens"], received.body["temperature"]) for received in server.requests
        ]
    assert said.status == 0
    assert "Nothing failed in 10 generations, the slowest took " in said.words
    assert sent == [(prompt.text, prompt.max_tokens, 0) for prompt in prompts.BUILT_IN]
    assert len(runs(tmp_path)) == 1


def test_a_run_is_an_ordinary_one(capsys: Capsys, tmp_path: Path) -> None:
    with standin(Model("qwen")) as server:
        told = verified(capsys, server, "-n", "3", "--json").told
    [folder] = runs(tmp_path)
    written = json.loads((folder / "report.json").read_text("utf-8"))
    assert told["runs"][0]["run_id"] == written["run_id"] == folder.name
    assert told["runs"][0]["folder"] == os.path.join(".lmstudio", "runs", folder.name)  # noqa: PTH118  # as it is shown
    assert written["calls"] == {
        "total": 3, "sent": 3, "ok": 3, "failed": 0, "cached": 0, "coalesced": 0, "abandoned": 0
    }  # fmt: skip
    assert (written["settings"]["cache"], written["settings"]["concurrency"]) == ("off", 1)
    assert written["exit_status"] == 0
    assert written == json.loads(json.dumps(rebuild(read_events(folder / "events.jsonl"), run_id=folder.name)))
    shown = ask(capsys, "report")
    assert (shown.status, "gate passed" in shown.out) == (0, True)
    assert not (tmp_path / ".lmstudio" / "cache").exists()


def test_the_timeout_was_the_cause(capsys: Capsys, tmp_path: Path) -> None:
    with standin() as server:
        server.when(lambda received: "France" in received.text, reply("Paris", delay_s=0.7))
        said = verified(capsys, server, "--timeout", "0.3", "-n", "3")
    assert said.status == 0
    assert said.words.startswith(f"{'=' * 28} pytest-lmstudio verify {'=' * 28} The timeout was the cause: 4 attempts")
    assert "did not end within 0.3 s. With 90 s every prompt was answered, the slowest in " in said.words
    assert "timeout 0.3 s 90 s" in said.words
    assert "retries 3 5" in said.words
    assert "lost 1 of 3 0 of 3" in said.words
    assert "disconnects 4 0" in said.words
    assert "export LLM_REQUEST_TIMEOUT_MS=90000 export LLM_MAX_RETRIES=5 or in pytest.ini" in said.words
    first, second = runs(tmp_path)
    assert f"run {first.name} {second.name}" in said.words


def test_a_timeout_above_45_s_is_doubled(capsys: Capsys) -> None:
    with standin() as server:
        server.script(crash())
        told = verified(capsys, server, "--timeout", "60", "-n", "1", "--json").told
    assert [run["timeout_s"] for run in told["runs"]] == [60, 120]
    assert told["settings"] == {"LLM_REQUEST_TIMEOUT_MS": "120000", "LLM_MAX_RETRIES": "5"}


def test_a_model_that_keeps_crashing_is_no_matter_of_time(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MAX_RETRIES", "0")
    monkeypatch.setattr(verify, "LEAST_RETRIES", 0)
    with standin() as server:
        server.default = crash()
        said = verified(capsys, server, "-n", "2")
    assert said.status == 1
    assert (
        "2 of 2 generations failed with the second settings too: these are errors of the model or its server, which no "
        "timeout mends (model_lost 2x)."
    ) in said.words
    assert "export " not in said.out


def test_even_the_longer_timeout_is_too_short(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LEAST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(verify, "LEAST_RETRIES", 0)
    monkeypatch.setenv("LLM_MAX_RETRIES", "0")
    with standin() as server:
        server.default = hang()
        told = verified(capsys, server, "--timeout", "0.1", "-n", "1", "--json").told
    assert (told["cause"], told["cured"], told["settings"]) == ("slow", False, {})
    assert (
        told["text"] == "1 of 1 generation failed with the second settings too: not even 0.2 s are enough (timeout 1x)."
    )


def test_trouble_that_passes(capsys: Capsys) -> None:
    with standin() as server:
        server.script(*[close_before_headers()] * 2)
        told = verified(capsys, server, "-n", "2", "--json").told
    assert (told["cause"], told["cured"]) == ("passing", True)
    assert told["text"].startswith("The trouble passed: disconnect ")
    assert told["text"].endswith(" in the first run; in the second nothing failed again.")


def test_both_runs_on_demand(capsys: Capsys, tmp_path: Path) -> None:
    with standin() as server:
        said = verified(capsys, server, "-n", "1", "--both")
    assert said.status == 0
    assert "Nothing failed in 2 generations" in said.words
    assert len(runs(tmp_path)) == 2


@pytest.mark.parametrize(
    ("models", "keywords", "kind"),
    [
        ([Model("one"), Model("two")], {}, "no_model"),
        ([Model("one", loaded=False)], {}, "no_model"),
        ([Model("one")], {"token": TOKEN}, "auth"),
    ],
)
def test_a_server_that_cannot_be_asked_gets_one_call_and_no_second_run(
    capsys: Capsys, models: list[Model], keywords: dict[str, Any], kind: str
) -> None:
    with standin(*models, **keywords) as server:
        told = verified(capsys, server, "--json", "--both").told
        assert server.requests == []
    assert (told["cause"], told["cured"], len(told["runs"])) == ("setup", False, 1)
    assert told["runs"][0]["errors_by_kind"] == {kind: 1}
    assert told["advice"].startswith("run `pytest-lmstudio doctor`; ")


def test_no_server_is_no_matter_of_time(capsys: Capsys, tmp_path: Path) -> None:
    with taken_port() as port:
        said = ask(capsys, "verify", "--url", f"http://127.0.0.1:{port}")
    assert said.status == 1
    assert "No generation came through (unreachable 1x)." in said.words
    assert runs(tmp_path)[0].joinpath("report.json").exists()


def test_a_wrong_path_is_no_matter_of_time(capsys: Capsys) -> None:
    with standin() as server:
        told = ask(capsys, "verify", "--json", "--url", f"{server.url}/api/v0", "--model", "test-model").told
    assert (told["cause"], told["runs"][0]["errors_by_kind"]) == ("setup", {"wrong_url": 1})


# What is asked.


def test_prompts_of_ones_own_are_asked_in_order_and_again(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\ufeffone\r\n\r\n  two  \n", "utf-8")
    with standin() as server:
        assert verified(capsys, server, "--prompts", "mine.txt").status == 0
        assert verified(capsys, server, "--prompts", "mine.txt", "-n", "3").status == 0
        assert [received.text for received in server.requests] == ["one", "two", "one", "two", "one"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "mine.txt cannot be read: No such file or directory"),
        (b"\n \n", "mine.txt holds no prompts: write one a line"),
        (b"caf\xe9\n", "mine.txt cannot be read: it is no UTF-8"),
        (b"x" * 2**21, "mine.txt is larger than 1048576 bytes"),
    ],
    ids=["missing", "empty", "latin-1", "huge"],
)
def test_prompts_that_cannot_be_read_are_one_line(
    capsys: Capsys, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    said = ask(capsys, "verify", "--prompts", "mine.txt")
    assert (said.status, said.out, said.err) == (2, "", f"pytest-lmstudio: {problem}\n")


def test_built_in_prompts_vary_in_length() -> None:
    lengths = [len(prompt.text) for prompt in prompts.BUILT_IN]
    assert (len(lengths), min(lengths) < 10, max(lengths) > 1000) == (10, True, True)
    assert {prompt.max_tokens for prompt in prompts.BUILT_IN} == {16, 32, 64, 96, 192, 256}


def test_each_run_is_announced_and_each_generation_told_also_where_no_terminal_is(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_RETRIES", "0")
    with standin() as server:
        server.script(echo(), crash())
        lines = verified(capsys, server, "-n", "2", "--json").err.splitlines()
    asked = f"2 generations at {server.url}, one at a time, up to"
    assert [re.sub(r"[\d.]+ m?s( each)?$", r"<time>\1", line) for line in lines] == [
        f"pytest-lmstudio: first run: {asked} 1 attempt of <time> each",
        "first run  1/2  <time>",
        "first run  2/2  lost after 1 failure: [model_lost]",
        f"pytest-lmstudio: second run: {asked} 6 attempts of <time> each",
        "second run  1/2  <time>",
        "second run  2/2  <time>",
    ]
    assert (lines[0][-9:], lines[3][-9:]) == ("45 s each", "90 s each")


def test_a_server_that_takes_connections_and_says_nothing_is_no_matter_of_time(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.Preflight.__init__, "__kwdefaults__", {"list_timeout_s": 0.1})
    with silent_port() as port:
        told = ask(capsys, "verify", "--json", "--url", f"http://127.0.0.1:{port}", "--both").told
    assert (told["cause"], told["runs"][0]["errors_by_kind"], len(told["runs"])) == ("setup", {"timeout": 1}, 1)
    assert told["text"] == "No generation came through (timeout 1x)."
    assert told["advice"] == "run `pytest-lmstudio doctor`; restart the server, and look in its log"


# How it ends.


def test_a_folder_that_cannot_be_written_to_is_told(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with standin() as server:
        said = verified(capsys, server, "-n", "1", "--json", "--dir", str(tmp_path / "file"))
    folder = said.told["runs"][0]["folder"]
    assert said.err.splitlines()[-1] == (
        f"pytest-lmstudio: {tmp_path / 'file'} cannot be written to: the run is in {folder}"
    )
    assert said.status == 0
    assert folder == f"lmstudio-{said.told['runs'][0]['run_id']}"
    assert (tmp_path / folder / "report.json").exists()


def test_an_interrupt_leaves_whole_runs(capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_teller", lambda *_: interrupt)
    with standin() as server:
        said = verified(capsys, server)
    [folder] = runs(tmp_path)
    run = Path(".lmstudio", "runs", folder.name)
    told = f"interrupted after 1 of 10 generations of the first run; `pytest-lmstudio report {run}` shows it"
    assert (said.status, said.out, said.err.splitlines()[1:]) == (130, "", [f"pytest-lmstudio: {told}"])
    written = json.loads((folder / "report.json").read_text("utf-8"))
    assert (written["calls"]["total"], written["exit_status"], written["gate"]["failed"]) == (1, 2, None)
    shown = ask(capsys, "report", str(run))
    assert (shown.status, "gate not judged: the run was interrupted" in shown.out) == (0, True)


def test_an_interrupt_of_the_second_run_names_both(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int, _: object) -> None:
        if number == 2:
            raise KeyboardInterrupt

    tellers = {"first run": lambda *_: None, "second run": interrupt}
    monkeypatch.setattr(verify, "_teller", lambda name, _: tellers[name])
    with standin() as server:
        said = verified(capsys, server, "--both", "-n", "3", "--dir", "my runs")
    folders = sorted(
        (tmp_path / "my runs" / "runs").glob("2*"), key=lambda path: (path / "report.json").stat().st_mtime
    )
    both = " ".join(f"'{Path('my runs', 'runs', folder.name)}'" for folder in folders)
    assert said.status == 130
    assert said.err.splitlines()[-1] == (
        "pytest-lmstudio: interrupted after 2 of 3 generations of the second run; "
        f"`pytest-lmstudio report {both}` shows them"
    )


@pytest.mark.parametrize(("stops", "status", "told"), [(True, 130, "interrupted"), (False, 2, "the run left no log")])
def test_a_run_whose_log_was_taken_away_says_no_more(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, stops: bool, status: int, told: str
) -> None:
    def interrupt(*_: object) -> None:
        if stops:
            raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_teller", lambda *_: interrupt)
    monkeypatch.setattr(rounds, "_written", lambda *_: None)
    with standin() as server:
        said = verified(capsys, server, "-n", "1")
    assert (said.status, said.out, said.err.splitlines()[1:]) == (status, "", [f"pytest-lmstudio: {told}"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals to another process are POSIX's")
def test_ctrl_c_in_the_middle_of_a_generation_ends_it_and_writes_the_run(tmp_path: Path) -> None:
    with standin() as server:
        server.script(echo())
        server.default = hang()
        command = [sys.executable, "-m", "pytest_lmstudio", "verify", "--url", server.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            server.wait_for(lambda: server.in_flight == 1 and len(server.requests) == 2, 60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    [folder] = runs(tmp_path)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == (
        "pytest-lmstudio: interrupted after 1 of 10 generations of the first run; "
        f"`pytest-lmstudio report {Path('.lmstudio', 'runs', folder.name)}` shows it"
    )
    written = json.loads((folder / "report.json").read_text("utf-8"))
    assert written["calls"]["total"] == 2
    assert written["errors_by_kind"] == {"cancelled": 1}


@pytest.mark.parametrize("value", ["0", "x", "1e3"])
def test_a_wrong_count_is_wrong_use(capsys: Capsys, value: str) -> None:
    with pytest.raises(SystemExit) as done:
        ask(capsys, "verify", "-n", value)
    assert done.value.code == 2
    assert f"argument -n/--count: '{value}': expected a whole number from 1" in capsys.readouterr().err


# What follows from two runs.


def report(
    *,
    ok: int = 10,
    failed: int = 0,
    again: int = 0,
    timeout_s: float = 45.0,
    slowest_ms: float = 900.0,
    attempted: bool = True,
    **kinds: int,
) -> dict[str, Any]:
    return {
        "calls": {"sent": ok + failed, "ok": ok, "failed": failed},
        "attempts": {"failed": again, "total": ok + again + sum(kinds.values()) * attempted},
        "errors_by_kind": kinds,
        "latency_ms": {"max": slowest_ms if ok else None},
        "settings": {"timeout": timeout_s},
    }


CUT = report(ok=8, failed=2, timeout=8)


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (report(), None, "none"),
        (report(), report(timeout_s=90), "none"),
        (CUT, report(timeout_s=90, slowest_ms=60_000), "timeout"),
        (CUT, report(timeout_s=90, slowest_ms=45_000), "passing"),  # no answer needed more: it is not proved
        (report(ok=9, failed=1, disconnect=4), report(timeout_s=90, slowest_ms=60_000), "passing"),
        (report(model_lost=1), report(timeout_s=90, again=1, model_lost=1), "passing"),
        (report(), report(timeout_s=90, again=1, model_lost=1), "passing"),
        (CUT, report(ok=9, failed=1, timeout=6), "slow"),
        (CUT, report(ok=9, failed=1, model_lost=6, timeout=1), "model"),
        (CUT, report(ok=9, failed=1, context_overflow=1), "model"),
        (CUT, report(ok=9, failed=1, disconnect=6), "connection"),
        (CUT, report(ok=0, failed=10, connect=60), "connection"),
        (report(ok=0, failed=1, no_model=1), None, "setup"),
        (report(ok=0, failed=1, timeout=1, attempted=False), None, "setup"),
        (report(ok=0, failed=9, timeout=9), report(ok=0, failed=9, timeout=9), "slow"),
        (report(ok=0, failed=4, timeout=14, connect=1), report(timeout_s=90, slowest_ms=60_000), "timeout"),
    ],
)
def test_what_follows(first: dict[str, Any], second: dict[str, Any] | None, cause: str) -> None:
    concluded = conclude(first, second)
    assert concluded.cause == cause
    assert concluded.cured is (cause in {"none", "timeout", "passing"})
    assert concluded.text.endswith(".")


def test_retries_that_made_up_for_failures_are_told() -> None:
    concluded = conclude(report(model_lost=1), report(timeout_s=90, again=2, model_lost=2))
    assert concluded.text == (
        "The trouble passed: model_lost 1x in the first run; in the second 2 attempts failed again, and retries made "
        "up for it."
    )


def test_answers_that_came_within_the_first_timeout_are_told() -> None:
    assert conclude(CUT, report(timeout_s=90, slowest_ms=9_000)).text == (
        "The trouble passed: timeout 8x in the first run; in the second nothing failed again, though no answer took "
        "longer than 45 s."
    )


def test_the_page_explains_every_cause() -> None:
    page = (PAGES / "doctor.md").read_text("utf-8")
    assert [cause for cause in get_args(Cause) if f"| `{cause}` |" not in page] == []
