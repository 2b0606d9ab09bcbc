"""The folder .lmstudio: what is in it, who may read it, what is pruned; and the report's copies."""

from __future__ import annotations

import json
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from tests.plugin.inner import run
from tests.standin import StandIn

if TYPE_CHECKING:
    from pathlib import Path

WAYS = [("-n0",), ("-n2",)]
ASKS = """
    def test_asks(lm):
        assert lm("hello").text == "echo: hello"

    def test_asks_more(lm):
        assert lm("hi").text == "echo: hi"
"""


def ask(pytester: pytest.Pytester, *args: str, passed: int = 2) -> pytest.RunResult:
    """Run two tests that ask a server of their own."""
    pytester.makepyfile(test_asks=ASKS)
    with StandIn() as server:
        result = run(pytester, f"--lmstudio-url={server.url}", *args)
    result.assert_outcomes(passed=passed)
    return result


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_the_folder_holds_cache_and_runs_and_is_ignored_by_git(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    ask(pytester, *way)
    home = pytester.path / ".lmstudio"
    assert names(home) == {".gitignore", "cache", "models.json", "runs"}
    assert (home / ".gitignore").read_text("utf-8") == "*\n"
    latest = (home / "runs" / "latest").read_text("utf-8")
    assert names(home / "runs") == {"latest", latest.strip()}
    assert latest == f"{latest.strip()}\n"
    assert names(home / "runs" / latest.strip()) == {"events.jsonl", "report.json"}
    report = json.loads((home / "runs" / latest.strip() / "report.json").read_text("utf-8"))
    assert report["run_id"] == latest.strip()


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_nobody_else_can_look_into_the_folder(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    before = os.umask(0)
    try:
        ask(pytester, *way)
        ask(pytester, "--lmstudio-dir=deep/er/evals", *way)
    finally:
        os.umask(before)
    for home in (".lmstudio", "deep/er/evals"):
        assert stat.S_IMODE((pytester.path / home).stat().st_mode) == 0o700
    log = next((pytester.path / ".lmstudio" / "runs").glob("*/events.jsonl"))
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_gitignore_of_the_users_own_is_kept(pytester: pytest.Pytester) -> None:
    home = pytester.mkdir(".lmstudio")
    (home / ".gitignore").write_text("runs/\n", encoding="utf-8")
    ask(pytester, "-n0")
    assert (home / ".gitignore").read_text("utf-8") == "runs/\n"


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_the_log_begins_with_run_start_and_ends_with_run_end(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    ask(pytester, "--lmstudio-pipeline-version=v7", *way)
    log = next((pytester.path / ".lmstudio" / "runs").glob("*/events.jsonl"))
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    names = [event["event"] for event in events]
    assert (names[0], names[-1], names.count("run_start"), names.count("run_end")) == ("run_start", "run_end", 1, 1)
    assert events[0]["settings"]["pipeline_version"] == "v7"
    assert {event["run_id"] for event in events} == {log.parent.name}
    assert {event["pipeline_version"] for event in events} == {"v7"}


def past_run(runs: Path, number: int, *, report: bool, age_s: float = 0.0) -> str:
    """Make the folder of a run of 2020, as it is left by a run that ended (with a report) or that has not."""
    folder = runs / f"20200101-0000{number:02}-aaaaaaaa"
    folder.mkdir(parents=True)
    log = folder / "events.jsonl"
    log.write_text('{"ts":"2020-01-01T00:00:00.000Z","event":"run_start"}\n', encoding="utf-8")
    os.utime(log, (time.time() - age_s,) * 2)
    if report:
        (folder / "report.json").write_text("{}", encoding="utf-8")
    return folder.name


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_twenty_runs_are_kept_and_those_in_progress(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    runs = pytester.path / ".lmstudio" / "runs"
    in_progress = past_run(runs, 0, report=False)
    past_run(runs, 1, report=False, age_s=3 * 86400)  # crashed long ago
    ended = [past_run(runs, number, report=True) for number in range(2, 30)]
    (runs / "20200101-000000-note.txt").write_text("of the user", encoding="utf-8")
    ask(pytester, *way)
    latest = (runs / "latest").read_text("utf-8").strip()
    assert names(runs) == {"latest", "20200101-000000-note.txt", latest, in_progress, *ended[-19:]}


def test_a_link_among_the_runs_is_neither_followed_nor_deleted(pytester: pytest.Pytester) -> None:
    runs = pytester.path / ".lmstudio" / "runs"
    for number in range(2, 30):
        past_run(runs, number, report=True)
    outside = pytester.mkdir("outside")
    (outside / "report.json").write_text("{}", encoding="utf-8")
    try:
        (runs / "20200101-000000-link").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    ask(pytester, "-n0")
    assert (outside / "report.json").read_text("utf-8") == "{}"
    assert (runs / "20200101-000000-link").is_symlink()


def start_below_the_root(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ini: str) -> Path:
    """Start pytest in a folder below rootdir, whose ini file is this."""
    pytester.makeini(f"[pytest]\n{ini}")
    pytester.makepyfile(test_asks=ASKS)
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    return below


def ask_from_below(pytester: pytest.Pytester, *args: str) -> None:
    with StandIn() as server:
        result = run(pytester, f"--lmstudio-url={server.url}", *args, "..")
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_paths_in_the_ini_file_are_relative_to_rootdir(
    way: tuple[str, ...], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini = "lmstudio_dir = evals\nlmstudio_report = out/report.json\nlmstudio_html = out/report.html"
    below = start_below_the_root(pytester, monkeypatch, ini)
    ask_from_below(pytester, *way)
    assert names(pytester.path / "evals") == {".gitignore", "cache", "models.json", "runs"}
    assert names(pytester.path / "out") == {"report.json", "report.html"}
    assert list(below.iterdir()) == []


@pytest.mark.parametrize("source", ["command line", "environment"])
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_other_paths_are_relative_to_where_pytest_was_started(
    source: str, way: tuple[str, ...], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = start_below_the_root(pytester, monkeypatch, "lmstudio_dir = not-used")
    paths = {"dir": "evals", "report": "out/report.json", "html": "../report.html"}
    if source == "environment":
        for name, path in paths.items():
            monkeypatch.setenv(f"LMSTUDIO_{name.upper()}", path)
        ask_from_below(pytester, *way)
    else:
        ask_from_below(pytester, *way, *(f"--lmstudio-{name}={path}" for name, path in paths.items()))
    assert names(below) == {"evals", "out"}
    assert names(below / "out") == {"report.json"}
    assert (pytester.path / "report.html").exists()
    assert not (pytester.path / "not-used").exists()


def test_without_a_setting_the_folder_is_in_rootdir(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    below = start_below_the_root(pytester, monkeypatch, "")
    ask_from_below(pytester, "-n0")
    assert (pytester.path / ".lmstudio" / "runs" / "latest").exists()
    assert list(below.iterdir()) == []


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_the_copy_of_the_report_is_the_report(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    (pytester.path / "copy.json").write_text("of an older run", encoding="utf-8")
    ask(pytester, "--lmstudio-report=copy.json", *way)
    report = next((pytester.path / ".lmstudio" / "runs").glob("*/report.json"))
    assert (pytester.path / "copy.json").read_bytes() == report.read_bytes()
    assert json.loads(report.read_text("utf-8"))["calls"]["sent"] == 2


def test_a_run_without_calls_leaves_the_copy_of_the_last_one_alone(pytester: pytest.Pytester) -> None:
    (pytester.path / "copy.json").write_text("of an older run", encoding="utf-8")
    pytester.makepyfile("def test_idle(lm): pass")
    run(pytester, "--lmstudio-report=copy.json").assert_outcomes(passed=1)
    assert (pytester.path / "copy.json").read_text("utf-8") == "of an older run"


def test_a_copy_that_cannot_be_written_is_told_and_costs_nothing_else(pytester: pytest.Pytester) -> None:
    """The place is good when the run starts, and taken when it ends."""
    pytester.makeconftest("import os\ndef pytest_sessionfinish():\n    os.mkdir('taken.json')\n")
    result = ask(pytester, "-n0", "--lmstudio-report=taken.json")
    assert result.ret == pytest.ExitCode.OK
    path = pytester.path / "taken.json"
    assert [line for line in result.outlines if "cannot be written" in line] == [
        f"{path} cannot be written: Is a directory"
    ]
    assert any(line.startswith("gate passed") for line in result.outlines)
