"""Where cases come from: a JSONL or CSV file, read line by line and not kept, or a list in the test's own file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]

_BLOCK_BYTES = 65_536
_DECODER = json.JSONDecoder()


class BadCases(ValueError):
    """Cases that cannot be used; the text says where and why, in one line."""


class Located(NamedTuple):
    """A case, where a reader of the file finds it, and where it can be read again."""

    row: Row
    line: int
    offset: int


class Source(Protocol):
    """Cases in order.

    Attributes:
        name: what an error calls it.
        unit: what an error counts in it.
    """

    name: str
    unit: str

    def scan(self) -> Iterator[Located]:
        """Yield every case.

        Raises:
            BadCases: one cannot be read.
        """
        ...

    def at(self, offset: int) -> Row:
        """Return one case again, as an object of its own.

        Raises:
            BadCases: it is not there any more.
        """
        ...


class InPlace:
    """Cases given as a list of dicts."""

    unit = "case"

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = list(rows)
        self.name = "the list of cases"

    def scan(self) -> Iterator[Located]:
        """Yield every case; its line is its place in the list, from 1."""
        for number, row in enumerate(self._rows):
            yield Located(_checked(row, f"{self.name}, case {number + 1}"), number + 1, number)

    def at(self, offset: int) -> Row:
        """Return one case again."""
        return dict(self._rows[offset])


class _File:
    """The lines of a file from any place on; a block of it is kept, since most look-ups follow the one before.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = 0
        self._block = b""

    def lines(self, offset: int) -> Iterator[bytes]:
        """Yield the lines from a place on, each with its end.

        Raises:
            BadCases: the file cannot be read.
        """
        while line := self.line(offset):
            yield line
            offset += len(line)

    def line(self, offset: int) -> bytes:
        """Return the line at a place with its end, nothing behind the last one.

        Raises:
            BadCases: the file cannot be read.
        """
        start = offset - self._begin
        if not 0 <= start < len(self._block):
            self._read(offset)
            start = 0
        return self._block[start : self._block.find(b"\n", start) + 1 or None]

    def _read(self, offset: int) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                self._block = file.read(_BLOCK_BYTES)
                if not self._block.endswith(b"\n"):
                    self._block += file.readline()
        except OSError as error:
            msg = f"{printable(self._path.name)} cannot be read: {error.strerror}"
            raise BadCases(msg) from None
        self._begin = offset


class JsonLines:
    """A file with one JSON object a line; blank lines are passed over."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        self.name = printable(path.name)

    def scan(self) -> Iterator[Located]:
        """Yield every case."""
        offset = 0
        for number, line in enumerate(self._file.lines(0), 1):
            if text := self._text(line, number):
                yield Located(self._row(text, number), number, offset)
            offset += len(line)

    def at(self, offset: int) -> Row:
        """Return one case again."""
        line = self._file.line(offset)
        try:
            return self._row(self._text(line, 1 if offset == 0 else 0), 0)
        except BadCases:
            raise _changed(self.name) from None

    def _text(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise _bad(self.name, number, "it is not UTF-8") from None

    def _row(self, text: str, number: int) -> Row:
        try:
            row, end = _DECODER.raw_decode(text)  # a third of the time of `json.loads`
            if end < len(text):
                row = json.loads(text)  # says what is wrong behind the object
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise _bad(self.name, number, f"it is no JSON ({problem})") from None
        return row if type(row) is dict else _checked(row, f"{self.name}, line {number}")


class Table:
    """A CSV file whose first line names the columns; every value is a text."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        self.name = printable(path.name)
        self._columns: list[str] = []

    def scan(self) -> Iterator[Located]:
        """Yield every case; its line is the one on which it begins."""
        self._columns = []
        for offset, number, cells in self._records(0):
            if not self._columns:
                self._columns = self._heading(cells)
            elif any(cells):
                yield Located(self._row(cells, number), number, offset)

    def at(self, offset: int) -> Row:
        """Return one case again."""
        try:
            for _, _, cells in self._records(offset):
                return self._row(cells, 0)
        except BadCases:
            pass
        raise _changed(self.name)

    def _records(self, offset: int) -> Iterator[tuple[int, int, list[str]]]:
        """Yield offset, line and cells of each record; one may go over several lines."""
        position, number = offset, 0

        def text() -> Iterator[str]:
            nonlocal position, number
            for line in self._file.lines(offset):
                position, number = position + len(line), number + 1
                try:
                    yield line.decode("utf-8-sig" if offset == 0 and number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise _bad(self.name, number, "it is not UTF-8") from None

        records = csv.reader(text(), strict=True)
        while True:
            began, line = position, number + 1
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                raise _bad(self.name, number, f"it is no CSV ({error})") from None
            yield began, line, cells

    def _heading(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        if not all(names) or len(set(names)) < len(names):
            raise _bad(self.name, 1, "the first line must name each column, each name once")
        return names

    def _row(self, cells: list[str], number: int) -> Row:
        if len(cells) != len(self._columns):
            problem = f"it has {len(cells)} values, the first line names {len(self._columns)} columns"
            raise _bad(self.name, number, problem)
        return dict(zip(self._columns, cells, strict=True))


def source_of(given: object, folder: Path) -> Source:
    """Return the source that a mark names: a path, relative to the test's file, or a list of dicts.

    Raises:
        BadCases: it is neither, or there is no such file.
    """
    if not isinstance(given, str | PathLike):
        if isinstance(given, Mapping | bytes) or not isinstance(given, Iterable):
            msg = f"expected a path or a list of dicts, got {printable(repr(given), limit=60)}"
            raise BadCases(msg)
        return InPlace(given)
    path = folder / given
    shown = printable(str(given), limit=200)
    if path.suffix.lower() not in {".jsonl", ".ndjson", ".csv"}:
        msg = f"{shown}: expected a file that ends in .jsonl or .csv"
        raise BadCases(msg)
    if not path.is_file():
        msg = f"{shown}: there is no such file in {printable(str(folder))}"
        raise BadCases(msg)
    return Table(path) if path.suffix.lower() == ".csv" else JsonLines(path)


def _checked(row: object, where: str) -> Row:
    if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
        msg = f"{where}: a case must be an object with named fields, this is {printable(repr(row), limit=60)}"
        raise BadCases(msg)
    return dict(row)


def _bad(name: str, line: int, problem: str) -> BadCases:
    return BadCases(f"{name}, line {line}: {problem}")


def _changed(name: str) -> BadCases:
    return BadCases(f"{name} was changed while the tests ran; run them again")
