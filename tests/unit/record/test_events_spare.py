"""Events that the log of a run does not take go to a spare folder, and come back into one log."""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.record import events as room
from pytest_lmstudio.record.events import EventWriter, read_events
from pytest_lmstudio.record.spare import gather, has_spare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = "could not be written to (No space left on device); the events after that were kept"
GONE = "was deleted or moved while the run wrote to it; its events were kept"


class Disk:
    """Lets every write to one file fail, wholly or after some bytes, while `full` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.full: int | None = None
        self._path = path
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.full is None or not os.path.samestat(os.fstat(fd), self._path.stat()):
            return self._write(fd, data)
        if not self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data[: self.full])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "run" / "events.jsonl"


@pytest.fixture
def spare(tmp_path: Path) -> Path:
    return tmp_path / "spare"


def maker(spare: Path) -> Callable[[], Path]:
    def make() -> Path:
        spare.mkdir(exist_ok=True)
        return spare

    return make


def clock() -> Callable[[], float]:
    """Return a clock that goes on by a millisecond with each look."""
    times = iter(range(1_800_000_000_000, 1_800_000_100_000))
    return lambda: next(times) / 1000


def numbers(log: Path) -> list[int]:
    return [event["n"] for event in read_events(log).events if event["event"] == "a"]


def notes(log: Path) -> list[str]:
    return [event["message"] for event in read_events(log).events if event["event"] == "note"]


@pytest.mark.parametrize("fits", [0, 1, 40], ids=["nothing", "a byte", "half a line"])
def test_from_the_first_event_that_does_not_fit_all_go_elsewhere(
    log: Path, spare: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    now = clock()
    with EventWriter(log, spare=maker(spare), now_s=now) as writer:
        disk = Disk(monkeypatch, log)
        for n in range(6):
            disk.full = fits if n == 3 else None  # there is room again afterwards, and it stays unused
            writer.write("a", n=n)
    assert writer.failed is None
    assert numbers(log) == [0, 1, 2]
    assert notes(spare / "events.jsonl") == [f"{log} {FULL}"]
    assert numbers(spare / "events.jsonl") == [3, 4, 5]
    gather(log, spare, into=log)
    assert (numbers(log), read_events(log).damaged_lines) == ([0, 1, 2, 3, 4, 5], 0)
    assert not has_spare(spare)


def test_a_log_that_cannot_be_opened_is_written_elsewhere(tmp_path: Path, spare: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="ascii")
    log = tmp_path / "run" / "events.jsonl"
    with EventWriter(log, spare=maker(spare)) as writer:
        writer.write("a", n=1)
    assert writer.failed is None
    assert numbers(spare / "events.jsonl") == [1]
    assert len(notes(spare / "events.jsonl")) == 1


def test_an_event_that_fits_nowhere_is_told_as_lost(log: Path, spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventWriter(log, spare=maker(spare)) as writer:
        disk, here = Disk(monkeypatch, log), os.write
        disk.full = 0
        writer.write("a", n=1)
        monkeypatch.setattr(os, "write", Disk(monkeypatch, spare / "events.jsonl").write)
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
        writer.write("a", n=2)
        monkeypatch.setattr(os, "write", here)
    assert writer.failed == f"[Errno {errno.EDQUOT}] quota"
    assert numbers(spare / "events.jsonl") == [1]


def test_a_spare_folder_that_cannot_be_made_leaves_the_first_reason(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise OSError(errno.EACCES, "Permission denied")

    with EventWriter(log, spare=refuse) as writer:
        disk = Disk(monkeypatch, log)
        for n in range(4):
            disk.full = 0 if n == 1 else 20 if n == 2 else None
            writer.write("a", n=n)
    assert writer.failed == "[Errno 28] No space left on device"
    assert numbers(log) == [0, 3]  # and the torn one did not take the next with it
    assert read_events(log).damaged_lines == 1


def test_threads_that_meet_a_full_disk_at_once_lose_nothing(
    log: Path, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventWriter(log, spare=maker(spare)) as writer:
        disk = Disk(monkeypatch, log)

        def write(thread: int) -> None:
            for n in range(50):
                if n == 20:
                    disk.full = 0
                writer.write("a", n=1000 * thread + n)

        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert writer.failed is None
    found = sorted(numbers(log) + numbers(spare / "events.jsonl"))
    assert found == sorted(1000 * thread + n for thread in range(6) for n in range(50))
    assert len(notes(spare / "events.jsonl")) == 1


def test_threads_that_see_the_disk_full_at_the_same_moment_go_on_together(
    log: Path, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventWriter(log, spare=maker(spare)) as writer:
        together, real = threading.Barrier(3), os.write

        def write(fd: int, data: bytes) -> int:
            if os.path.samestat(os.fstat(fd), log.stat()):
                together.wait(timeout=20)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data)

        monkeypatch.setattr(os, "write", write)
        threads = [threading.Thread(target=writer.write, args=("a",), kwargs={"n": n}) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert writer.failed is None
    assert sorted(numbers(spare / "events.jsonl")) == [0, 1, 2]
    assert len(notes(spare / "events.jsonl")) == 1


@pytest.mark.parametrize("how", ["deleted", "folder deleted", "moved", "another in its place"])
def test_a_log_that_is_gone_at_the_end_was_copied_with_the_lines_of_all_who_wrote(
    log: Path, spare: Path, how: str
) -> None:
    now = clock()
    writers = [EventWriter(log, spare=maker(spare), now_s=now) for _ in range(3)]
    for n, writer in enumerate(writers):
        writer.write("a", n=n)
    if how == "moved":
        log.rename(log.with_name("old"))
    else:
        log.unlink()
    if how == "folder deleted":
        log.parent.rmdir()
    if how == "another in its place":
        with EventWriter(log, now_s=now) as newer:
            newer.write("a", n=7)
    for n, writer in enumerate(writers):
        writer.write("a", n=10 + n)
        writer.close()
    assert [writer.failed for writer in writers] == [None] * 3
    log.parent.mkdir(exist_ok=True)
    gather(log, spare, into=log)
    assert numbers(log) == [0, 1, 2, *([7] if how == "another in its place" else []), 10, 11, 12]
    assert set(notes(log)) == {f"{log} {GONE}"}
    assert read_events(log).damaged_lines == 0


def test_a_log_that_is_gone_without_a_spare_folder_is_told(log: Path) -> None:
    def refuse() -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    writer = EventWriter(log, spare=refuse)
    writer.write("a", n=1)
    log.unlink()
    writer.close()
    assert writer.failed == f"{log} is gone ([Errno {errno.EROFS}] Read-only file system)"


def test_a_log_in_its_place_needs_no_copy(log: Path, spare: Path) -> None:
    with EventWriter(log, spare=maker(spare)) as writer:
        writer.write("a", n=1)
    assert not has_spare(spare)


@pytest.mark.parametrize("end", [b"", b"\n", b'{"ts":"2026', b"\xff\x00"])
def test_the_first_line_of_a_writer_does_not_stick_to_a_torn_one(log: Path, end: bytes) -> None:
    log.parent.mkdir()
    log.write_bytes(b'{"ts":"2026-11-22T12:00:00.000Z","event":"a","n":0}\n' + end)
    with EventWriter(log) as writer:
        writer.write("a", n=1)
    first, *torn, last = [line for line in log.read_bytes().split(b"\n") if line]
    assert torn == [end.strip()] * bool(end.strip())
    assert numbers(log) == [0, 1]
    assert first.endswith(b'"n":0}')
    assert last.endswith(b'"n":1}')


def test_several_torn_lines_in_one_are_taken_apart(log: Path, spare: Path) -> None:
    log.parent.mkdir()
    spare.mkdir()
    lines = [f'{{"ts":"2026-11-22T12:00:00.00{n}Z","event":"a","n":{n}}}'.encode() for n in range(4)]
    log.write_bytes(lines[0] + b"\n" + lines[1][:30] + lines[2][:45] + lines[3] + b"\n")
    (spare / "events.jsonl").write_bytes(lines[2] + b"\n" + lines[1] + b"\n")
    gather(log, spare, into=log)
    assert log.read_bytes() == b"\n".join([*lines, b""])


def test_a_torn_line_that_nobody_wrote_again_stays_and_is_counted(log: Path, spare: Path) -> None:
    log.parent.mkdir()
    spare.mkdir()
    (spare / "events.jsonl").write_bytes(b'{"ts":"2026-11-22T12:00:00.002Z","event":"a","n":2}\n')
    log.write_bytes(b'{"ts":"2026-11-22T12:00:00.001Z","event":"a"')
    gather(log, spare, into=log)
    assert (numbers(log), read_events(log).damaged_lines) == ([2], 1)


def test_what_cannot_be_gathered_changes_nothing(log: Path, spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with EventWriter(log) as writer, EventWriter(maker(spare)() / "events.jsonl") as other:
        writer.write("a", n=1)
        other.write("a", n=2)
    monkeypatch.setattr("pytest_lmstudio.record.spare.replace_file", full)
    with pytest.raises(OSError, match="No space"):
        gather(log, spare, into=log)
    assert (numbers(log), numbers(spare / "events.jsonl")) == ([1], [2])


@pytest.mark.parametrize("seed", range(20))
def test_any_spread_of_lines_over_logs_is_put_together_in_order(log: Path, spare: Path, seed: int) -> None:
    dice, now = random.Random(seed), clock()
    maker(spare)()
    names = [log, spare / "events.jsonl", spare / "gone-1-1.jsonl", spare / "gone-1-2.jsonl"]
    writers = [EventWriter(name, now_s=now) for name in names]
    for n in range(60):
        dice.choice(writers).write("a", n=n)
    for writer in writers:
        writer.close()
    for name in names[2:]:  # copies of one log hold the same lines
        with name.open("ab") as copy:
            copy.write(names[1].read_bytes())
    into = dice.choice(names[:2])
    gather(log, spare, into=into)
    assert numbers(into) == list(range(60))
    assert sorted(spare.iterdir()) == ([into] if into != log else [])


def test_a_line_without_end_does_not_fill_the_memory(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LONGEST_LINE", 1000)
    log.parent.mkdir()
    log.write_bytes(b"x" * 2500)
    with EventWriter(log) as writer:
        writer.write("a", n=1, text="y" * 700)
    assert numbers(log) == [1]
    assert read_events(log).damaged_lines == 3


def test_a_log_that_may_not_be_read_is_not_taken_for_an_empty_one(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with EventWriter(log) as writer:
        writer.write("a", n=1)
    monkeypatch.setattr(room, "open_to_read", refuse)
    with pytest.raises(PermissionError):
        read_events(log)


def test_where_both_disks_are_full_the_event_is_told_as_lost(log: Path, spare: Path) -> None:
    with EventWriter(log, spare=maker(spare)) as writer, pytest.MonkeyPatch.context() as disk:
        disk.setattr(os, "write", lambda *_: 5)
        writer.write("a", n=1)
    assert writer.failed == "[Errno 28] No space left on device"


def test_a_line_of_a_megabyte_is_one_event(log: Path) -> None:
    with EventWriter(log) as writer:
        writer.write("a", n=1, text="y" * 1_000_000)
        writer.write("a", n=2)
    assert numbers(log) == [1, 2]
    assert read_events(log).damaged_lines == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_in_place_of_the_log_makes_nobody_wait(log: Path, spare: Path) -> None:
    log.parent.mkdir()
    os.mkfifo(log)
    with EventWriter(log, spare=maker(spare)) as writer:
        writer.write("a", n=1)
    assert writer.failed is None
    assert numbers(spare / "events.jsonl") == [1]


def test_child_processes_do_not_get_the_log(log: Path) -> None:
    with EventWriter(log) as writer:
        assert [os.get_inheritable(fd) for fd in writer._opened] == [False]
