"""Runs that share a cache are numbered, and known as long as they are on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import generation, locks
from pytest_lmstudio.engine.generation import Mark, next_run
from tests.unit.engine.caches import Run, a_run, held, query, suite

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)


def kept(folder: Path) -> str:
    return (folder / "runs.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("left", "number"),
    [("41\n", 42), ("", 1), ("x", 1), ("-3", 1), ("0", 1), ("9" * 30, 1), ("9" * 5000, 1), (str(2**53), 1),
     (str(2**53 - 1), 2**53), ("\N{SUPERSCRIPT TWO}", 1), ("\xff", 1)],
    ids=["number", "empty", "word", "negative", "none", "large", "huge", "too large", "largest", "digit", "no UTF-8"],
)  # fmt: skip
def test_runs_are_numbered_whatever_the_file_holds(tmp_path: Path, left: str, number: int) -> None:
    (tmp_path / "runs.txt").write_text(left, encoding="latin-1" if left == "\xff" else "utf-8")
    assert next_run(tmp_path) == number
    assert kept(tmp_path) == f"{number}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["runs.txt"]


@pytest.mark.parametrize("left", ["", "5\n", "x", None], ids=["empty", "behind", "word", "lost"])
def test_a_number_that_is_lost_goes_on_from_the_entries(tmp_path: Path, left: str | None) -> None:
    (tmp_path / "runs.txt").write_text("1000\n", encoding="ascii")
    for keys in (suite("a", 3), suite("b", 2)):
        with a_run(tmp_path, 5) as run:
            run.ask(keys)
    if left is None:
        (tmp_path / "runs.txt").unlink()
    else:
        (tmp_path / "runs.txt").write_text(left, encoding="ascii")
    for _ in range(2):
        with a_run(tmp_path, 5):
            pass
    with a_run(tmp_path, 5) as run:
        assert run.cache._run == 1005
        run.ask(["new"])
        assert run.evicted == 1
    assert "new" in held(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device"])
def test_what_is_no_file_of_numbers_makes_nobody_wait(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "runs.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with a_run(tmp_path) as run:
        assert run.ask(["a", "a"]) == ["a"]
    assert run.problems == []


def test_a_link_in_place_of_the_number_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "cache"
    folder.mkdir()
    outside.write_text("7\n", encoding="ascii")
    (folder / "runs.txt").symlink_to(outside)
    assert next_run(folder) == 8
    assert outside.read_text(encoding="ascii") == "7\n"
    assert not (folder / "runs.txt").is_symlink()


@pytest.mark.parametrize("tag", [10**18, 2**53 + 1, -5])
def test_a_number_that_is_none_is_no_runs_and_its_entry_goes_first(tmp_path: Path, tag: int) -> None:
    with a_run(tmp_path, 3) as run:
        run.ask(["a", "b", "c"])
    query(tmp_path, "UPDATE Cache SET tag = ? WHERE key = 'b'", tag)
    with a_run(tmp_path, 3) as run:
        assert run.cache._run == 2
        run.ask(["new"])
    assert held(tmp_path) == ["a", "c", "new"]


def test_a_number_that_cannot_be_kept_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generation, "replace_file", full)
    assert [next_run(tmp_path, 4), next_run(tmp_path, 4)] == [5, 5]


def test_what_a_run_that_is_still_on_used_is_not_evicted_by_later_ones(tmp_path: Path) -> None:
    with a_run(tmp_path, 4) as run:
        run.ask(["a", "b", "c", "d"])
    long_one = Run(tmp_path, 4)
    assert long_one.ask(["a", "b"]) == ["a", "b"]  # it will mark them at its end
    for _ in range(4):
        with a_run(tmp_path, 4):
            pass
    with a_run(tmp_path, 4) as later:
        later.ask(["e", "f", "g"])
        assert (later.stored, later.evicted) == (0, 0)
    assert held(tmp_path) == ["a", "b", "c", "d"]
    long_one.cache.close()
    with a_run(tmp_path, 4) as later:
        later.ask(["e", "f", "g"])
        assert (later.stored, later.evicted) == (3, 3)
    assert held(tmp_path) == ["b", "e", "f", "g"]


def test_a_use_in_an_earlier_run_does_not_make_an_entry_older(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.ask(["a"])
    early = Run(tmp_path, 10)
    early.ask(["a"])
    with a_run(tmp_path) as later:
        later.ask(["a"])
    early.cache.close()
    assert query(tmp_path, "SELECT tag FROM Cache") == [(3,)]


def test_marks_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    live = tmp_path / "live"
    mine = Mark(tmp_path, 9)
    dead, other = live / "2-0123456789ab.lock", Mark(tmp_path, 5)
    dead.touch()
    for name in ("x.lock", "3-zz.lock", "readme"):
        (live / name).touch()
    (live / "1-0123456789ab.lock").mkdir()
    (live / "4-0123456789ab.lock").symlink_to(tmp_path / "outside")
    assert mine.oldest_run() == 5
    other.remove()
    assert mine.oldest_run() == 9
    assert not dead.exists()
    mine.remove()
    mine.remove()
    assert sorted(path.name for path in live.iterdir() if not path.name.startswith("try")) == [
        "1-0123456789ab.lock", "3-zz.lock", "4-0123456789ab.lock", "readme", "x.lock",
    ]  # fmt: skip
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("why", ["no folder", "no locks", "always held"])
def test_without_marks_a_run_is_known_by_its_number_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no folder":
        (tmp_path / "live").touch()
    elif why == "always held":
        monkeypatch.setattr(locks.ProcessLock, "try_acquire", lambda _: False)
    else:

        def refuse(path: Path) -> None:
            raise locks.LockError(path, OSError(37, "No locks available"))

        monkeypatch.setattr(locks, "_try_locking", refuse)
    with a_run(tmp_path, 2) as run:
        run.ask(["a", "b"])
    for _ in range(2):
        with a_run(tmp_path, 2):
            pass
    with a_run(tmp_path, 2) as run:
        run.ask(["c"])
        assert run.evicted == 1
    assert run.problems == []
