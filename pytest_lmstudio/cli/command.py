"""The command line: what can be typed, and how a run of it ends."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import pytest_lmstudio
from pytest_lmstudio.cli import bundle, cache, doctor, health, report, verify
from pytest_lmstudio.cli.screen import Failure, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATUS = """\
exit status:
  0  done; for `report`: the gate of each run passed, or was not judged
  1  `report` showed a run whose gate failed, or with --fail-on-regression one
     that is worse than the one before; `doctor` or `health` found something to
     mend, `verify` what more time does not cure
  2  wrong use, or something could not be read, shown or written
"""
#: A module a subcommand: its texts, its arguments, and `run`, which returns the exit status.
_COMMANDS = {"report": report, "bundle": bundle, "cache": cache, "doctor": doctor, "health": health, "verify": verify}


class _Version(argparse.Action):
    """Shows the installed version, which is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Show it and exit."""
        sys.stdout.write(f"pytest-lmstudio {pytest_lmstudio.__version__}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 done, 1 a gate failed, 2 what was asked could not be done.

    Args:
        arguments: what was typed, without the command's own name; None takes it from the process.
    """
    chosen = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of tests may hold what the terminal cannot show
    try:
        status: int = chosen.run(chosen)
        sys.stdout.flush()
    except Failure as failure:
        complain(str(failure))
        return 2
    except OSError as error:
        _silence_output()
        if not isinstance(error, BrokenPipeError):
            place = f"{error.filename} cannot be used" if error.filename else "the output cannot be written"
            complain(f"{place}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-lmstudio",
        description="Looks at a model server, and at runs of eval suites that pytest-lmstudio recorded.",
        epilog=_STATUS,
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
            epilog=module.EXAMPLES + _STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _home_option() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("LMSTUDIO_DIR") or ".lmstudio"
    parent.add_argument(
        "--dir",
        metavar="PATH",
        default=default,
        help="folder of the runs, as pytest had it; by default LMSTUDIO_DIR, or else .lmstudio",
    )
    return parent


def _silence_output() -> None:
    """Let nothing be written any more as the interpreter ends, when whoever read the output has gone."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
