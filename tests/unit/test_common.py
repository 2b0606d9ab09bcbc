"""The folder that a run's processes have in common: who deletes it, and which left one is surely nobody's."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from pytest_lmstudio.common import Common, sweep
from pytest_lmstudio.record import liveness

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(parent: Path, name: str = "pytest-lmstudio-ab_12xyz", *, age_s: float = 600.0, alive: bool = True) -> Path:
    """Leave a folder as a run does that was killed."""
    folder = parent / name
    folder.mkdir()
    (folder / "slot-0.lock").touch()
    if alive:
        (folder / "alive").touch()
    at_s = time.time() - age_s
    os.utime(folder, (at_s, at_s))
    return folder


def test_a_run_makes_its_folder_when_it_is_needed_and_deletes_it(parent: Path) -> None:
    it = Common(4, None)
    assert list(parent.iterdir()) == []
    folder = Path(it.folder())
    assert it.folder() == str(folder)
    assert folder.parent == parent
    assert [path.name for path in folder.iterdir()] == ["alive"]
    it.close()
    it.close()
    assert list(parent.iterdir()) == []


def test_a_worker_leaves_the_folder_to_its_controller(parent: Path) -> None:
    controller = Common(4, None)
    worker = Common(4, controller.folder())
    worker.close()
    assert Path(controller.folder()).is_dir()
    controller.close()
    assert list(parent.iterdir()) == []


def test_controller_and_worker_see_the_same_numbers() -> None:
    controller = Common(4, None)
    assert (controller.numbers(), controller.opened) == (None, None)
    controller.folder()
    assert controller.numbers() is None
    worker = Common(4, controller.folder())
    theirs = worker.numbers(make=True)
    ours = controller.numbers()
    assert ours is not None
    assert theirs is not None
    assert controller.opened is ours
    assert ours.interrupted_s == 0.0
    theirs.interrupt()
    assert ours.interrupted_s > 0.0
    worker.close()
    controller.close()
    assert ours.interrupted_s > 0.0  # as it was at the end


def test_without_a_folder_there_are_no_numbers() -> None:
    assert Common(4, None).numbers(make=True) is None


def test_a_run_deletes_what_a_killed_run_left(parent: Path) -> None:
    left(parent)
    it = Common(4, None)
    it.folder()
    it.close()
    assert list(parent.iterdir()) == []


def test_a_run_without_a_folder_of_its_own_looks_for_none(parent: Path) -> None:
    folder = left(parent)
    Common(4, None).close()
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["pytest-lmstudio-", "pytest-lmstudio-abc", "pytest-lmstudio-ab_12xyz.d", "other"])
def test_a_folder_of_another_name_stays(parent: Path, name: str) -> None:
    folder = left(parent, name)
    sweep(parent)
    assert folder.is_dir()


def test_a_young_folder_stays(parent: Path) -> None:
    folder = left(parent, age_s=2)
    sweep(parent)
    assert folder.is_dir()


def test_a_folder_that_nobody_ever_held_stays(parent: Path) -> None:
    folder = left(parent, alive=False)
    sweep(parent)
    assert folder.is_dir()


def test_a_folder_that_a_process_still_holds_stays(parent: Path) -> None:
    folder = left(parent)
    worker = Common(4, str(folder))
    at_s = time.time() - 600
    os.utime(folder, (at_s, at_s))
    sweep(parent)
    assert folder.is_dir()
    worker.close()
    sweep(parent)
    assert not folder.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows knows who has a file open")
def test_where_locks_do_not_work_no_folder_is_taken_for_a_left_one(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "hold", lambda _: None)
    it = Common(4, None)
    folder = Path(it.folder())
    assert list(folder.iterdir()) == []
    at_s = time.time() - 600
    os.utime(folder, (at_s, at_s))
    sweep(parent)
    assert folder.is_dir()
    it.close()


def test_links_and_files_stay(parent: Path) -> None:
    target = left(parent, "elsewhere")
    (parent / "pytest-lmstudio-ab_12xyz").symlink_to(target)
    (parent / "pytest-lmstudio-ab_12xyy").touch()
    os.utime(parent / "pytest-lmstudio-ab_12xyy", (0, 0))
    linked = left(parent, "pytest-lmstudio-ab_12xyw", alive=False)
    (linked / "alive").symlink_to(target / "alive")
    os.utime(linked, (0, 0))
    sweep(parent)
    assert sorted(path.name for path in parent.iterdir()) == [
        "elsewhere",
        "pytest-lmstudio-ab_12xyw",
        "pytest-lmstudio-ab_12xyy",
        "pytest-lmstudio-ab_12xyz",
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
def test_a_folder_of_another_user_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left(parent)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    sweep(parent)
    assert folder.is_dir()


def test_a_parent_that_went_away_is_no_trouble(parent: Path) -> None:
    sweep(parent / "gone")
    assert list(parent.iterdir()) == []


def test_a_worker_that_outlived_its_folder_goes_on(parent: Path) -> None:
    Common(4, str(parent / "gone")).close()
    assert list(parent.iterdir()) == []
