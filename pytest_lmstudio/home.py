"""The folder `.lmstudio`: what is kept there between runs, for how long, and where a run goes that it does not take."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pytest_lmstudio.files import read_small, replace_file
from pytest_lmstudio.record.events import EVENTS_LOST, LOG
from pytest_lmstudio.record.liveness import is_held
from pytest_lmstudio.record.spare import gather, has_spare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lmstudio.records import Endpoint

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: Runs kept under ``runs/``.
KEPT_RUNS = 20
#: A run without a report that was written to this recently may be in progress.
_IN_PROGRESS_S = 86_400.0
#: What the name of a run begins with; no other folder is deleted.
_RUN_NAME = re.compile(r"\d{8}-\d{6}-")


class Home:
    """Cache, runs, and the models that were last resolved.

    Args:
        folder: the setting `dir`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.cache = self._folder / "cache"
        self._runs = self._folder / "runs"
        self._models = self._folder / "models.json"

    def run(self, run_id: str) -> Path:
        """Return the folder of a run: here, or its spare folder when it could not be made here."""
        here, spare = self._runs / run_id, spare_folder(run_id)
        return spare if not here.is_dir() and spare.is_dir() else here

    def make_run(self, run_id: str) -> OSError | None:
        """Make the folder of a run, for its owner's eyes, and let the oldest ones go.

        Returns:
            why it had to be made in the spare folder, None when all is well.

        Raises:
            OSError: it cannot be made there either.
        """
        here = self._runs / run_id
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            here.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            make_spare(run_id)
            return error
        # What follows helps, but a run does not depend on it.
        with suppress(OSError):
            prune(self._runs, keep=run_id)
        with suppress(OSError):
            if not (self._folder / ".gitignore").exists():
                replace_file(self._folder / ".gitignore", [b"*\n"])
        with suppress(OSError):
            replace_file(self._runs / "latest", [f"{run_id}\n".encode()])
        return None

    def gather(self, run_id: str, *, here: bool = True) -> Path:
        """Bring all events of a run together, from its folder and its spare one; return the folder that holds them.

        Args:
            run_id: the run.
            here: whether they may be here, if the disk takes them.

        Raises:
            OSError: neither folder takes them.
        """
        own, spare = self._runs / run_id, spare_folder(run_id)
        if here and self.make_run(run_id) is None:  # what it makes may be gone, although the folder is there
            with suppress(OSError):
                gather(own / LOG, spare, into=own / LOG)
                with suppress(OSError):
                    spare.rmdir()
                return own
        gather(own / LOG, spare, into=spare / LOG)
        return spare

    def remembered_model(self, url: str, endpoint: Endpoint) -> str | None:
        """Return the model that was last resolved for a URL, by any run."""
        name = self._known_models().get(url, {}).get(endpoint)
        return name if isinstance(name, str) and name.isprintable() and name else None

    def remember_model(self, url: str, endpoint: Endpoint, model: str) -> None:
        """Keep a model for times when the server cannot be asked; one process at a time."""
        known = self._known_models()
        if known.get(url, {}).get(endpoint) != model:
            known.setdefault(url, {})[endpoint] = model
            with suppress(OSError):
                replace_file(self._models, [json.dumps(known, indent=1, sort_keys=True).encode()])

    def models(self) -> Iterator[tuple[str, Endpoint, str]]:
        """Yield URL, endpoint and model of all that is remembered."""
        from pytest_lmstudio.records import Endpoint  # facts about calls, of which a controller has none

        for url in sorted(self._known_models()):
            for endpoint in get_args(Endpoint):
                model = self.remembered_model(url, endpoint)
                if model is not None:
                    yield url, endpoint, model

    def _known_models(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(read_small(self._models))
        except (OSError, ValueError, RecursionError):
            return {}
        known = known if isinstance(known, dict) else {}
        return {url: names for url, names in known.items() if isinstance(names, dict)}


def new_run_id() -> str:
    """Return a name for a run that no other has; names sort as the runs began."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


class Place:
    """Where one run writes: its folder in `.lmstudio`, or its spare one.

    Args:
        folder: the setting `dir`.
        run_id: the run.
    """

    def __init__(self, folder: str, run_id: str) -> None:
        self._home = Home(folder)
        self._run_id = run_id
        self._settled: Path | None = None

    @property
    def folder(self) -> Path:
        """Return the run's folder as of now."""
        return self._settled or self._home.run(self._run_id)

    def make_spare(self) -> Path:
        """Make the run's spare folder."""
        return make_spare(self._run_id)

    def settle(self, close: Callable[[], object]) -> list[str]:
        """Bring events together that went elsewhere; return what went wrong, a line each.

        Args:
            close: closes the log in this process, if there are such events.
        """
        spare = spare_folder(self._run_id)
        if not has_spare(spare):
            return []
        close()
        try:
            self._settled = self._home.gather(self._run_id, here=self._settled != spare)
        except OSError as error:
            return [f"{EVENTS_LOST}: {error}"]
        return []


def shown(path: Path, base: Path) -> Path:
    """Return a path as it is shown to somebody in a folder."""
    with suppress(ValueError):
        return path.relative_to(base)
    return path


def spare_folder(run_id: str) -> Path:
    """Return where a run goes on when its own folder cannot be written to; every process of the run finds it."""
    import tempfile

    return Path(tempfile.gettempdir(), f"lmstudio-{run_id}")


def make_spare(run_id: str) -> Path:
    """Make the spare folder of a run, for its owner's eyes.

    Raises:
        OSError: it cannot be made, or belongs to somebody else.
    """
    folder = spare_folder(run_id)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:  # by another process of the run
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            raise
    return folder


def prune(runs: Path, *, keep: str) -> None:
    """Delete all but the newest runs; one in progress stays, and so does what is no run."""
    folders = sorted(
        (f for f in runs.iterdir() if _RUN_NAME.match(f.name) and f.is_dir() and not f.is_symlink()),
        key=lambda f: f.name,
    )
    for folder in folders[: -KEPT_RUNS or None]:
        if folder.name != keep and not _in_progress(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _in_progress(folder: Path) -> bool:
    """Tell whether a run may still write here; one that was just begun has no log yet."""
    log = folder / LOG
    try:
        written_s = (log if log.exists() else folder).stat().st_mtime
    except OSError:
        return False
    return is_held(log) or (not (folder / "report.json").exists() and time.time() - written_s < _IN_PROGRESS_S)
