"""The folder .lmstudio, and the spare folder of a run that it does not take."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_lmstudio import home as room
from pytest_lmstudio.home import Home, Place, make_spare, prune, shown, spare_folder
from pytest_lmstudio.record import liveness
from pytest_lmstudio.record.events import EventWriter, read_events
from pytest_lmstudio.record.spare import gather as gather_logs

RUN = "20261122-120000-aaaaaaaa"
POSIX = pytest.mark.skipif(os.name == "nt", reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def runs(folder: Path) -> Path:
    return folder / "runs"


def refusing(*places: Path) -> Any:
    """Return a `Path.mkdir` that finds no room in some places."""
    real = Path.mkdir

    def mkdir(path: Path, *args: Any, **named: Any) -> None:
        if any(path.is_relative_to(place) for place in places):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *args, **named)

    return mkdir


def write(path: Path, n: int) -> None:
    with EventWriter(path) as writer:
        writer.write("a", n=n)


def numbers(place: Place) -> list[int]:
    return [event["n"] for event in read_events(place.folder / "events.jsonl").events]


def test_a_run_is_made_where_it_belongs(folder: Path) -> None:
    home = Home(str(folder))
    assert home.make_run(RUN) is None
    assert home.run(RUN) == folder / "runs" / RUN
    assert (folder / "runs" / "latest").read_text("ascii") == f"{RUN}\n"
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "runs"]


@pytest.mark.parametrize("place", ["", "runs"])
def test_a_run_that_cannot_be_made_there_is_made_in_its_spare_folder(
    folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(folder / place))
    home = Home(str(folder))
    refused = home.make_run(RUN)
    assert refused is not None
    assert refused.strerror == "No space left on device"
    assert home.run(RUN) == temporary / f"lmstudio-{RUN}"
    assert Place(str(folder), RUN).folder == temporary / f"lmstudio-{RUN}"
    assert home.make_run(RUN) is not None  # another process of the run comes to the same
    if os.name != "nt":
        assert stat.S_IMODE((temporary / f"lmstudio-{RUN}").stat().st_mode) == 0o700


def test_a_run_that_can_be_made_nowhere_is_refused(
    folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(folder, temporary))
    with pytest.raises(OSError, match="No space left on device"):
        Home(str(folder)).make_run(RUN)


@POSIX
@pytest.mark.parametrize("kind", ["a link", "a file", "somebody else's"])
def test_a_spare_folder_that_is_not_ours_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (temporary / "elsewhere").mkdir()
    if kind == "a link":
        spare_folder(RUN).symlink_to(temporary / "elsewhere")
    elif kind == "a file":
        spare_folder(RUN).touch()
    else:
        spare_folder(RUN).mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(FileExistsError):
        make_spare(RUN)
    assert list((temporary / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("what", ["gitignore", "latest", "old runs"])
def test_a_run_does_not_depend_on_what_is_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "prune" if what == "old runs" else "replace_file", full)
    assert Home(str(folder)).make_run(RUN) is None
    assert (folder / "runs" / RUN).is_dir()


def test_what_is_elsewhere_comes_back_into_the_runs_folder(folder: Path, temporary: Path) -> None:
    place, closed = Place(str(folder), RUN), []
    Home(str(folder)).make_run(RUN)
    write(folder / "runs" / RUN / "events.jsonl", 1)
    assert place.settle(lambda: closed.append(1)) == []
    assert closed == []  # nothing to do
    write(place.make_spare() / "events.jsonl", 2)
    assert place.settle(lambda: closed.append(1)) == []
    assert (closed, numbers(place), place.folder) == ([1], [1, 2], folder / "runs" / RUN)
    assert list(temporary.iterdir()) == []


def test_what_does_not_come_back_makes_the_spare_folder_the_runs(
    folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(str(folder), RUN)
    Home(str(folder)).make_run(RUN)
    write(folder / "runs" / RUN / "events.jsonl", 1)
    write(place.make_spare() / "events.jsonl", 2)
    real = gather_logs

    def gather(log: Path, spare: Path, *, into: Path) -> None:
        if into.is_relative_to(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(log, spare, into=into)

    monkeypatch.setattr(room, "gather", gather)
    assert place.settle(lambda: None) == []
    assert (place.folder, numbers(place)) == (temporary / f"lmstudio-{RUN}", [1, 2])
    (place.folder / "report.json").touch()
    monkeypatch.setattr(room, "gather", real)  # room again, but the report is there already
    write(place.folder / "events.jsonl", 3)
    assert place.settle(lambda: None) == []
    assert (place.folder, numbers(place)) == (temporary / f"lmstudio-{RUN}", [1, 2, 3])
    assert sorted(path.name for path in place.folder.iterdir()) == ["events.jsonl", "report.json"]
    assert [event["n"] for event in read_events(folder / "runs" / RUN / "events.jsonl").events] == [1]


def test_what_can_be_put_together_nowhere_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(str(folder), RUN)
    Home(str(folder)).make_run(RUN)
    write(place.make_spare() / "events.jsonl", 2)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "gather", full)
    assert place.settle(lambda: None) == ["events are missing from the log: [Errno 28] No space left on device"]


def test_a_folder_deleted_in_the_run_is_made_anew(folder: Path) -> None:
    place = Place(str(folder), RUN)
    write(place.make_spare() / "gone-1-1.jsonl", 2)
    assert place.settle(lambda: None) == []
    assert numbers(place) == [2]
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "runs"]


def old_run(runs: Path, name: str, *, days: float = 30.0, report: bool = True, log: bool = True) -> Path:
    made = runs / name
    made.mkdir(parents=True)
    if log:
        (made / "events.jsonl").touch()
    if report:
        (made / "report.json").touch()
    for path in (*made.iterdir(), made):
        os.utime(path, (time.time() - 86_400 * days,) * 2)
    return made


def test_only_folders_named_like_runs_are_pruned(runs: Path) -> None:
    names = [f"20260101-0000{n:02}-aaaaaaaa" for n in range(30)]
    for name in [*names, "2026", "mine", "0"]:
        old_run(runs, name)
    prune(runs, keep=names[0])
    assert {path.name for path in runs.iterdir()} == {names[0], *names[10:], "2026", "mine", "0"}


@pytest.mark.parametrize("report", [False, True])
def test_a_run_that_another_process_holds_is_not_pruned(runs: Path, report: bool) -> None:
    held = old_run(runs, "20250101-000000-aaaaaaaa", report=report)
    for n in range(30):
        old_run(runs, f"20260101-0000{n:02}-aaaaaaaa")
    with EventWriter(held / "events.jsonl") as writer:
        os.utime(held / "events.jsonl", (time.time() - 86_400 * 30,) * 2)
        assert liveness.is_held(writer.path)
        prune(runs, keep="none")
    assert held.exists()
    prune(runs, keep="none")
    assert not held.exists()


def test_a_run_that_was_just_begun_by_another_process_is_not_pruned(runs: Path) -> None:
    """Its clock may be behind."""
    begun = old_run(runs, "20250101-000000-aaaaaaaa", days=0, report=False, log=False)
    crashed = old_run(runs, "20250101-000001-aaaaaaaa", report=False, log=False)
    for n in range(30):
        old_run(runs, f"20260101-0000{n:02}-aaaaaaaa")
    prune(runs, keep="none")
    assert (begun.exists(), crashed.exists()) == (True, False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless"])
def test_what_is_no_file_of_models_makes_nobody_wait(folder: Path, kind: str) -> None:
    folder.mkdir()
    path = folder / "models.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    home = Home(str(folder))
    assert home.remembered_model("http://localhost", "chat") is None
    home.remember_model("http://localhost", "chat", "one")
    assert home.remembered_model("http://localhost", "chat") == (None if kind == "folder" else "one")


def test_a_run_that_another_process_deletes_right_now_is_not_in_progress(runs: Path) -> None:
    assert not room._in_progress(runs / "gone")


def test_paths_are_shown_from_where_the_user_is(tmp_path: Path) -> None:
    assert shown(tmp_path / "a" / "b", tmp_path) == Path("a/b")
    assert shown(tmp_path, tmp_path / "a") == tmp_path
