"""``pytest-lmstudio report`` shows runs as they showed themselves, also those whose report nobody wrote."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cli.command import main
from pytest_lmstudio.record.events import EventWriter
from pytest_lmstudio.report.terminal import lines, lost_lines
from tests.unit.cli.stored import RUN_ID, end, ended, start, write_log, write_run
from tests.unit.record.logs import bads, goods, report_of, request

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER_ID = "20261122-110000-ffffffff"
WHERE = Path(".lmstudio", "runs", RUN_ID)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="what POSIX file systems have")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder `.lmstudio` of the current folder, on a screen of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / ".lmstudio"


def section(report: dict[str, Any], folder: Path = WHERE, lost: Sequence[tuple[str, str]] = ()) -> str:
    """Return what the end of a run shows."""
    shown = [*lines(report, width=80, run_dir=folder), *lost_lines(lost, "--html PATH")]
    return "\n".join([" LM Studio ".center(80, "="), *(line.text for line in shown), ""])


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


# Which run.


@pytest.mark.parametrize(
    "names",
    [[], ["latest"], [RUN_ID], [str(WHERE)], [str(WHERE / "report.json")], [str(WHERE / "events.jsonl")]],
    ids=["none", "latest", "id", "folder", "report", "log"],
)
def test_a_run_is_shown_as_its_end_did(home: Path, capsys: pytest.CaptureFixture[str], names: list[str]) -> None:
    write_run(home, OTHER_ID)
    folder = write_run(home, log=[start(), *goods(2), end()])
    assert main(["report", *names]) == 0
    assert capsys.readouterr() == (section(written(folder)), "")


def test_a_report_that_lies_alone_is_shown_without_a_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_run(home) / "report.json").rename(tmp_path / "copy.json")
    assert main(["report", "copy.json"]) == 0
    out = capsys.readouterr().out
    assert "gate passed" in out
    assert "report.json" not in out


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_runs_lie_where_pytest_was_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write_run(tmp_path / "elsewhere")
    monkeypatch.setenv("LMSTUDIO_DIR", "elsewhere" if how == "environment" else "nowhere")
    option = ["--dir=elsewhere"] if how == "option" else []
    assert main(["report", *option]) == 0
    assert f"elsewhere{os.sep}runs" in capsys.readouterr().out


def test_an_empty_variable_counts_as_unset(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(home)
    monkeypatch.setenv("LMSTUDIO_DIR", "")
    assert main(["report"]) == 0
    assert str(WHERE) in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "../../elsewhere", "..", "/", "gone", "a\0b", "\xff", "x" * 9999])
def test_latest_is_the_newest_run_when_nothing_names_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    write_run(home, OTHER_ID)
    write_run(home)
    write_log(tmp_path / "elsewhere", [start()])
    (home / "runs" / "latest").write_text(text, encoding="latin-1")
    assert main(["report"]) == 0
    assert str(WHERE / "report.json") in capsys.readouterr().out


def test_without_runs_one_line_says_where_they_were_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    told = "pytest-lmstudio: .lmstudio holds no runs: name the folder that pytest had with --dir\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize(
    "name", ["nope", "../outside", "../../elsewhere", ".", "a\x1b[31mb", "x" * 5000, "no/such/folder"]
)
def test_an_unknown_run_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_run(home)
    write_log(home / "outside", [start(), *goods(2)])  # which the folder of the runs leads to, and this folder does not
    write_log(home.parent / "elsewhere", [start(), *goods(2)])
    assert main(["report", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pytest-lmstudio: ")
    assert [char for char in err[:-1] if not char.isprintable()] == []


def test_an_unknown_run_is_told_with_the_newest_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    assert main(["report", "nope"]) == 2
    known = f"nope is neither a folder nor a file, nor a run in {Path('.lmstudio', 'runs')}"
    assert capsys.readouterr().err == f"pytest-lmstudio: {known}; the newest there is {RUN_ID}, and 20 are kept\n"


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    assert main(["report", "src"]) == 2
    assert capsys.readouterr().err == (
        "pytest-lmstudio: src holds neither report.json nor events.jsonl: it is no run\n"
    )


# What it says, and its status.


def test_the_status_tells_that_a_gate_failed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home, log=bads(3), report=report_of(bads(3)))
    assert main(["report"]) == 1
    assert "gate FAILED" in capsys.readouterr().out


def test_a_gate_that_was_not_judged_is_no_failure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home, report=report_of(bads(3), interrupted=True))
    assert main(["report"]) == 0
    assert "gate not judged" in capsys.readouterr().out


def test_several_runs_are_shown_and_the_worst_decides(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write_run(home), write_run(home, OTHER_ID, report=report_of(bads(3)))
    assert main(["report", RUN_ID, OTHER_ID]) == 1
    shown = section(written(good)) + section(written(bad), bad.relative_to(home.parent))
    assert capsys.readouterr().out == shown
    assert main(["report", OTHER_ID, "nope", RUN_ID]) == 2
    assert capsys.readouterr().out.count("= LM Studio =") == 2


def test_lost_tests_are_named_as_at_the_end_of_the_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = [ended(f"t.py::test_{n}", "lm_error", error_kind="timeout") for n in range(12)]
    report = report_of(bads(3), outcomes={**report_of([])["tests"], "lm_error": 12})
    folder = write_run(home, log=[start(), *lost], report=report)
    assert main(["report"]) == 1
    out = capsys.readouterr().out
    assert out == section(written(folder), lost=[(f"t.py::test_{n}", "timeout") for n in range(12)])
    assert out.splitlines()[-2:] == [
        f"{'lost':<14}t.py::test_9: timeout",
        f"{'':<14}and 2 more: --html PATH lists them",
    ]


def test_a_log_is_not_read_for_what_it_need_not_tell(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home)
    (folder / "events.jsonl").write_text("foreign", encoding="ascii")
    assert main(["report"]) == 0
    assert capsys.readouterr() == (section(written(folder)), "")


def test_a_bundle_that_is_not_there_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home, report={**report_of(bads(9)), "escalation": {"escalate": True, "reasons": ["why"]}})
    assert main(["report"]) == 1
    out, err = capsys.readouterr()
    assert out == section(written(folder))
    assert (
        err == f"pytest-lmstudio: {WHERE / 'escalation.zip'} is not there: `pytest-lmstudio bundle {WHERE}` makes it\n"
    )
    (folder / "escalation.zip").touch()
    assert main(["report"]) == 1
    assert capsys.readouterr().err == ""


def test_a_run_without_calls_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), end()])
    assert main(["report"]) == 0
    assert capsys.readouterr() == (f"{' LM Studio '.center(80, '=')}\nthe run made no call\n", "")
    assert not (folder / "report.json").exists()


def test_json_is_the_report_in_ascii(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home, report={**report_of(goods(2)), "notes": ["caf\xe9 \x9b31m \u202e"]})
    assert main(["report", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == written(folder)


def test_json_of_several_runs_is_a_document_each(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    write_run(home, OTHER_ID)
    assert main(["report", "--json", RUN_ID, OTHER_ID]) == 0
    first, rest = json.JSONDecoder().raw_decode(capsys.readouterr().out)
    assert first["run_id"] == RUN_ID
    assert rest > 0


def test_the_page_is_written_beside(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home, log=[start(), *goods(2), end()])
    assert main(["report", "--html=deep/page.html"]) == 0
    assert capsys.readouterr().out == section(written(folder))
    page = (tmp_path / "deep" / "page.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "Timeline" in page  # which needs the log


@pytest.mark.parametrize("kept", ["log", "report", "shards"])
def test_a_run_without_calls_has_a_page_too(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    if kept == "report":
        write_run(home, report=report_of([]))
    else:
        write_log(home / "runs" / RUN_ID, [start(), end()])
    arguments = ["--merge", RUN_ID] if kept == "shards" else []
    assert main(["report", "--html=page.html", *arguments]) == 0
    assert capsys.readouterr() == (f"{' LM Studio '.center(80, '=')}\nthe run made no call\n", "")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")


def test_a_page_of_several_runs_is_wrong_use(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--html=p.html", "a", "b"]) == 2
    assert capsys.readouterr() == ("", "pytest-lmstudio: --html makes the page of one run: name one\n")
    assert not (tmp_path / "p.html").exists()


def test_a_page_that_cannot_be_written_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    assert main(["report", "--html=."]) == 2
    out, err = capsys.readouterr()
    assert "gate passed" in out
    assert err.startswith("pytest-lmstudio: . cannot be written: ")


# Rebuilt.


def test_a_missing_report_is_rebuilt_and_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    assert main(["report"]) == 0
    report = written(folder)
    assert capsys.readouterr() == (
        section(report),
        f"pytest-lmstudio: rebuilt from {WHERE / 'events.jsonl'}, and written to {WHERE / 'report.json'}\n",
    )
    assert report["calls"]["ok"] == 2
    assert report["exit_status"] is None
    assert sorted(path.name for path in folder.iterdir()) == ["events.jsonl", "report.json"]
    assert main(["report"]) == 0
    assert capsys.readouterr() == (section(report), "")


def test_a_report_is_rebuilt_on_demand(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home, log=[start(), *goods(5), end()])
    assert written(folder)["calls"]["ok"] == 2
    assert main(["report", "--rebuild"]) == 0
    assert written(folder)["calls"]["ok"] == 5
    assert "and written to" in capsys.readouterr().err


def test_nothing_can_be_rebuilt_without_a_log(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    assert main(["report", "--rebuild"]) == 2
    assert capsys.readouterr().err == (f"pytest-lmstudio: {WHERE} holds no events.jsonl, so nothing can be rebuilt\n")


def test_a_rebuilt_report_that_cannot_be_kept_is_shown(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    monkeypatch.setattr("pytest_lmstudio.files.replace_file", refuse)
    assert main(["report"]) == 0
    out, err = capsys.readouterr()
    assert "gate passed" in out
    assert err == (
        f"pytest-lmstudio: rebuilt from {WHERE / 'events.jsonl'}; "
        f"{WHERE / 'report.json'} cannot be written: Read-only file system\n"
    )


def test_events_that_went_elsewhere_are_brought_back(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    spare = write_log(tmp_path / f"lmstudio-{RUN_ID}", goods(1, name="late"))
    assert main(["report"]) == 0
    assert "3 sent (3 ok, 0 failed)" in capsys.readouterr().out
    assert len((folder / "events.jsonl").read_bytes().splitlines()) == 7
    assert not spare.exists()


def test_a_run_that_had_to_go_elsewhere_is_found_by_its_id(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write_log(tmp_path / f"lmstudio-{RUN_ID}", [start(), *goods(2), end()])
    assert main(["report", RUN_ID]) == 0
    assert f"lmstudio-{RUN_ID}{os.sep}report.json" in capsys.readouterr().err


@POSIX
def test_a_link_in_place_of_the_report_is_replaced_and_not_followed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "precious"
    outside.write_text("mine", encoding="ascii")
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    (folder / "report.json").symlink_to(outside)
    assert main(["report", "--rebuild"]) == 0
    assert outside.read_text("ascii") == "mine"
    assert written(folder)["calls"]["ok"] == 2
    assert capsys.readouterr().out != ""


def test_a_run_in_progress_is_shown_as_of_now_and_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2), request("open", 30_000)])
    with EventWriter(folder / "events.jsonl"):
        assert main(["report", "--rebuild"]) == 0
        out, err = capsys.readouterr()
    assert err == (
        f"pytest-lmstudio: the run is still in progress: this is what {WHERE / 'events.jsonl'} tells as of now, "
        "nothing is written\n"
    )
    assert "2 sent (2 ok, 0 failed)" in out
    assert "the run is still in progress" in " ".join(out.split())
    assert [path.name for path in folder.iterdir()] == ["events.jsonl"]
    assert main(["report"]) == 1  # the process is gone, and its call is lost
    assert "3 sent (2 ok, 1 failed)" in capsys.readouterr().out


def test_a_run_that_ended_is_not_in_progress_whoever_holds_its_log(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2), end()])
    with EventWriter(folder / "events.jsonl"):
        assert main(["report"]) == 0
    assert "and written to" in capsys.readouterr().err
    assert written(folder)["exit_status"] == 0
