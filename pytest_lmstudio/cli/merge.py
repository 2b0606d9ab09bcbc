"""``pytest-lmstudio report --merge``: the shards of one run, read with distrust and made one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.cli import runs
from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lmstudio.cli.runs import StoredRun
    from pytest_lmstudio.record.merge import Shard


def merged(names: Sequence[str], home: Path, *, max_error_rate: float | None = None) -> StoredRun:
    """Return the runs that were named as one.

    Raises:
        Failure: one cannot be read, or they are no shards of one run.
    """
    from pytest_lmstudio.record.merge import CannotMergeError, merge

    shards = [_shard(name, home) for name in names]
    try:
        report, events, calls = merge(shards, max_error_rate=max_error_rate)
    except CannotMergeError as error:
        raise Failure(str(error)) from None
    except runs.MISFIT as error:
        what = printable(error, limit=120) or type(error).__name__
        msg = f"the shards cannot be merged, since a log is damaged ({what}): look at each with `report --rebuild`"
        raise Failure(msg) from None
    from pytest_lmstudio.record.events import Events

    return runs.StoredRun(report, "merged", None, Events(events, 0), calls)


def _shard(name: str, home: Path) -> Shard:
    from pytest_lmstudio.record.merge import Shard

    path = runs.find(name, home)
    folder = path if path.is_dir() else path.parent
    if not (folder / runs.LOG).exists() or (path.is_file() and path.name not in {runs.LOG, runs.REPORT}):
        msg = f"{path} lies without the {runs.LOG} of its run, which the percentiles come from: keep the whole folder"
        raise Failure(msg)
    log, going_on = runs.open_log(folder)
    if going_on:
        msg = f"{path} is still in progress: merge it when it has ended"
        raise Failure(msg)
    return Shard(str(path), log, folder.resolve().name)
