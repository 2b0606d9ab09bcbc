"""What is new in a log that others are writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.record import tail as room
from pytest_lmstudio.record.events import EventWriter
from pytest_lmstudio.record.tail import Tail

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def numbers(tail: Tail) -> list[object]:
    return [event["n"] for event in tail.new()]


def line(n: int, name: str = "wanted") -> bytes:
    return b'{"ts":"2026-11-22T12:34:56.789Z","event":"%b","n":%d}\n' % (name.encode(), n)


def test_each_event_comes_once_and_others_not_at_all(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "runs" / "log", {"wanted"})
    assert numbers(tail) == []
    with EventWriter(tail.path, {"worker": "gw0"}) as one, EventWriter(tail.path, {"worker": "gw1"}) as two:
        one.write("wanted", n=1)
        two.write("other", n=2, said='"event":"wanted"')
        two.write("wanted", n=3)
        assert (numbers(tail), numbers(tail)) == ([1, 3], [])
        one.write("wanted", n=4)
        assert (numbers(tail), numbers(tail)) == ([4], [])


def test_a_line_that_is_not_whole_yet_is_waited_for(tmp_path: Path) -> None:
    tail, whole = Tail(tmp_path / "log", {"wanted"}), line(1)
    with tail.path.open("ab", buffering=0) as log:
        for byte in whole[:-1]:
            log.write(bytes([byte]))
            assert numbers(tail) == []
        log.write(whole[-1:])
    assert numbers(tail) == [1]


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log", {"wanted"})
    tail.path.write_bytes(
        line(1)[:-9] + b"\n\n" + line(2) + b'["event":"wanted"]\n\xff\xfe\n' + b'["event", {"event":"wanted"}]\n'
        b'{"event":"wanted\n' + b'{"event":"wanted","event":5}\n' + b'{"x":' + b"[" * 100_000 + b"\n" + line(3)
    )
    assert numbers(tail) == [2, 3]


def test_a_log_that_grows_fast_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_BYTES", 100)
    tail = Tail(tmp_path / "log", {"wanted"})
    tail.path.write_bytes(b"".join(line(n) for n in range(10)))
    pieces = [numbers(tail) for _ in range(20)]
    assert [n for piece in pieces for n in piece] == list(range(10))
    assert max(map(len, pieces)) <= 2


def test_a_log_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert Tail(tmp_path, {"wanted"}).new() == []
    assert Tail(tmp_path / ("a" * 5000), {"wanted"}).new() == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=30), st.data())
def test_however_a_log_is_cut_all_comes_in_order(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[bool, int]], data: st.DataObject
) -> None:
    tail = Tail(tmp_path_factory.mktemp("tail") / "log", {"wanted"})
    whole = b"".join(line(n, "wanted" if wanted else "other") for wanted, n in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    found: list[object] = []
    with tail.path.open("ab", buffering=0) as log:
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            log.write(whole[start:end])
            found += numbers(tail)
    assert found == [n for wanted, n in events if wanted]
