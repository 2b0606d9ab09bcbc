"""The kernel tells whether a log is still written to."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.record.events import EventWriter
from pytest_lmstudio.record.liveness import is_held

if TYPE_CHECKING:
    from pathlib import Path

OTHER = """
import sys
from pytest_lmstudio.record.events import EventWriter
writer = EventWriter(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_log_is_held_as_long_as_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path):
        with EventWriter(path):
            assert is_held(path)
        assert is_held(path)
    assert not is_held(path)


def test_looking_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.touch()
    assert not is_held(path)
    with EventWriter(path) as writer:
        assert is_held(path)
        writer.write("note")
    assert writer.failed is None


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open" + os.linesep.encode()
        held = is_held(path)
        other.kill()
    assert held
    assert not is_held(path)


def test_a_log_that_is_not_there_is_not_held(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "nothing")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_a_file_system_without_locks_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with EventWriter(tmp_path / "events.jsonl") as writer:
        assert not is_held(tmp_path / "events.jsonl")
        writer.write("note")
    assert writer.failed is None
