"""`doctor`, `health` and `verify` on a real llama.cpp server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lmstudio.server.embedded import EmbeddedServer

pytestmark = [pytest.mark.usefixtures("model"), pytest.mark.timeout(300)]


def run(folder: Path, *arguments: str) -> tuple[int, Any, str]:
    """Run a subcommand; return its status, what it told as JSON, and what it said beside that."""
    command = [sys.executable, "-m", "pytest_lmstudio", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_doctor_finds_a_server_of_llama_cpp_well(server: EmbeddedServer, tmp_path: Path) -> None:
    status, told, said = run(tmp_path, "doctor", "--url", server.url)
    assert (status, told["status"], said) == (0, "ok", "")
    assert (told["server"]["kind"], told["model"]) == ("llama.cpp", server.model)
    assert told["findings"][0]["text"].startswith("a llama.cpp server")
    assert told["tokens_per_second"] > 0
    assert told["ttft_ms"] > 0
    assert told["settings"]["EVAL_CONCURRENCY"] == "2"  # as many as the server answers at once
    assert list(tmp_path.iterdir()) == []


def test_doctor_starts_a_server_of_its_own(tmp_path: Path) -> None:
    status, told, said = run(tmp_path, "doctor", "--url", "embedded", "--samples", "2")
    assert (status, told["status"], told["server"]["kind"]) == (0, "ok", "llama.cpp")
    assert said == "pytest-lmstudio: starting a server of its own with smollm2-135m-instruct ...\n"
    assert told["settings"] == {}
    found = next(finding for finding in told["findings"] if finding["about"] == "concurrency")
    assert found["text"] == "4 of the 4 requests that the server answers at once"


def test_health_finds_it_healthy(server: EmbeddedServer, tmp_path: Path) -> None:
    status, told, _ = run(tmp_path, "health", "--url", server.url, "--samples", "3")
    assert (status, told["status"], told["samples"], told["failed"]) == (0, "healthy", 3, 0)
    assert 0 < told["ttft_ms"] <= told["latency_ms"]


def test_verify_finds_the_timeout_to_be_the_cause(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Write a long story about a lighthouse keeper.\n", "utf-8")
    status, told, _ = run(tmp_path, "verify", "--url", server.url, "--prompts", "prompts.txt", "--timeout", "0.02")
    assert (status, told["cause"], told["cured"]) == (0, "timeout", True)
    assert [run["calls"]["failed"] for run in told["runs"]] == [1, 0]
