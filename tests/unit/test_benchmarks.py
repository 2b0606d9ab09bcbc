from __future__ import annotations

from benchmarks.measure import Timing, alone, beside, interleaved
from benchmarks.table import markdown

FIGURES = {"ours": [1.0, 3.0, 8.0], "theirs": [2.0, 2.0, 2.0]}


def test_a_ratio_is_taken_round_by_round_and_judged_by_its_median() -> None:
    row = beside("topic", "call", "s", FIGURES, ("ours", "theirs"), target=1.5)
    assert row.compared == (1.5, 0.5, 4.0)
    assert row.met is True
    assert beside("topic", "call", "s", FIGURES, ("ours", "theirs"), target=1.49).met is False


def test_a_least_is_missed_from_below() -> None:
    assert beside("topic", "call", "s", FIGURES, ("ours", "theirs"), target=1.5, at_least=True).met is True
    assert beside("topic", "call", "s", FIGURES, ("ours", "theirs"), target=1.51, at_least=True).met is False


def test_a_difference_keeps_its_unit() -> None:
    row = beside("topic", "memory", "MB", FIGURES, ("ours", "theirs"), target=0.5, is_difference=True)
    assert row.compared == (1.0, -1.0, 6.0)
    assert row.met is False


def test_a_figure_alone_is_judged_itself() -> None:
    assert alone("topic", "call", "µs", [70.0, 90.0, 79.0], 80.0).met is True
    assert alone("topic", "call", "µs", [70.0, 90.0, 81.0], 80.0).met is False
    assert alone("topic", "call", "µs", [70.0]).met is None


def test_a_peer_that_is_not_installed_is_a_line_and_no_verdict() -> None:
    row = beside("topic", "call", "s", FIGURES, ("ours", "absent"), target=1.0)
    assert (row.ours, row.note, row.met) == (None, "not installed", None)


def test_competitors_take_turns_and_the_first_block_does_not_count() -> None:
    order: list[str] = []

    def taking(name: str) -> Timing:
        order.append(name)
        return Timing(float(len(order)), 0.0)

    runs = {name: lambda _, name=name: taking(name) for name in "ab"}
    assert interleaved(runs, rounds=2, blocks=1) == {
        "a": [Timing(3.0, 0.0), Timing(6.0, 0.0)],
        "b": [Timing(4.0, 0.0), Timing(5.0, 0.0)],
    }
    assert "".join(order) == "baabba"


def test_a_page_says_what_was_missed_and_shows_each_kind_of_row() -> None:
    rows = [
        beside("Calls", "call", "µs", FIGURES, ("ours", "theirs"), target=1.0),
        beside("Calls", "memory", "MB", {"ours": [1234.0], "theirs": [1200.0]}, ("ours", "theirs"), is_difference=True),
        beside("Calls", "call", "µs", FIGURES, ("ours", "absent"), target=1.0),
        alone("Calls", "alone", "µs", [70.0, 60.04], 80.0),
    ]
    page = markdown(
        rows, {"Calls": "How.", "Nothing": "Never."}, {"load_before": 0.5, "versions": {"a": "1", "b": "2"}}
    )
    assert "1 of 2 targets are met; missed: call next to theirs." in page
    assert page.partition("## Calls\n\n")[2].splitlines()[4:8] == [
        "| call | 3.00 µs | theirs | 2.00 µs | 1.50 (0.50 to 4.00) | at most 1 | **no** |",
        "| memory | 1,234 MB | theirs | 1,200 MB | 34.0 MB (34.0 to 34.0 MB) |  |  |",
        "| call | not installed | absent |  |  | at most 1 |  |",
        "| alone | 65.0 µs |  |  | (60.0 to 70.0 µs) | at most 80 µs | yes |",
    ]
    assert page.endswith("- load before: 0.5\n- versions: a 1, b 2\n")
    assert "Nothing" not in page
