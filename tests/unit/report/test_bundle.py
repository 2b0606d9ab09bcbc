"""escalation.zip explains itself and tells no secret."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

from pytest_lmstudio.record.events import Event, EventWriter
from pytest_lmstudio.report.bundle import write_bundle
from tests.unit.record.logs import bads, goods, preflight, report_of, request

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
    "HOME": "/home/me",
    "PYTEST_ADDOPTS": "-q\x1b[0m",
}
EVENTS: list[Event] = [
    preflight(),
    *goods(2, chars=150),
    *bads(3, "disconnect", chars=150, message=f"refused {TOKEN} and key-number-one"),
    request("gone", prompt_chars=70_000),
]


def bundle(run_dir: Path, log_tail: str | None = None, events: list[Event] = EVENTS) -> dict[str, str]:
    with EventWriter(run_dir / "events.jsonl") as writer:
        for line in events:
            writer.write(**{name: value for name, value in line.items() if name != "ts"})
    path = write_bundle(run_dir, report_of(events), ENVIRON, log_tail)
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
    assert failures[0]["message"] == "refused *** and ***"


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
        "- connections to this machine are cut before an answer begins",
        "IT MAY HOLD PROMPTS AND ANSWERS",
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
