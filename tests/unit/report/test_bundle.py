"""escalation.zip explains itself and tells no secret."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.record.events import Event, EventWriter
from pytest_lmstudio.report.bundle import write_bundle
from pytest_lmstudio.settings import Settings
from tests.unit.record.logs import bads, event, goods, preflight, report_of, request

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "sk-lm-AbCdEf:123456"
ENVIRON = {
    "LM_API_TOKEN": TOKEN,
    "LMSTUDIO_URL": "http://me:pass@host:1234",
    "EVAL_CONCURRENCY": "4",
    "LLM_API_KEY": "key-number-one",
    "LLM_PASSWORD": "",
    "https_proxy": "http://u:p@proxy:3128",
    "CI": "true",
    "CI_JOB_TOKEN": "not ours",
    "OPENAI_API_KEY": "another-vendor-s",
    "AWS_SECRET_ACCESS_KEY": "a/w+s",
    "TOKENIZERS_PARALLELISM": "false!",
    "HOME": "/home/me",
    "PYTEST_ADDOPTS": "-q\x1b[0m",
}
EVENTS: list[Event] = [
    preflight(),
    *goods(2, chars=150),
    *bads(3, "disconnect", chars=150, message=f"refused {TOKEN} and key-number-one by another-vendor-s not false!"),
    request("gone", prompt_chars=70_000),
]


def bundle(
    run_dir: Path, log_tail: str | None = None, events: list[Event] = EVENTS, settings: Settings | None = None
) -> dict[str, str]:
    with EventWriter(run_dir / "events.jsonl") as writer:
        for line in events:
            writer.write(**{name: value for name, value in line.items() if name != "ts"})
    path = write_bundle(run_dir, report_of(events, settings), ENVIRON, log_tail)
    assert path == run_dir / "escalation.zip"
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def test_the_bundle_holds_what_is_needed(tmp_path: Path) -> None:
    names = ["README.txt", "report.json", "failures.jsonl", "environment.txt", "prompts.txt"]
    assert list(bundle(tmp_path)) == names
    assert list(bundle(tmp_path, "a log")) == [*names, "server-log-tail.txt"]


def test_no_secret_and_no_control_character_is_in_any_file(tmp_path: Path) -> None:
    files = bundle(tmp_path, f"one {TOKEN[:12]}\x1b[31m\r\ntwo key-number-one http://me:pass@host:1234")
    everything = "".join(files.values())
    for secret in ("AbCdEf", "key-number", "me:pass", "u:p@", "\x1b", "\r"):
        assert secret not in everything
    assert files["server-log-tail.txt"].splitlines()[0] == "one ***\\x1b[31m"


def test_the_environment_is_what_matters_with_secrets_masked(tmp_path: Path) -> None:
    head, _, variables = bundle(tmp_path)["environment.txt"].partition("\n\n")
    assert head.startswith("Python 3.")
    assert variables.splitlines() == [
        "CI=true",
        "EVAL_CONCURRENCY=4",
        "LLM_API_KEY=***",
        "LLM_PASSWORD=",
        "LMSTUDIO_URL=http://host:1234",
        "LM_API_TOKEN=***",
        "PYTEST_ADDOPTS=-q\\x1b[0m",
        "https_proxy=http://proxy:3128",
    ]


def test_failures_are_the_failed_attempts_alone(tmp_path: Path) -> None:
    failures = [json.loads(line) for line in bundle(tmp_path)["failures.jsonl"].splitlines()]
    assert [failure["call_id"] for failure in failures] == ["bad0", "bad1", "bad2"]
    assert failures[0]["message"] == "refused *** and *** by *** not false!"


def test_prompts_are_told_by_their_lengths(tmp_path: Path) -> None:
    assert bundle(tmp_path)["prompts.txt"].splitlines() == [
        "all: 6 prompts; characters: p50 150, p95 52538, max 70000",
        "failed: 4 prompts; characters: p50 150, p95 59523, max 70000",
        "",
        "0 to 199 characters: 5 calls, 3 failed",
        "200 to 999 characters: 0 calls, 0 failed",
        "1000 to 3999 characters: 0 calls, 0 failed",
        "4000 to 15999 characters: 0 calls, 0 failed",
        "16000 to 63999 characters: 0 calls, 0 failed",
        "64000 or more characters: 1 calls, 1 failed",
    ]


def test_the_readme_tells_a_stranger_what_happened(tmp_path: Path) -> None:
    text = bundle(tmp_path, "log")["README.txt"]
    for part in (
        "Server    http://127.0.0.1:1234, kind: lmstudio, version: not told",
        "Models    qwen",
        "Calls     6 sent to the server, 4 of them got no answer",
        "Gate      failed: error rate 66.7% (4 of 6 calls lost) is above the limit of 5%",
        "- the first attempt failed in 3 of 5 calls with prompts under 200 characters",
        "Errors    disconnect 3, cancelled 1",
        "- attempts are cut at one constant time that is not this run's timeout",
        "IT MAY HOLD PROMPTS AND ANSWERS",
        "  curl -sS -m 60 http://127.0.0.1:1234/v1/chat/completions -H 'Content-Type: application/json' -d '{",
        """ -d '{"model": "qwen", "messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 8}'\n""",
        "  python -m pytest --lf --lmstudio-url=http://127.0.0.1:1234\n  - test_x.py::test_x\n",
    ):
        assert part in text


def test_a_run_without_trouble_and_without_a_log_says_so(tmp_path: Path) -> None:
    text = bundle(tmp_path, events=goods(1))["README.txt"]
    assert "- asked for by hand" in text
    assert "nothing that the plugin knows" in text
    assert "(no server log: it was not found on the machine that ran the suite)" in text


def test_a_short_secret_cannot_break_the_report(tmp_path: Path) -> None:
    report = report_of(goods(1))
    path = write_bundle(tmp_path, report, {"LM_API_TOKEN": "run_id", "LLM_KEY": "1"})
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("report.json")) == report


def test_the_command_to_see_it_again_has_the_settings_of_the_run_and_nothing_of_this_machine(tmp_path: Path) -> None:
    settings = Settings(
        timeout=90.0, concurrency=2, stream=False, breaker=None, model="a b", dir="/home/me/x", html="/home/me/y.html"
    )
    text = bundle(tmp_path, settings=settings)["README.txt"]
    assert (
        "  python -m pytest --lf --lmstudio-url=http://127.0.0.1:1234 '--lmstudio-model=a b' --lmstudio-timeout=90 "
        "--lmstudio-concurrency=2 --lmstudio-breaker=off --no-lmstudio-stream\n"
    ) in text
    assert "/home/me" not in text


def test_many_lost_tests_are_named_in_part(tmp_path: Path) -> None:
    events = [{**line, "nodeid": f"t.py::test_{line['call_id']}\x1b"} for line in bads(12, "disconnect")]
    text = bundle(tmp_path, events=events)["README.txt"]
    assert "  - t.py::test_bad9\\x1b\n  - and 2 more, see failures.jsonl\n" in text


def test_a_run_with_thousands_of_failures_keeps_the_first_and_the_last(tmp_path: Path) -> None:
    failures = bundle(tmp_path, events=bads(2003, "disconnect"))["failures.jsonl"].splitlines()
    assert len(failures) == 2001
    assert json.loads(failures[1000]) == {"event": "left_out", "failures": 3}
    assert [json.loads(failures[n])["call_id"] for n in (0, 999, 1001, 2000)] == [
        "bad0",
        "bad999",
        "bad1003",
        "bad2002",
    ]


def test_a_text_without_end_is_cut_and_so_is_a_log(tmp_path: Path) -> None:
    files = bundle(tmp_path, "x" * 2**21, bads(1, "disconnect", message="y" * 10**6))
    assert len(json.loads(files["failures.jsonl"])["message"]) == 4008
    assert len(files["server-log-tail.txt"]) == 2**20 + 1


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        bundle(folder, "log")
    (second / "events.jsonl").write_bytes((first / "events.jsonl").read_bytes())
    write_bundle(second, report_of(EVENTS), ENVIRON, "log")
    assert (second / "escalation.zip").read_bytes() == (first / "escalation.zip").read_bytes()


def test_no_name_in_the_archive_leads_out_of_it_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    bundle(tmp_path, "log")
    with zipfile.ZipFile(tmp_path / "escalation.zip") as archive:
        for member in archive.infolist():
            for path in (PurePosixPath(member.filename), PureWindowsPath(member.filename)):
                assert len(path.parts) == 1
                assert not path.is_absolute()
            assert member.external_attr >> 16 == 0o100600
        assert archive.testzip() is None


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path)
    before = (tmp_path / "escalation.zip").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(type(tmp_path), "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(tmp_path, report_of(EVENTS), ENVIRON, "another")
    assert (tmp_path / "escalation.zip").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["escalation.zip", "events.jsonl"]


def test_a_report_of_a_version_before_the_server_s_log_was_read_will_do(tmp_path: Path) -> None:
    report = report_of(goods(1))
    del report["server"]["log"]
    assert write_bundle(tmp_path, report, {}).exists()


def test_a_run_with_a_server_of_its_own_is_seen_again_with_one(tmp_path: Path) -> None:
    report = report_of([*bads(3, "disconnect"), event("server_log", source="embedded", complete=True, counts={})])
    with zipfile.ZipFile(write_bundle(tmp_path, report, {})) as archive:
        assert "  python -m pytest --lf --lmstudio-url=embedded\n" in archive.read("README.txt").decode()
