"""``pytest-lmstudio report --compare``: what changed from one run to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.cli import runs, screen
from pytest_lmstudio.cli.screen import complain

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from pytest_lmstudio.record.compare import Side


def run(chosen: argparse.Namespace) -> int:
    """Show two runs side by side; return the exit status."""
    from pytest_lmstudio.record.compare import compare

    home = runs.home_of(chosen.dir)
    before, after = (_side(name, home) for name in chosen.runs)
    found = compare(before, after)
    if chosen.json:
        import json

        from pytest_lmstudio.report.files import plain

        screen.say(json.dumps(plain(found.as_dict()), ensure_ascii=True, allow_nan=False, indent=2) + "\n")
    else:
        from pytest_lmstudio.report.comparison import lines

        shown = list(lines(found, width=screen.width()))
        screen.show([screen.title("LM Studio"), *shown])
    return int(chosen.fail_on_regression and bool(found.regressions))


def _side(name: str, home: Path) -> Side:
    """Return what of a run is compared, with a word on what is not known of it."""
    from pytest_lmstudio.record.compare import measured

    path = runs.find(name, home)
    stored = runs.load(path)
    try:
        side = measured(stored.report, stored.events)
    except runs.MISFIT as error:
        raise runs.damaged(path / runs.REPORT if path.is_dir() else path, error) from None
    if stored.origin == "going on":
        complain(f"{path} is still in progress: it is compared as of now")
    elif not stored.events:
        complain(f"{path} lies without its {runs.LOG}: times have no intervals, and tests are not compared")
    return side
