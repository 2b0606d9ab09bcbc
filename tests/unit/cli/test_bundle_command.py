"""``pytest-lmstudio bundle`` packs what is known of a run, also of one that gave no reason to."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_lmstudio.cli.command import main
from tests.unit.cli.stored import RUN_ID, start, write_log, write_run
from tests.unit.record.logs import bads, goods, report_of

WHERE = Path(".lmstudio", "runs", RUN_ID)
SECRET = "sk-lm-abcdefgh:ijklmnop"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)  # a developer may have LM Studio, and logs of it
    return tmp_path / ".lmstudio"


def members(folder: Path) -> dict[str, str]:
    with zipfile.ZipFile(folder / "escalation.zip") as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.mark.parametrize("names", [[], ["latest"], [RUN_ID], [str(WHERE)]], ids=["none", "latest", "id", "folder"])
def test_the_bundle_of_a_run_is_made_and_its_path_printed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", SECRET)
    folder = write_run(home, log=[start(), *goods(2), *bads(1, message=f"refused {SECRET}")])
    assert main(["bundle", *names]) == 0
    assert capsys.readouterr() == (f"{WHERE / 'escalation.zip'}\n", "")
    found = members(folder)
    assert json.loads(found["report.json"])["run_id"] == RUN_ID
    assert found["failures.jsonl"].count("\n") == 1
    assert "LM_API_TOKEN=***" in found["environment.txt"]
    assert SECRET not in "".join(found.values())


def test_the_bundle_of_a_run_that_was_killed_has_the_report_of_its_log(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    assert main(["bundle"]) == 0
    assert capsys.readouterr().err == ""
    assert json.loads(members(folder)["report.json"])["calls"]["ok"] == 2


def test_a_report_without_its_log_cannot_be_packed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    assert main(["bundle"]) == 2
    told = f"pytest-lmstudio: {WHERE} lies without the events.jsonl of its run: name the run's folder or id\n"
    assert capsys.readouterr() == ("", told)


def test_a_damaged_report_cannot_be_packed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log(home / "runs" / RUN_ID, [start(), *goods(2)])
    (folder / "report.json").write_text('{"schema_version": 1}', encoding="ascii")
    assert main(["bundle"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"pytest-lmstudio: {WHERE / 'report.json'} is damaged (")
    assert not (folder / "escalation.zip").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_in_place_of_the_bundle_is_not_followed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("mine", encoding="ascii")
    folder = write_run(home, log=[start(), *goods(2)])
    (folder / "escalation.zip").symlink_to(tmp_path / "precious")
    assert main(["bundle"]) == 2
    told = f"pytest-lmstudio: {WHERE / 'escalation.zip'} is a link to somewhere else: remove it\n"
    assert capsys.readouterr() == ("", told)
    assert (tmp_path / "precious").read_text("ascii") == "mine"


def test_a_bundle_that_cannot_be_written_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(home, log=[start(), *goods(2)])
    (folder / "escalation.zip").mkdir()
    assert main(["bundle"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pytest-lmstudio: {WHERE / 'escalation.zip'} cannot be written: ")


@pytest.mark.parametrize(("kind", "held"), [("lmstudio", True), (None, True), ("llama.cpp", False)])
def test_the_servers_log_of_the_runs_time_is_packed(home: Path, tmp_path: Path, kind: str | None, held: bool) -> None:
    month = tmp_path / ".lmstudio" / "server-logs" / "2099-01"
    month.mkdir(parents=True)
    (month / "2099-01-01.1.log").write_text("[2099-01-01 00:00:00][INFO] from LM Studio\n", encoding="ascii")
    report = report_of(goods(2))
    report["server"] = {**report["server"], "kind": kind}
    folder = write_run(home, report=report, log=[start(), *goods(2)])
    assert main(["bundle"]) == 0
    assert ("from LM Studio" in members(folder).get("server-log-tail.txt", "")) is held
