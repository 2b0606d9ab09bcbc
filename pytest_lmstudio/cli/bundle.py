"""``pytest-lmstudio bundle``: the archive for whoever has to look into a run without having been there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.cli import runs, screen
from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    import argparse

HELP = "pack what is known of a run for somebody else"
DESCRIPTION = "Writes escalation.zip into the folder of a run, and prints its path."
EXAMPLES = """\
examples:
  pytest-lmstudio bundle                             of the newest run
  pytest-lmstudio bundle 20261122-123456-1a2b3c4d    of the run with this id

Secrets are masked, and prompts and answers left out; but the end of the
server's log, where it is on this machine, may hold them. The environment
variables in it are those of this shell.

"""
STATUSES = {0: "the archive is written"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="?",
        type=screen.filled,
        default=runs.LATEST,
        help="a run's id or folder, or latest",
    )


def run(chosen: argparse.Namespace) -> int:
    """Write the bundle of a run; return the exit status."""
    path = runs.find(chosen.runs, runs.home_of(chosen.dir))
    stored = runs.load(path)
    if stored.folder is None or not (stored.folder / runs.LOG).exists():
        msg = f"{path} lies without the {runs.LOG} of its run: name the run's folder or id"
        raise Failure(msg)
    written = _write(stored.folder, stored.report)
    screen.say(f"{printable(written)}\n")
    return 0


def _write(folder: Path, report: dict[str, Any]) -> Path:
    from pytest_lmstudio.report.bundle import BUNDLE_NAME, write_bundle

    if (folder / BUNDLE_NAME).is_symlink():
        msg = f"{folder / BUNDLE_NAME} is a link to somewhere else: remove it"
        raise Failure(msg)
    try:
        return write_bundle(folder, report, os.environ, _server_log(report))
    except runs.MISFIT as error:
        raise runs.damaged(folder / runs.REPORT, error) from None
    except OSError as error:
        msg = f"{folder / BUNDLE_NAME} cannot be written: {error.strerror}"
        raise Failure(msg) from None


def _server_log(report: dict[str, Any]) -> str | None:
    """Return the end of LM Studio's log for the run's time, where it is on this machine."""
    from urllib.parse import urlsplit

    from pytest_lmstudio.record.events import seconds_of
    from pytest_lmstudio.server.logs import Span, in_time, lmstudio_log
    from pytest_lmstudio.values import is_loopback

    url, started_s = report["server"]["url"], seconds_of(report["started_at"])
    if started_s is None or not is_loopback(url) or report["server"]["kind"] not in {"lmstudio", None}:
        return None
    port, span = urlsplit(url).port, Span(started_s, started_s + report["duration_s"])
    found = in_time(lambda: lmstudio_log(Path.home(), port, span))
    return found.text if found else None
