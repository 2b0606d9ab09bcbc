"""The command line: what can be typed, what it costs, and how it ends when nobody reads it."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_lmstudio
from pytest_lmstudio.cli import screen
from pytest_lmstudio.cli.command import main
from pytest_lmstudio.report.terminal import Line
from tests.unit.cli.stored import end, start, write_run
from tests.unit.record.logs import bads, goods, report_of

if TYPE_CHECKING:
    import argparse

COMMAND = (sys.executable, "-m", "pytest_lmstudio")
COMMANDS = ("report", "bundle", "doctor", "health", "verify")
ACTIONS = tuple(("cache", *action) for action in ((), ("stats",), ("export",), ("import",), ("prune",), ("clear",)))
HELPS = [(), *((name,) for name in COMMANDS), *ACTIONS]


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def buffered() -> dict[str, str]:
    """Return an environment in which output waits in a buffer until the end, as it does by default."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--help"])
    assert done.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_of_the_help_can_be_typed(capsys: pytest.CaptureFixture[str], command: str) -> None:
    examples = re.findall(r"^  pytest-lmstudio (.*?)(?:  .*)?(?: \|.*)?$", helped(capsys, command), re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert shlex.split(example)[0] == command
        with pytest.raises(SystemExit, match="0"):
            main([*shlex.split(example.partition(" | ")[0]), "--help"])


def statuses(text: str) -> dict[int, str]:
    """Return what a help says of each exit status."""
    told = text.partition("\nexit status:\n")[2]
    found = re.findall(r"^  (\d+) +(.*(?:\n {7}\S.*)*)", told, re.MULTILINE)
    return {int(status): " ".join(meaning.split()) for status, meaning in found}


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_the_help_fits_on_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [line for line in helped(capsys, *arguments).splitlines() if len(line) > 80] == []


STATUS_1 = {
    (): "something is not: a gate failed, or a server is not as it should be; see the --help of each command",
    ("report",): "a run was shown whose gate failed; with --fail-on-regression, the second run is worse than the first",
    ("doctor",): "something is to mend, see the line MEND",
    ("health",): "not healthy, see `reason`",
    ("verify",): "generations fail, and more time does not cure it",
}


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_the_help_explains_the_statuses_of_its_own_subcommand(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    told = statuses(helped(capsys, *arguments))
    assert list(told) == [0, *([1] if arguments in STATUS_1 else []), 2, 130]
    assert told.get(1) == STATUS_1.get(arguments)
    assert told[2].startswith("wrong use, ")
    assert told[130] == "interrupted by Ctrl-C"


@pytest.mark.parametrize(
    "arguments", [(), ("reprot",), ("report", "--htm=x"), ("report", "--no"), ("bundle", "a", "b")]
)
def test_wrong_use_is_two(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert "pytest-lmstudio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("report", "--html", ""), "report: argument --html: expected a name, not an empty text"),
        (("report", "--merge", "a", "-o", ""), "report: argument -o/--output: expected a name, not an empty text"),
        (("report", ""), "report: argument RUN: expected a name, not an empty text"),
        (("report", "--dir", ""), "report: argument --dir: expected a name, not an empty text"),
        (("bundle", ""), "bundle: argument RUN: expected a name, not an empty text"),
        (("cache", "export", ""), "cache export: argument PATH: expected a name, not an empty text"),
        (("cache", "import", ""), "cache import: argument PATH: expected a name, not an empty text"),
        (("cache", "stats", "--dir", ""), "cache stats: argument --dir: expected a name, not an empty text"),
        (("verify", "--prompts", ""), "verify: argument --prompts: expected a name, not an empty text"),
        (("health", "--host", ""), "health: argument --host: expected a name, not an empty text"),
        (("report", "--html"), "report: argument --html: expected one argument"),
        (("health", "--serve", "\x1b[2J"), "health: argument --serve: '\\x1b[2J': expected a port from 0 to 65535"),
        (("cache",), "cache: the following arguments are required: ACTION"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_that_names_the_help(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    command = told.partition(":")[0]
    assert capsys.readouterr() == ("", f"pytest-lmstudio {told}; see `pytest-lmstudio {command} --help`\n")


NO_RUN = ("folder", "pipe", "loop", "empty", "binary", "list", "hollow", "later", "gone/x")
NO_PROMPTS = ("folder", "pipe", "loop", "empty", "binary", "gone/x")
READERS = {
    ("report",): NO_RUN, ("report", "--rebuild"): NO_RUN, ("report", "--json"): NO_RUN,
    ("report", "--merge", "run"): NO_RUN, ("report", "--compare", "run"): NO_RUN, ("bundle",): NO_RUN,
    ("cache", "import"): NO_RUN, ("verify", "--prompts"): NO_PROMPTS,
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "place"), [(command, place) for command, places in READERS.items() for place in places]
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    place: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, "run", log=[start(), *goods(2), end()]).rename(tmp_path / "run")
    Path("folder").mkdir()
    os.mkfifo("pipe") if hasattr(os, "mkfifo") else Path("pipe").mkdir()
    with suppress(OSError):  # Windows asks for a privilege
        Path("loop").symlink_to("loop")
    contents = {"empty": b"", "binary": b"\xff\x00" * 9, "list": b"[]"}
    contents |= {"hollow": b'{"schema_version": 1}', "later": b'{"schema_version": 99}'}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    assert main([*command, place]) == 2
    out, err = capsys.readouterr()
    if command[0] == "cache":
        assert out in {"", "0 answers are imported\n"}
    else:
        assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("pytest-lmstudio: ")
    assert "Traceback" not in err


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pytest-lmstudio {pytest_lmstudio.__version__}\n"


def test_an_interrupt_is_told_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_lmstudio.cli.report.run", stop)
    assert main(["report"]) == 130
    assert capsys.readouterr() == ("", "pytest-lmstudio: interrupted\n")


def test_output_of_any_kind_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())
    assert main(["report", "--dir", str(tmp_path)]) == 0
    assert "gate passed" in shown.getvalue()


def test_trouble_with_output_that_is_no_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    write_run(tmp_path)
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["report", "--dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "pytest-lmstudio: the output cannot be written: No space left on device\n"


def test_a_place_that_cannot_be_reached_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret/report.json")

    write_run(tmp_path)
    monkeypatch.setattr("pytest_lmstudio.cli.runs.load", refuse)
    assert main(["report", "--dir", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", "pytest-lmstudio: /secret/report.json cannot be used: Permission denied\n")


def test_showing_a_run_loads_neither_pytest_nor_what_makes_calls(tmp_path: Path) -> None:
    write_run(tmp_path, log=[start(), *goods(2), end()])
    program = (
        "import sys; from pytest_lmstudio.cli.command import main; "
        f"status = [main(['report', '--dir', {str(tmp_path)!r}, *more]) for more in ((), ('--rebuild',))]; "
        "print(status, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    status, _, modules = done.stderr.splitlines()[-1].rpartition("] ")
    assert (status, done.stdout.count("gate passed")) == ("[0, 0", 2)
    heavy = {"pytest", "_pytest", "httpx", "h11", "asyncio", "diskcache", "sqlite3", "jsonschema", "filelock", "xdist"}
    measuring = {"sqlite3"} if "coverage" in modules.split() else set()  # which brings its own
    assert heavy & set(modules.split()) - measuring == set()


@pytest.mark.skipif(sys.platform == "win32", reason="a reader that leaves is told so by POSIX alone")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "in the middle"])
@pytest.mark.parametrize(
    ("arguments", "lost", "status"),
    [
        (("report",), 0, 0),
        (("report",), 40, 1),
        (("report", "--json", "latest", "gone"), 0, 2),
        (("report", "--schema"), 0, 0),
        (("report", "--help"), 0, 0),
        (("--version",), 0, 0),
    ],
    ids=["good", "failed", "one that is not there", "schema", "help", "version"],
)
def test_a_reader_who_leaves_changes_no_status(
    tmp_path: Path, arguments: tuple[str, ...], lost: int, status: int, unbuffered: str
) -> None:
    write_run(tmp_path, report=report_of([*goods(2), *bads(lost)]))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**buffered(), "LMSTUDIO_DIR": str(tmp_path), **({"PYTHONUNBUFFERED": "1"} if unbuffered else {})},
    )
    os.close(writer)
    told = [line for line in done.stderr.splitlines() if "escalation.zip is not there" not in line]
    gone = f"pytest-lmstudio: gone is neither a folder nor a file, nor a run in {tmp_path / 'runs'}"
    assert (done.returncode, [line[: len(gone)] for line in told]) == (status, [gone] if status == 2 else [])


@pytest.mark.skipif(sys.platform == "win32", reason="a reader that leaves is told so by POSIX alone")
def test_a_reader_of_complaints_who_leaves_changes_nothing_either(tmp_path: Path) -> None:
    write_run(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "report", "gone", "latest", "--dir", str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stdout.count("gate passed")) == (2, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")  # noqa: PTH110  # at import
def test_output_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path)
    with open("/dev/full", "w", encoding="ascii") as full:  # noqa: PTH123  # a device
        command = [*COMMAND, "report", "--dir", str(tmp_path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=buffered())
    told = "pytest-lmstudio: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_names_that_the_output_cannot_encode_are_escaped(tmp_path: Path) -> None:
    write_run(tmp_path / "caf\xe9 \u6f22")
    done = subprocess.run(
        [*COMMAND, "report", "--dir", str(tmp_path / "caf\xe9 \u6f22")],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"caf\xe9 \u6f22" in done.stdout


@pytest.mark.parametrize(
    ("columns", "expected"),
    [("", 80), ("100", 100), ("12", 80), ("0", 80), ("-5", 80), ("wide", 80), ("999999999", 500)],
)
def test_the_width_is_a_sane_one(monkeypatch: pytest.MonkeyPatch, columns: str, expected: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "__stdout__", None)  # no terminal to be asked
    assert screen.width() == expected


@pytest.mark.parametrize(
    ("out", "environ", "expected"),
    [
        (Screen(), {"TERM": "xterm"}, True),
        (Screen(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Screen(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Screen(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(out: io.StringIO, environ: dict[str, str], expected: bool) -> None:
    assert screen.wants_colour(out, environ) is expected


def test_colours_are_those_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", shown := Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen.show([Line("bad", {"red": True, "bold": True}), Line("plain"), Line("off", {"red": False})])
    assert shown.getvalue() == "\x1b[31;1mbad\x1b[0m\nplain\noff\n"
