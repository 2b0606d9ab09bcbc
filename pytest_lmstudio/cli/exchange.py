"""``pytest-lmstudio cache export`` and ``import``: the cache as lines of text, written here and checked elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio import values
from pytest_lmstudio.cli import screen
from pytest_lmstudio.cli.screen import Failure, complain
from pytest_lmstudio.report.figures import counted
from pytest_lmstudio.settings import Settings
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pytest_lmstudio.engine.archive import Entry, Remembered
    from pytest_lmstudio.engine.upkeep import Added, Row
    from pytest_lmstudio.home import Home

_SHOWN_BAD = 10
_BOM = b"\xef\xbb\xbf"


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind ``cache export``."""
    parser.add_argument("path", metavar="PATH", type=screen.filled, help="the file to write; - is standard output")
    parser.add_argument("--last-run", action="store_true", help="only what the newest run used")
    parser.add_argument("--version", metavar="V", help="only answers of this pipeline version")
    parser.add_argument("--model", metavar="ID", help="only answers of this model")


def export(chosen: argparse.Namespace, home: Home) -> int:
    """Write the answers to a file; return the exit status."""
    from pytest_lmstudio.engine.upkeep import newest_run

    newest = newest_run(home.cache)
    wanted = [
        (_test(row), row.key)
        for row in existing(home)
        if (not chosen.last_run or row.run == newest)
        and chosen.version in {None, asked(row, "pipeline_version")}
        and chosen.model in {None, model(row)}
    ]
    if not wanted:
        msg = f"{home.cache} holds no such answer: nothing is written"
        raise Failure(msg)
    bad: list[str] = []
    _write(chosen.path, (f"{line}\n".encode("ascii") for line in _lines(home, sorted(wanted), bad)))
    done, place = len(wanted) - len(bad), "standard output" if chosen.path == "-" else chosen.path
    complain(f"{counted(done, 'answer')} {are(done)} written to {place}")
    _complain_of(bad)
    return 2 if bad else 0


def import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind ``cache import``."""
    parser.add_argument("path", metavar="PATH", type=screen.filled, help="a file that `cache export` wrote")
    parser.add_argument("--strict", action="store_true", help="import nothing if any line is bad")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    size = Settings().cache_size
    parser.add_argument(
        "--size", metavar="N", help=f"most entries of the cache; by default EVAL_CACHE_SIZE, or else {size}"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def import_(chosen: argparse.Namespace, home: Home) -> int:
    """Take the answers of a file; return the exit status."""
    from pytest_lmstudio.engine.upkeep import Added, DamagedError, add, look_over

    size, lines = _size(chosen.size), _Lines(Path(chosen.path))
    if chosen.strict and lines.check():
        _complain_of(lines.told())
        msg = f"{chosen.path} has bad lines: nothing is imported"
        raise Failure(msg)
    try:
        look_over(home.cache)
    except DamagedError as error:
        complain(str(error))
    home.cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    done: Added = add(home.cache, lines.entries(), size=size, overwrite=chosen.overwrite)
    for found in lines.models:
        if chosen.overwrite or home.remembered_model(found.url, found.endpoint) is None:
            home.remember_model(found.url, found.endpoint, found.model)
    if done == Added(0, 0, 0) and not lines.bad:
        msg = f"{chosen.path} holds no answer"
        raise Failure(msg)
    _tell(chosen, done, lines, size)
    return 2 if lines.bad or done.left_out else 0


def existing(home: Home) -> Iterator[Row]:
    """Yield the entries of a cache that must be there.

    Raises:
        Failure: there is none.
    """
    from pytest_lmstudio.engine.upkeep import look_over, rows

    if not look_over(home.cache):
        msg = f"{home.cache} holds no cache: name the folder that pytest had with --dir"
        raise Failure(msg)
    return rows(home.cache)


def asked(row: Row, name: str) -> Any:
    """Return a part of an entry's question, None where it is not there."""
    question = (row.value or {}).get("asked")
    return question.get(name) if isinstance(question, dict) else None


def model(row: Row) -> Any:
    """Return the model that an entry's question was for, None where it is not told."""
    body = asked(row, "body")
    return body.get("model") if isinstance(body, dict) else None


class _Lines:
    """The lines of an export.

    Attributes:
        models: the remembered models, once all lines were read.
        bad: number and fault of each line that was left out.
    """

    def __init__(self, path: Path) -> None:
        self.models: list[Remembered] = []
        self.bad: list[tuple[int, str]] = []
        self._path = path

    def check(self) -> list[tuple[int, str]]:
        """Return the bad lines."""
        for _ in self.entries():
            pass
        return self.bad

    def entries(self) -> Iterator[Entry]:
        """Yield the answers of the good lines.

        Raises:
            Failure: the file cannot be read.
        """
        from pytest_lmstudio.engine.archive import Entry, Remembered, UnfitError, read_line

        self.models, self.bad = [], []
        for number, line in enumerate(self._raw(), 1):
            try:
                found = read_line(line.decode("utf-8")) if line.strip() else None
            except UnfitError as error:
                self.bad.append((number, str(error)))
            except UnicodeDecodeError:
                self.bad.append((number, "is no UTF-8"))
            else:
                if isinstance(found, Entry):
                    yield found
                elif isinstance(found, Remembered):
                    self.models.append(found)

    def told(self) -> list[str]:
        """Return a line of complaint for each bad one."""
        return [f"{self._path}:{number} {fault}" for number, fault in self.bad]

    def _raw(self) -> Iterator[bytes]:
        """Yield the lines; one that is far too long by its beginning alone."""
        from pytest_lmstudio.engine.vetting import LARGEST_VALUE
        from pytest_lmstudio.files import open_to_read

        try:
            with open_to_read(self._path) as file:
                first = True
                while line := file.readline(LARGEST_VALUE + 1):
                    rest = line
                    while rest and not rest.endswith(b"\n"):
                        rest = file.readline(LARGEST_VALUE)
                    yield line.removeprefix(_BOM) if first else line
                    first = False
        except OSError as error:
            msg = f"{self._path} cannot be read: {error.strerror or error}"
            raise Failure(msg) from None


def _lines(home: Home, wanted: Iterable[tuple[str, str]], bad: list[str]) -> Iterator[str]:
    """Yield the lines of an export; note which entries were left out."""
    from pytest_lmstudio.engine.archive import Entry, Remembered, UnfitError, entry_line, header_line, model_line
    from pytest_lmstudio.engine.upkeep import rows
    from pytest_lmstudio.names import token

    secrets = [found for found in (token(),) if found]
    yield header_line()
    yield from (model_line(Remembered(*found)) for found in home.models())
    for row in rows(home.cache, (key for _, key in wanted)):
        try:
            yield entry_line(Entry(row.key, row.value or {}), secrets)
        except UnfitError as error:
            bad.append(f"an entry of {printable(_test(row), 200) or 'no test'} {error}: it is left out")


def _test(row: Row) -> str:
    return str((row.value or {}).get("nodeid") or "")


def _write(path: str, lines: Iterable[bytes]) -> None:
    from pytest_lmstudio.report.files import write_whole

    if path == "-":
        for line in lines:
            screen.say(line.decode("ascii"))
        return
    try:
        write_whole(path, lines)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}"
        raise Failure(msg) from None


def _size(typed: str | None) -> int:
    name, text = ("--size", typed) if typed is not None else ("EVAL_CACHE_SIZE", os.environ.get("EVAL_CACHE_SIZE"))
    if not text:
        return Settings().cache_size
    try:
        return values.positive(text)
    except ValueError as error:
        msg = f"{name} {values.quoted(text)}: {error}"
        raise Failure(msg) from None


def _tell(chosen: argparse.Namespace, done: Added, lines: _Lines, size: int) -> None:
    if chosen.json:
        bad = [{"line": number, "fault": fault} for number, fault in lines.bad]
        screen.say(json.dumps({**done._asdict(), "bad_lines": bad}, indent=2) + "\n")
    else:
        kept = f", {done.kept:,} {'was' if done.kept == 1 else 'were'} there already" if done.kept else ""
        screen.say(f"{counted(done.stored, 'answer')} {are(done.stored)} imported{kept}\n")
    _complain_of(lines.told())
    if done.left_out:
        entries = counted(size, "entry", "entries")
        complain(f"{counted(done.left_out, 'answer')} did not fit: the cache may hold {entries}, see --size")


def are(count: int) -> str:
    """Return the verb that goes with a count."""
    return "is" if count == 1 else "are"


def _complain_of(bad: list[str]) -> None:
    for line in bad[:_SHOWN_BAD]:
        complain(line)
    if len(bad) > _SHOWN_BAD:
        complain(f"and {len(bad) - _SHOWN_BAD} more")
