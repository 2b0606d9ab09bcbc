"""The server's log is found where LM Studio keeps it, read from its end, and never waited for."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.server import logs
from pytest_lmstudio.server.log_lines import Told
from pytest_lmstudio.server.logs import ServerLog, Span, embedded_log, in_time, lmstudio_log

if TYPE_CHECKING:
    from pathlib import Path

NOW_S = 1_795_350_000.0
SPAN = Span(NOW_S - 60, NOW_S)
HOME = ".lmstudio"


def crash(seconds_ago: float, more: str = "") -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW_S - seconds_ago))
    return f"[{stamp}][ERROR][qwen] The model has crashed without additional information. (Exit code: 6){more}\n"


def log(home: Path, text: str, name: str = "2026-11-22.1.log", written_ago_s: float = 0) -> Path:
    path = home / "server-logs" / name[:7] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    os.utime(path, (NOW_S - written_ago_s,) * 2)
    return path


def crashes(user_home: Path, port: int | None = 1234) -> int | None:
    found = lmstudio_log(user_home, port, SPAN)
    return found.told.counts["crashed"] if found else None


def test_a_log_of_the_run_s_time_is_found_and_told(tmp_path: Path) -> None:
    log(tmp_path / HOME, crash(30))
    assert lmstudio_log(tmp_path, 1234, SPAN) == ServerLog("lmstudio", crash(30), told := _told(), complete=True)
    assert told.exit_codes == ["6"]


def _told() -> Told:
    told = Told()
    told.counts["crashed"] = 1
    told.exit_codes.append("6")
    return told


def test_its_fields_hold_counts_and_times_and_no_text(tmp_path: Path) -> None:
    log(tmp_path / HOME, crash(30, " secret prompt"))
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert found.fields() == {
        "source": "lmstudio",
        "complete": True,
        "counts": {"crashed": 1},
        "exit_codes": ["6"],
        "hung_up_s": [],
    }


def test_without_a_log_there_is_none(tmp_path: Path) -> None:
    assert lmstudio_log(tmp_path, 1234, SPAN) is None
    (tmp_path / HOME / "server-logs" / "2026-11").mkdir(parents=True)
    assert lmstudio_log(tmp_path, 1234, SPAN) is None


def test_a_log_that_was_not_written_to_since_is_not_the_run_s(tmp_path: Path) -> None:
    log(tmp_path / HOME, crash(30), written_ago_s=3600)
    assert lmstudio_log(tmp_path, 1234, SPAN) is None


@pytest.mark.parametrize("home", [".lmstudio", ".cache/lm-studio", "elsewhere/lm studio"])
def test_lm_studio_s_home_may_be_in_each_of_its_places(tmp_path: Path, home: str) -> None:
    if home.startswith("elsewhere"):
        (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / home}\n", encoding="utf-8")
    log(tmp_path / home, crash(30))
    assert crashes(tmp_path) == 1


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"/nowhere/at/all", b"\0", b"x" * 10_000])
def test_a_pointer_that_leads_nowhere_is_passed_over(tmp_path: Path, pointer: bytes) -> None:
    (tmp_path / ".lmstudio-home-pointer").write_bytes(pointer)
    log(tmp_path / HOME, crash(30))
    assert crashes(tmp_path) == 1


@pytest.mark.parametrize(
    ("config", "found"),
    [({"port": 1234}, 1), ({"port": 9999}, None), ({"port": "x"}, 1), ({}, 1), ([], 1), ("{", 1)],
)
def test_the_log_of_a_server_on_another_port_is_left_alone(tmp_path: Path, config: object, found: int | None) -> None:
    log(tmp_path / HOME, crash(30))
    path = tmp_path / HOME / ".internal" / "http-server-config.json"
    path.parent.mkdir()
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    assert crashes(tmp_path) == found


def test_a_log_that_was_rotated_during_the_run_is_read_as_one(tmp_path: Path) -> None:
    home = tmp_path / HOME
    log(home, crash(500) + crash(50), "2026-11-22.1.log", 40)
    log(home, crash(30), "2026-11-22.2.log", 20)
    log(home, crash(10) + crash(0), "2026-12-01.1.log", 0)
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert found.text == "".join(map(crash, (500, 50, 30, 10, 0)))
    assert found.told.counts["crashed"] == 4


def test_of_files_of_the_same_moment_the_later_name_is_the_later_file(tmp_path: Path) -> None:
    for name in ("2026-11-22.2.log", "2026-11-22.10.log", "2026-11-22.1.log"):
        log(tmp_path / HOME, crash(30, name), name)
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert [line[-16:] for line in found.text.splitlines()] == [
        "2026-11-22.1.log",
        "2026-11-22.2.log",
        "026-11-22.10.log",
    ]


def test_of_a_huge_log_the_end_is_read_from_the_start_of_a_line(tmp_path: Path) -> None:
    path = log(tmp_path / HOME, "")
    with path.open("r+b") as file:
        file.seek(50 * 2**30)  # a hole: it takes no room on the disk
        file.write(b"\n" + (crash(30) + crash(20)).encode())
    os.utime(path, (NOW_S, NOW_S))
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert (found.told.counts["crashed"], found.complete) == (2, False)
    assert len(found.text) <= logs.TAIL_BYTES


def test_a_long_log_whose_read_end_reaches_back_to_the_start_of_the_run_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "READ_BYTES", 3 * len(crash(0)) + 10)
    log(tmp_path / HOME, crash(600) + crash(500) + crash(70) + crash(50) + crash(10))
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert (found.told.counts["crashed"], found.complete) == (2, True)
    log(tmp_path / HOME, crash(500) + crash(55) + crash(50) + crash(10))
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert (found.told.counts["crashed"], found.complete) == (3, False)


def test_a_file_that_is_gone_before_it_is_read_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path / HOME, crash(30))
    monkeypatch.setattr(logs, "_end_of", lambda *_: None)
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found == ServerLog("lmstudio", "", Told(), complete=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_in_place_of_a_log_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / HOME / "server-logs" / "2026-11"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "2026-11-22.1.log")
    os.mkfifo(tmp_path / ".lmstudio-home-pointer")
    assert lmstudio_log(tmp_path, 1234, SPAN) is None
    assert embedded_log(folder / "2026-11-22.1.log") is None


def test_bytes_that_are_no_utf8_are_shown_as_such(tmp_path: Path) -> None:
    path = log(tmp_path / HOME, crash(30))
    path.write_bytes(path.read_bytes() + b"\xff\xfe\xed\xa0\x80\n")
    found = lmstudio_log(tmp_path, 1234, SPAN)
    assert found is not None
    assert found.text.startswith(crash(30))
    assert "\ufffd" in found.text


def test_the_log_of_an_embedded_server_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "embedded.log"
    path.write_text("0.01 W srv          stop: cancel task, id_task = 16\n", encoding="utf-8")
    found = embedded_log(path)
    assert found is not None
    assert (found.source, dict(found.told.counts), found.complete) == ("embedded", {"hung_up": 1}, True)
    assert embedded_log(tmp_path / "none.log") is None


def test_a_reader_that_fails_gives_nothing() -> None:
    def fail() -> ServerLog | None:
        raise RuntimeError

    assert in_time(fail) is None


def test_a_reader_that_hangs_is_left_behind() -> None:
    gone = threading.Event()

    def hang() -> ServerLog | None:
        gone.wait(60)
        return None

    assert in_time(hang, patience_s=0.01) is None
    gone.set()


def test_what_was_read_in_time_is_returned() -> None:
    found = ServerLog("lmstudio", "text", Told(), complete=True)
    assert in_time(lambda: found) is found
