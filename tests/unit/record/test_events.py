"""The event log keeps every whole line, whoever writes, and survives what is torn."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record.events import Events, EventWriter, iso_of, now_iso, read_events, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, categories=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_an_event_carries_time_name_common_and_own_fields_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "events.jsonl"
    with EventWriter(path, {"run_id": "r", "worker": "gw0"}) as writer:
        writer.write("gen_request", attempt=1, model="é\n")
    (line,) = path.read_text(encoding="ascii").splitlines()
    assert list(json.loads(line)) == ["ts", "event", "run_id", "worker", "attempt", "model"]
    assert line.endswith('"event":"gen_request","run_id":"r","worker":"gw0","attempt":1,"model":"\\u00e9\\n"}')
    assert writer.failed is None


@given(fields=st.dictionaries(st.text().filter(lambda name: name not in {"ts", "event", "self"}), JSON_VALUES))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write("any", **fields)
        writer.write("other")
    first, second = read_events(path).events
    assert {name: value for name, value in first.items() if name not in {"ts", "event"}} == fields
    assert second["event"] == "other"


def test_what_json_does_not_have_is_written_as_null_or_text(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "e") as writer:
        writer.write("odd", a=float("nan"), b=[float("inf")], c={("x",): 1}, d=tmp_path, e=1.5, f="g")
    (event,) = read_events(tmp_path / "e").events
    assert {name: event[name] for name in "abcdef"} == {
        "a": None,
        "b": "<list>",
        "c": "<dict>",
        "d": str(tmp_path),
        "e": 1.5,
        "f": "g",
    }


def test_torn_and_foreign_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = b'{"ts":"2026-11-22T12:00:00.000Z","event":"a","n":%d}'
    path.write_bytes(
        b"\n".join(
            [
                good % 1,
                b"",
                b"not json",
                b"[1]",
                b'{"event":"no time"}',
                b"\xff\x00",
                b"[" * 100_000,
                good % 2,
                good[:20],
            ]
        )
    )
    events, damaged = read_events(path)
    assert [event["n"] for event in events] == [1, 2]
    assert damaged == 6


def test_a_whole_line_behind_a_torn_one_is_found(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"ts":"2026","event":"torn","text":"x{"ts":"2026","event":"whole"}\n', encoding="ascii")
    assert read_events(path) == Events([{"ts": "2026", "event": "whole"}], 1)


def test_a_missing_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none") == Events([], 0)


def test_a_full_disk_is_remembered_and_later_events_still_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write, lines = tmp_path / "events.jsonl", os.write, iter((b"all", b"none", b"half", b"all", b"all"))

    def full(fd: int, data: bytes) -> int:
        how = next(lines)
        if how == b"none":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) // 2] if how == b"half" else data)

    with EventWriter(path) as writer:
        monkeypatch.setattr(os, "write", full)
        for number in range(5):
            writer.write("a", n=number)
        monkeypatch.undo()
    events, damaged = read_events(path)
    assert ([event["n"] for event in events], damaged) == ([0, 3, 4], 1)
    assert writer.failed == "[Errno 28] No space left on device"


def test_a_write_that_came_half_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventWriter(tmp_path / "e") as writer:
        monkeypatch.setattr(os, "write", lambda _, data: len(data) - 1)
        writer.write("a")
        monkeypatch.undo()
    assert writer.failed == "[Errno 28] No space left on device"


def test_a_log_that_cannot_be_opened_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="ascii")
    writer = EventWriter(tmp_path / "file" / "events.jsonl")
    writer.write("a")
    writer.close()
    assert "file" in str(writer.failed)


def test_an_event_after_the_end_is_remembered_as_lost(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    writer.close()
    writer.close()
    writer.write("a")
    assert writer.failed == f"{tmp_path / 'e'} is closed"


@pytest.mark.parametrize("locked", [False, True])
def test_lines_of_many_threads_and_writers_never_mix(tmp_path: Path, locked: bool) -> None:
    path = tmp_path / "events.jsonl"
    writers = [EventWriter(path, {"worker": name}, locked=locked) for name in ("gw0", "gw1")]

    def write(writer: EventWriter, thread: int) -> None:
        for number in range(50):
            writer.write("a", thread=thread, n=number, text="x" * 200)

    threads = [threading.Thread(target=write, args=(w, i)) for i, w in enumerate([*writers, *writers])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, damaged = read_events(path)
    for writer in writers:
        writer.close()
    assert [writer.failed for writer in writers] == [None, None]
    assert damaged == 0
    assert sorted((e["thread"], e["n"]) for e in events) == [(t, n) for t in range(4) for n in range(50)]


def test_times_are_utc_with_milliseconds() -> None:
    assert iso_of(1_795_350_896.7899) == "2026-11-22T12:34:56.789Z"
    assert iso_of(1_795_350_896.0) == "2026-11-22T12:34:56.000Z"
    assert seconds_of("2026-11-22T12:34:56.789Z") == 1_795_350_896.789
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", now_iso())


@pytest.mark.parametrize("ts", [None, 5, "", "yesterday"])
def test_what_is_no_time_has_no_seconds(ts: object) -> None:
    assert seconds_of(ts) is None
