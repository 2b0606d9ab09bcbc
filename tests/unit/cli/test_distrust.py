"""Files that anybody may have written: one clear line each, never a traceback, and nothing that a terminal obeys."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_lmstudio.cli import runs
from pytest_lmstudio.cli.command import main
from tests.unit.cli.stored import RUN_ID, end, ended, start, write_log
from tests.unit.record.logs import bads, event, goods, report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHERE = Path(".lmstudio", "runs", RUN_ID)
REPORT, LOG = WHERE / "report.json", WHERE / "events.jsonl"
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\x00\r\n::error::x<script>\ud800"
GOOD = report_of([*goods(4), *bads(4, at="b")], outcomes={**report_of([])["tests"], "lm_error": 1})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / ".lmstudio"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which a report is refused."""
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("pytest-lmstudio: ")
    return err.removeprefix("pytest-lmstudio: ").strip()


def put(home: Path, report: bytes, log: list[dict[str, Any]] | None = None) -> None:
    folder = home / "runs" / RUN_ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(report)
    if log is not None:
        write_log(folder, log)


@pytest.mark.parametrize("data", [b"", b"{", b'{"schema_version": 1', b"\xff\xfe", b"[" * 200_000, b'{"a":' * 9_999])
def test_damaged_json_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    put(home, data)
    line = told(capsys)
    assert line.startswith(f"{REPORT} is damaged (")
    assert "--rebuild" not in line
    put(home, data, [start(), *goods(1)])
    assert told(capsys).endswith("; --rebuild makes a new one from events.jsonl")
    assert main(["report", "--rebuild"]) == 0
    assert main(["report"]) == 0


@pytest.mark.parametrize(
    "data", [b"null", b"[]", b"7", b'"x"', b"{}", b'{"schema_version": "1"}', b'{"schema_version": 0}']
)
def test_json_that_is_no_report_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    put(home, data)
    assert told(capsys) == f"{REPORT} is no report of pytest-lmstudio: it has no schema_version"


def test_a_report_of_a_later_version_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home, b'{"schema_version": 2}')
    assert told(capsys) == f"{REPORT} has schema version 2, this version reads 1: upgrade pytest-lmstudio"


@pytest.mark.parametrize("option", [[], ["--json"], ["--html=page.html"]], ids=["section", "json", "html"])
def test_a_report_without_its_parts_is_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    put(home, b'{"schema_version": 1}')
    assert told(capsys, *option).startswith(f"{REPORT} is damaged (")
    assert not (tmp_path / "page.html").exists()


def test_a_report_that_is_too_large_is_not_read(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_REPORT_BYTES", 1000)
    put(home, b" " * 1001)
    assert "is larger than 1000 bytes" in told(capsys)


def test_a_log_that_is_too_large_is_not_read(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are those of a run of hundreds of thousands of calls; a hole in a file takes no place."""
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    monkeypatch.setattr(runs, "MOST_LOG_LINES", 4)
    assert told(capsys) == f"{LOG} is larger than 512 MiB or 4 lines"
    monkeypatch.setattr(runs, "MOST_LOG_LINES", 5)
    with (folder / "events.jsonl").open("ab") as log:
        log.truncate(513 * 1024**2)
    assert told(capsys) == f"{LOG} is larger than 512 MiB or 5 lines"
    write_log(folder, [start(), *goods(2)])
    assert main(["report"]) == 0


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"{}\n[]\n", b"\x00\xff\n", b'{"ts":"x","event":"started"}\n', b'{"name":"x"}\n'],
)  # fmt: skip
def test_a_foreign_log_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    write_log(home / "runs" / RUN_ID, [])
    (home / "runs" / RUN_ID / "events.jsonl").write_bytes(data)
    assert told(capsys) == f"{LOG} is no log of pytest-lmstudio"


def test_a_log_that_cannot_be_read_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write_log(home / "runs" / RUN_ID, [start(), *goods(1)])
    monkeypatch.setattr("pytest_lmstudio.record.events.read_events", refuse)
    assert told(capsys) == f"{LOG} cannot be read: Permission denied"


def test_a_log_that_nothing_can_be_made_of_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such log is known: this is what a defect of ours would look like."""

    def refuse(*_: object, **__: object) -> None:
        key = "ts\x1b"
        raise KeyError(key)

    write_log(home / "runs" / RUN_ID, [start(), *goods(1)])
    monkeypatch.setattr("pytest_lmstudio.record.rebuild.rebuild", refuse)
    assert told(capsys) == f"{LOG} is damaged (no 'ts\\x1b')"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has them")
@pytest.mark.parametrize("name", ["report.json", "events.jsonl", "latest"])
@pytest.mark.parametrize("what", ["pipe", "folder", "dangling link", "link to itself", "device"])
def test_what_is_no_file_neither_blocks_nor_breaks(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(1)])
    path = home / "runs" / "latest" if name == "latest" else folder / name
    path.unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to("nothing"),
        "link to itself": lambda: path.symlink_to(path.name),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[what]()
    status = main(["report"])
    _, err = capsys.readouterr()
    assert err.count("\n") <= 1
    assert status == (0 if name == "latest" or (name == "report.json" and "link" in what) else 2)


def test_hostile_text_reaches_no_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(json.dumps(GOOD))
    _poison(report)
    report["schema_version"] = 1
    log = [
        start(),
        ended(EVIL, "lm_error", error_kind=EVIL),
        *bads(3, model=EVIL, message=EVIL),
        event("note", message=EVIL),
    ]
    put(home, json.dumps(report).encode(), log)
    for arguments in (["report"], ["report", "--json"], ["report", "--rebuild"], ["report", str(home / EVIL[1:9])]):
        main(arguments)
        out, err = capsys.readouterr()
        assert {char for char in out + err if not char.isprintable()} <= {"\n"}, arguments
        assert "::error::x\n" not in out + err


def _poison(value: Any) -> None:
    """Put hostile text in place of every text."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if isinstance(inner, str):
            value[key] = EVIL
        elif isinstance(inner, (dict, list)):
            _poison(inner)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from _places(inner, (*path, key))


PLACES = list(_places(json.loads(json.dumps(GOOD))))
JUNK = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", [], {}, [1], {"a": 1}, 1e308, -1, 10**400])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3), st.sampled_from(["", "json", "html"])
)
def test_no_report_ends_in_a_traceback(
    home: Path, capsys: pytest.CaptureFixture[str], changes: list[tuple[tuple[Any, ...], Any]], form: str
) -> None:
    report = json.loads(json.dumps(GOOD))
    for path, junk in changes:
        _replace(report, path, junk)
    put(home, json.dumps(report).encode(), [start(), *goods(1), end()])
    option = {"": [], "json": ["--json"], "html": ["--html=page.html"]}[form]
    assert main(["report", *option]) in {0, 1, 2}
    assert "Traceback" not in capsys.readouterr().err


def _replace(value: Any, path: tuple[Any, ...], junk: Any) -> None:
    """Replace the value at the end of a way, if an earlier change has left the way."""
    *way, last = path
    for key in way:
        if not isinstance(value, (dict, list)) or (isinstance(value, dict) and key not in value):
            return
        if isinstance(value, list) and not (isinstance(key, int) and key < len(value)):
            return
        value = value[key]
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(last, int) and last < len(value)):
        value[last] = copy.deepcopy(junk)  # a later change may go inside it
