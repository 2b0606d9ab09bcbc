"""The command line: what can be typed, and how a run of it ends."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest_lmstudio
from pytest_lmstudio.cli import bundle, cache, doctor, health, report, screen, verify
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATUSES = {
    0: "done, and all is well",
    1: "something is not: a gate failed, or a server is not as it should be; see the --help of each command",
}
_INTERRUPTED = 130
#: A module a subcommand: its texts, its arguments, and `run`, which returns the exit status.
_COMMANDS = {"report": report, "bundle": bundle, "cache": cache, "doctor": doctor, "health": health, "verify": verify}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; of its subcommands too."""

    def error(self, message: str) -> NoReturn:
        """Say it and exit."""
        screen.note(f"{self.prog}: {printable(message)}; see `{self.prog} --help`")
        self.exit(2)


class _Version(argparse.Action):
    """Shows the installed version, which is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Show it and exit."""
        screen.say(f"pytest-lmstudio {pytest_lmstudio.__version__}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status, see its help: 0 all is well, 1 it is not, 2 it cannot be done.

    Args:
        arguments: what was typed, without the command's own name; None takes it from the process.
    """
    try:
        return _run(arguments)
    except screen.Failure as failure:
        screen.complain(str(failure))
    except OSError as error:
        screen.silence(sys.stdout)
        place = f"{error.filename} cannot be used" if error.filename else "the output cannot be written"
        screen.complain(f"{place}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        screen.complain(" ".join(["interrupted", *map(str, stop.args)]))
        return _INTERRUPTED
    return 2


def _run(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of tests may hold what the terminal cannot show
    try:
        chosen = _parser().parse_args(arguments)
        return int(chosen.run(chosen))
    finally:
        screen.flush()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pytest-lmstudio",
        description="Looks at a model server, and at runs that pytest-lmstudio recorded.",
        epilog=screen.statuses(_STATUSES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            parents=[_home_option()],
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES + screen.statuses(module.STATUSES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _home_option() -> _Parser:
    parent = _Parser(add_help=False)
    default = os.environ.get("LMSTUDIO_DIR") or ".lmstudio"
    parent.add_argument(
        "--dir",
        metavar="PATH",
        default=default,
        type=screen.filled,
        help="folder of the runs, as pytest had it; by default LMSTUDIO_DIR, or else .lmstudio",
    )
    return parent
