"""``report --merge`` and ``report --compare``: what is typed, said and returned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cli.command import main
from pytest_lmstudio.record.events import EventWriter, iso_of
from pytest_lmstudio.report.json import schema_text
from pytest_lmstudio.settings import Settings
from tests.unit.cli.stored import end, ended, start, write_log
from tests.unit.record.logs import START_S, bads, event, goods, preflight, report_of, unsent
from tests.valid import checked

if TYPE_CHECKING:
    from pytest_lmstudio.record.events import Event


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, on a screen of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def write(name: str, events: list[Event], settings: Settings | None = None, ends: bool = True) -> Path:
    """Write a run whose id is the name of its folder."""
    log = [start(settings, started_at=iso_of(START_S)), *events, *([end()] if ends else [])]
    return write_log(Path(name), [{**one, "run_id": Path(name).name} for one in log])


def shards(lost: int = 0) -> None:
    write("s1", [*goods(20, "a"), ended("a")])
    write(
        "s2",
        [
            *goods(20 - lost, "b"),
            *bads(lost, name="x"),
            ended("b", "lm_error" if lost else "passed", error_kind="timeout"),
        ],
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("pytest-lmstudio: ").strip()


def test_shards_are_shown_as_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    shards()
    assert main(["report", "--merge", "s1", "s2"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "gate passed: 0% of 40 calls lost, limit 5% (95% interval 0% to 8.8%)"
    assert err == ""


def test_the_gate_of_the_whole_makes_the_status_and_its_limit_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    shards(lost=6)
    assert main(["report", "--merge", "s1", "s2"]) == 1
    assert "gate FAILED: error rate 15.0% (6 of 40 calls lost)" in capsys.readouterr().out
    assert main(["report", "--merge", "s1", "s2", "--max-error-rate", "50%"]) == 0


def test_a_test_lost_in_any_shard_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shards(lost=1)
    main(["report", "--merge", "s1", "s2"])
    assert "\nlost          b: timeout\n" in capsys.readouterr().out


def test_the_whole_is_written_as_json_and_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards()
    assert main(["report", "--merge", "s2", "s1", "--json", "-o", "all/report.json", "--html", "page.html"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((here / "all" / "report.json").read_text("utf-8"))
    assert [shard["run_id"] for shard in checked(printed)["shards"]] == ["s1", "s2"]
    page = (here / "page.html").read_text("utf-8")
    assert printed["run_id"] in page
    assert "1/main" in page
    assert "2/main" in page
    assert main(["report", "all/report.json"]) == 0


def test_a_folder_of_runs_stands_for_its_newest(capsys: pytest.CaptureFixture[str]) -> None:
    write("job1/.lmstudio/runs/20261122-110000-aaaaaaaa", goods(3, "old"))
    write("job1/.lmstudio/runs/20261122-120000-bbbbbbbb", goods(5, "new"))
    write("job2/.lmstudio/runs/20261122-120000-cccccccc", goods(5, "other"))
    assert main(["report", "--merge", "job1/.lmstudio", "job2/.lmstudio/runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"]["total"] == 10


def test_a_shard_that_met_no_server_adds_what_it_lost_and_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    write("s1", [preflight(), *goods(50, "a")])
    dead = event("preflight", server={"url": "u", "reachable": False, "kind": None, "models": []})
    write("s2", [dead, unsent("b", "unreachable", model=""), ended("b", "lm_error", error_kind="unreachable")])
    assert main(["report", "--merge", "s1", "s2", "--max-error-rate", "100%"]) == 0
    out, err = capsys.readouterr()
    shown = " ".join(out.split())
    assert "calls 51 sent (50 ok, 1 failed)" in shown
    assert "server http://127.0.0.1:1234, qwen (Q4_K_M, context 4096, 4 at once) " in shown
    assert ("unknown" in out, "note" in out, err) == (False, False, "")


def test_the_same_run_by_two_names_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    shards()
    assert refused(capsys, "--merge", "s1", "./s1/events.jsonl").endswith("are the same run, s1: name it once")
    shutil.copytree("s1", "elsewhere")
    assert refused(capsys, "--merge", "s1", "elsewhere") == "s1 and elsewhere are the same run, s1: name it once"


def test_a_shard_without_its_log_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards()
    (here / "alone").mkdir()
    (here / "alone" / "report.json").write_text(json.dumps(report_of(goods(1))), encoding="utf-8")
    (here / "s1" / "copy.json").write_text("{}", encoding="ascii")
    told = " lies without the events.jsonl of its run, which the percentiles come from: keep the whole folder"
    for name in ("alone", str(Path("alone", "report.json")), str(Path("s1", "copy.json"))):
        assert refused(capsys, "--merge", "s2", name) == f"{name}{told}"


def test_a_shard_that_goes_on_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    shards()
    write("s3", goods(1, "c"), ends=False)
    with EventWriter(Path("s3", "events.jsonl")):
        assert refused(capsys, "--merge", "s1", "s3") == "s3 is still in progress: merge it when it has ended"
    assert main(["report", "--merge", "s1", "s3"]) == 0
    assert "(shard s3)" in " ".join(capsys.readouterr().out.split())


def test_shards_of_two_versions_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("s1", goods(1, "a"), Settings(pipeline_version="v1"))
    write("s2", goods(1, "b"), Settings(pipeline_version="v2"))
    assert refused(capsys, "--merge", "s1", "s2") == (
        "s1 has the pipeline version 'v1', s2 'v2': --merge takes the shards of one run, --compare any two runs"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--merge"], "--merge takes the runs of the shards: name them"),
        (["--merge", "--compare", "a", "b"], "--compare and --merge cannot be asked for at once"),
        (["--merge", "--rebuild", "a"], "--merge and --rebuild cannot be asked for at once"),
        (["--compare", "a"], "--compare takes two runs, the one before first, not 1"),
        (["--compare", "a", "b", "c"], "--compare takes two runs, the one before first, not 3"),
        (["--compare", "a", "b", "--html", "x"], "--html makes the page of one run, not of two: leave --compare out"),
        (["-o", "x", "a"], "--output goes with --merge"),
        (["--max-error-rate", "0", "a"], "--max-error-rate goes with --merge"),
        (["--fail-on-regression", "a"], "--fail-on-regression goes with --compare"),
        (["--schema", "a"], "--schema prints the schema of every report: leave the rest out"),
        (["--schema", "--json"], "--schema prints the schema of every report: leave the rest out"),
        (["--schema", "--html", "a"], "--schema prints the schema of every report: leave the rest out"),
        (["--merge", "gone"], "gone is neither a folder nor a file, nor a run in .lmstudio/runs"),
    ],
)
def test_what_says_nothing_together_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert refused(capsys, *arguments) == told.replace(".lmstudio/runs", str(Path(".lmstudio", "runs")))


def test_a_limit_that_is_none_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--merge", "a", "--max-error-rate", "often"])
    assert "expected a share such as 5% or 0.05" in capsys.readouterr().err


def test_the_schema_is_printed_as_it_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--schema"]) == 0
    assert capsys.readouterr().out == schema_text()


# --compare.


def two_runs() -> None:
    write("before", [*goods(90, latency_ms=100), ended("a"), ended("b", "failed")])
    write("after", [*goods(90, latency_ms=300), ended("a", "failed"), ended("b", "failed")], Settings(timeout=90.0))


def test_two_runs_are_shown_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    two_runs()
    assert main(["report", "--compare", "before", "after"]) == 0
    out = capsys.readouterr().out
    assert "\nREGRESSION: more tests fail, latency p50, latency p95\n" in out
    assert "\n  now failing         a (passed -> failed)\n" in out
    assert "\nset otherwise         timeout: 45 s -> 90 s\n" in out


def test_a_regression_fails_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    two_runs()
    assert main(["report", "--compare", "before", "after", "--fail-on-regression"]) == 1
    assert main(["report", "--compare", "after", "before", "--fail-on-regression"]) == 0
    assert "\nno regression\n" in capsys.readouterr().out


def test_a_comparison_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    two_runs()
    assert main(["report", "--compare", "before", "after", "--json", "--fail-on-regression"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["regressions"] == ["failed_tests", "latency_p50_ms", "latency_p95_ms"]
    assert found["numbers"]["latency_p50_ms"] == {
        "before": 100.0, "after": 300.0, "change": 200.0, "ci95": [200.0, 200.0], "verdict": "worse",
    }  # fmt: skip
    assert found["conditions"] == {"timeout": {"before": 45.0, "after": 90.0}}


def test_a_report_that_lies_alone_is_compared_as_far_as_it_goes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs()
    (here / "base.json").write_text(json.dumps(report_of(goods(90, latency_ms=100))), encoding="utf-8")
    assert main(["report", "--compare", "base.json", "after", "--fail-on-regression"]) == 0
    out, err = capsys.readouterr()
    assert "\ntests                 not compared: that takes the events.jsonl of both runs\n" in out
    told = "base.json lies without its events.jsonl: times have no intervals, and tests are not compared"
    assert err == f"pytest-lmstudio: {told}\n"


def test_a_damaged_report_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs()
    (here / "base.json").write_text('{"schema_version": 1}', encoding="ascii")
    assert main(["report", "--compare", "after", "base.json"]) == 2
    assert capsys.readouterr().err == "pytest-lmstudio: base.json is damaged (no 'run_id')\n"
