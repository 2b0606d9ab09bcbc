"""The command line: what can be typed, what it costs, and how it ends when nobody reads it."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import pytest_lmstudio
from pytest_lmstudio.cli import screen
from pytest_lmstudio.cli.command import main
from pytest_lmstudio.report.terminal import Line
from tests.unit.cli.stored import end, start, write_run
from tests.unit.record.logs import goods

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

COMMAND = (sys.executable, "-m", "pytest_lmstudio")
COMMANDS = ("report", "bundle", "doctor", "health", "verify")


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


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)], ids=["all", *COMMANDS])
def test_the_help_explains_the_status(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    out = helped(capsys, *arguments)
    assert "  1  `report` showed a run whose gate failed, or" in out
    assert "mend, `verify` what more time does not cure\n" in out


@pytest.mark.parametrize(
    "arguments", [(), ("reprot",), ("report", "--htm=x"), ("report", "--no"), ("bundle", "a", "b")]
)
def test_wrong_use_is_two(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert "pytest-lmstudio" in capsys.readouterr().err


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pytest-lmstudio {pytest_lmstudio.__version__}\n"


def test_an_interrupt_ends_it_quietly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_lmstudio.cli.report.run", stop)
    assert main(["report"]) == 130
    assert capsys.readouterr() == ("", "")


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
def test_a_reader_who_leaves_is_no_trouble(tmp_path: Path) -> None:
    write_run(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "report", "--dir", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=buffered())
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")


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
