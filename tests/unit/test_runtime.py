"""What a process opens for a run lies where it should, and closes whatever happened."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.clock import Clock
from pytest_lmstudio.engine.retry import exponential
from pytest_lmstudio.home import KEPT_RUNS, Home, prune
from pytest_lmstudio.record.events import read_events
from pytest_lmstudio.runtime import Identity, Runtime
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lmstudio.settings import CacheMode

pytestmark = pytest.mark.timeout(30)

TOKEN = "sk-lm-secret:of-ours"


def runtime(
    home: Path, *, shared: Path | None = None, worker: str = "main", url: str = "http://127.0.0.1:9"
) -> Runtime:
    settings = Settings(url=url, dir=str(home), pipeline_version="v7")
    identity = Identity("run-5", worker, 0, str(shared) if shared else None, "1.2.3", Clock.set_now())
    return Runtime(settings, identity, token=TOKEN, strategy=exponential, fixed_model=None)


def run_folder(runs: Path, name: str, *, log: bool = False, report: bool = False, age_s: float = 0.0) -> None:
    folder = runs / name
    folder.mkdir(parents=True)
    if log:
        (folder / "events.jsonl").touch()
        written_s = (folder / "events.jsonl").stat().st_mtime - age_s
        os.utime(folder / "events.jsonl", (written_s, written_s))
    if report:
        (folder / "report.json").touch()
    if age_s:
        made_s = folder.stat().st_mtime - age_s
        os.utime(folder, (made_s, made_s))


def test_opening_makes_a_private_folder_that_git_ignores(tmp_path: Path) -> None:
    home = tmp_path / "home"
    it = runtime(home)
    assert not it.opened
    assert not home.exists()
    it.events.write("note")
    assert "events" in it.__dict__
    it.close()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".gitignore").read_text(encoding="ascii") == "*\n"
    assert (home / "runs" / "latest").read_text(encoding="ascii") == "run-5\n"
    start, note = read_events(home / "runs" / "run-5" / "events.jsonl").events
    assert (start["event"], start["run_id"], start["worker"]) == ("run_start", "run-5", "main")
    assert (start["pipeline_version"], start["plugin_version"], start["url"]) == ("v7", "1.2.3", "http://127.0.0.1:9")
    assert note["event"] == "note"
    assert TOKEN not in (home / "runs" / "run-5" / "events.jsonl").read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("fixed_model", "cache", "remembered"),
    [("of-ours", "readwrite", "of-ours"), ("of-ours", "offline", None), (None, "readwrite", None)],
)
def test_the_model_of_a_server_of_our_own_is_remembered_when_it_was_asked(
    tmp_path: Path, fixed_model: str | None, cache: CacheMode, remembered: str | None
) -> None:
    settings = Settings(url="http://127.0.0.1:9", dir=str(tmp_path), cache=cache)
    it = Runtime(
        settings,
        Identity("run-5", "main", 0, None, "1", Clock.set_now()),
        token=None,
        strategy=exponential,
        fixed_model=fixed_model,
    )
    it.events.write("note")
    it.close()
    assert Home(str(tmp_path)).remembered_model("embedded", "chat") == remembered


def test_a_run_is_opened_and_its_cache_counted_once_over_its_processes(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    workers = [runtime(tmp_path, shared=tmp_path / "shared", worker=f"gw{n}") for n in range(3)]
    for worker in workers:
        assert worker.cache is not None
    for worker in workers:
        worker.close()
    log = read_events(tmp_path / "runs" / "run-5" / "events.jsonl").events
    assert [event["event"] for event in log] == ["run_start"]
    assert (tmp_path / "cache" / "runs.txt").read_text(encoding="ascii") == "1\n"


def test_a_gitignore_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("cache/\n", encoding="ascii")
    it = runtime(tmp_path)
    it.events.write("note")
    it.close()
    assert (tmp_path / ".gitignore").read_text(encoding="ascii") == "cache/\n"


def test_closing_what_was_never_opened_makes_nothing(tmp_path: Path) -> None:
    runtime(tmp_path / "home").close()
    runtime(tmp_path / "home").close(interrupted=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interrupted", [False, True])
def test_closing_ends_the_engines_thread(tmp_path: Path, *, interrupted: bool) -> None:
    it = runtime(tmp_path)
    assert it.engine is not None
    assert it.loop.usable
    it.close(interrupted=interrupted)
    assert not it.loop.usable


def test_the_newest_runs_stay_and_so_does_one_in_progress(tmp_path: Path) -> None:
    names = [f"20261122-1200{number:02}-aaaaaaaa" for number in range(26)]
    for name in names[5:]:
        run_folder(tmp_path, name, log=True, report=True)
    run_folder(tmp_path, names[0], log=True, report=True)
    run_folder(tmp_path, names[1], log=True)  # in progress
    run_folder(tmp_path, names[2], log=True, age_s=2 * 86_400)  # ended without a report, long ago
    run_folder(tmp_path, names[3], age_s=2 * 86_400)
    run_folder(tmp_path, names[4], log=True, report=True)
    (tmp_path / "latest").touch()
    (tmp_path / "0-of-the-user").mkdir()
    prune(tmp_path, keep=names[4])
    assert KEPT_RUNS == 20
    kept = ["latest", "0-of-the-user", names[1], names[4], *names[6:]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_link_among_the_runs_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    runs = tmp_path / "runs"
    for number in range(1, 25):
        run_folder(runs, f"20261122-1200{number:02}-aaaaaaaa", log=True, report=True)
    (runs / "20261122-120000-aaaaaaaa").symlink_to(tmp_path / "outside")
    prune(runs, keep="20261122-120024-aaaaaaaa")
    assert (tmp_path / "outside" / "kept").exists()
    assert len(list(runs.iterdir())) == KEPT_RUNS + 1


def test_the_last_model_of_each_url_is_remembered_over_runs(tmp_path: Path) -> None:
    first, other = runtime(tmp_path), runtime(tmp_path, url="http://127.0.0.1:8")
    assert first.events is not None
    first.remember_model("chat", "one")
    first.remember_model("embeddings", "two")
    other.remember_model("chat", "three")
    later = runtime(tmp_path)
    assert (later.remembered_model("chat"), later.remembered_model("embeddings")) == ("one", "two")
    assert (other.remembered_model("chat"), other.remembered_model("embeddings")) == ("three", None)
    assert (first.known_model("chat"), later.known_model("chat")) == ("one", None)
    for it in (first, other, later):
        it.close()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "[" * 100_000, '{"http://127.0.0.1:9": []}', '{"http://127.0.0.1:9": {"chat": 5}}'),
        *('{"http://127.0.0.1:9": {"chat": ""}}', '{"http://127.0.0.1:9": {"chat": "a\\u001bb"}}', "\xff"),
    ],
    ids=["empty", "cut", "list", "deep", "no names", "number", "no name", "control", "no ASCII"],
)
def test_a_file_of_models_that_somebody_spoiled_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.json").write_text(text, encoding="latin-1")
    it = runtime(tmp_path)
    assert it.remembered_model("chat") is None
    assert it.events is not None
    it.remember_model("chat", "mended")
    assert it.remembered_model("chat") == "mended"
    it.close()
