"""report.json is strict JSON, and whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_lmstudio.report.files import plain, write_whole
from pytest_lmstudio.report.json import report_text, write_report
from tests.unit.record.logs import bads, goods, report_of


def test_a_report_is_written_and_read_back_as_it_was(tmp_path: Path) -> None:
    report = report_of([*goods(2), *bads(1)])
    path = write_report(report, tmp_path / "new" / "report.json")
    assert path == tmp_path / "new" / "report.json"
    assert json.loads(path.read_bytes()) == report
    assert path.read_bytes().startswith(b'{\n  "schema_version": 1,\n  "run_id": "run-1",\n')
    assert b"\r" not in path.read_bytes()
    assert os.listdir(path.parent) == ["report.json"]  # noqa: PTH208  # hidden files count


def test_what_json_does_not_have_is_replaced() -> None:
    odd: dict[Any, Any] = {
        "a": float("nan"),
        "b": [float("-inf"), 1.5],
        "c": "x\ud800",
        5: (True, None),
        "p": Path("x"),
    }
    assert plain(odd) == {"a": None, "b": [None, 1.5], "c": "x\ufffd", "5": [True, None], "p": "x"}
    assert report_text(odd | {"é": "漢"}).endswith('"p": "x",\n  "é": "漢"\n}\n')


def test_an_older_report_stays_whole_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links need rights there")
def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", [b"n", b"ew"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="there is no such file")
def test_what_is_no_file_is_written_to() -> None:
    write_whole(os.devnull, [b"new"])
    assert Path(os.devnull).is_char_device()
