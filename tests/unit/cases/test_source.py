"""Files of cases: read in order, found again, and one clear line when they are wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.cases.source import BadCases, InPlace, JsonLines, Table, source_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lmstudio.cases.source import Source


def written(folder: Path, name: str, text: str | bytes) -> Source:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return source_of(name, folder)


def scanned(source: Source) -> list[tuple[int, dict[str, Any]]]:
    """Return line and fields of each case, each read again by its place alone."""
    located = list(source.scan())
    assert [source.at(offset) for _, _, offset in located] == [row for row, _, _ in located]
    return [(line, row) for row, line, _ in located]


def problem(source: Source) -> str:
    with pytest.raises(BadCases) as caught:
        list(source.scan())
    return str(caught.value)


def test_a_jsonl_file_has_a_case_a_line_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    text = '\ufeff{"a": 1}\r\n\r\n  {"a": "ü"}  \n\n{"a": [3]}'
    assert scanned(written(tmp_path, "c.jsonl", text)) == [(1, {"a": 1}), (3, {"a": "ü"}), (5, {"a": [3]})]


def test_a_csv_file_names_its_columns_and_a_value_may_hold_lines(tmp_path: Path) -> None:
    text = '\ufefftext , label\n"one, and\ntwo",x\n\n"say ""hi""",y\n'
    assert scanned(written(tmp_path, "c.csv", text)) == [
        (2, {"text": "one, and\ntwo", "label": "x"}),
        (5, {"text": 'say "hi"', "label": "y"}),
    ]


def test_a_list_in_place_counts_from_one_and_gives_copies() -> None:
    rows = [{"a": 1}, {"a": 2}]
    source = InPlace(rows)
    assert scanned(source) == [(1, {"a": 1}), (2, {"a": 2})]
    source.at(0)["a"] = 9
    assert source.at(0) == {"a": 1}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.jsonl", '{"a": 1}\n{"a": }\n', "c.jsonl, line 2: it is no JSON (Expecting value)"),
        ("c.jsonl", "[1]\n", "c.jsonl, line 1: a case must be an object with named fields, this is [1]"),
        ("c.jsonl", b'{"a": "\xff"}', "c.jsonl, line 1: it is not UTF-8"),
        ("c.jsonl", "[" * 100_000, "c.jsonl, line 1: it is no JSON (RecursionError)"),
        ("c.csv", "a,b\n1\n", "c.csv, line 2: it has 1 values, the first line names 2 columns"),
        ("c.csv", "a,a\n1,2\n", "c.csv, line 1: the first line must name each column, each name once"),
        ("c.csv", "a,\n1,2\n", "c.csv, line 1: the first line must name each column, each name once"),
        ("c.csv", b"a\n\xff\n", "c.csv, line 2: it is not UTF-8"),
        ("c.csv", 'a\n"x', "c.csv, line 2: it is no CSV (unexpected end of data)"),
    ],
)
def test_a_case_that_cannot_be_read_is_told_with_file_and_line(
    tmp_path: Path, name: str, text: str | bytes, expected: str
) -> None:
    assert problem(written(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none.jsonl", "none.jsonl: there is no such file in {folder}"),
        ("cases.txt", "cases.txt: expected a file that ends in .jsonl or .csv"),
        ({"a": 1}, "expected a path or a list of dicts, got {{'a': 1}}"),
        (3, "expected a path or a list of dicts, got 3"),
    ],
)
def test_what_is_no_source_is_told(tmp_path: Path, given: object, expected: str) -> None:
    with pytest.raises(BadCases) as caught:
        source_of(given, tmp_path)
    assert str(caught.value) == expected.format(folder=tmp_path)


def test_a_list_of_something_else_is_told() -> None:
    assert problem(InPlace([{"a": 1}, "b"])) == (
        "the list of cases, case 2: a case must be an object with named fields, this is 'b'"
    )


@pytest.mark.parametrize(("name", "text"), [("c.jsonl", '{"a": 1}\n'), ("c.csv", "a,b\n1,2\n")])
def test_a_file_that_changes_under_way_is_told(tmp_path: Path, name: str, text: str) -> None:
    source = written(tmp_path, name, text)
    [located] = source.scan()
    (tmp_path / name).write_text("x")
    with pytest.raises(BadCases, match=rf"^{name} was changed while the tests ran; run them again$"):
        source.at(located.offset)


ROWS = st.lists(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans(), min_size=1), min_size=1)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8)


@given(ROWS)
def test_any_objects_come_back_from_jsonl(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert [row for _, row in scanned(JsonLines(path))] == rows


@given(st.lists(st.tuples(CELLS, CELLS).filter(any), min_size=1))
def test_any_texts_come_back_from_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    quoted = ["{},{}\n".format(*('"' + cell.replace('"', '""') + '"' for cell in row)) for row in rows]
    path.write_text("".join(["a,b\n", *quoted]), encoding="utf-8", newline="")
    assert [tuple(row.values()) for _, row in scanned(Table(path))] == rows
