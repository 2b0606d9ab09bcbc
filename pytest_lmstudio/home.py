"""The folder `.lmstudio`: what is kept there between runs, and for how long."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_lmstudio.records import Endpoint

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: Runs kept under ``runs/``.
KEPT_RUNS = 20
#: A run without a report that was written to this recently may be in progress.
_IN_PROGRESS_S = 86_400.0


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
        """Return the folder of a run."""
        return self._runs / run_id

    def make_run(self, run_id: str) -> None:
        """Make the folder of a run, for its owner's eyes, and let the oldest ones go."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = self._folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
        self.run(run_id).mkdir(parents=True, exist_ok=True)
        prune(self._runs, keep=run_id)

    def point_to(self, run_id: str) -> None:
        """Let ``runs/latest`` name a run."""
        _replace(self._runs / "latest", f"{run_id}\n")

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
                _replace(self._models, json.dumps(known, indent=1, sort_keys=True))

    def _known_models(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(self._models.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        known = known if isinstance(known, dict) else {}
        return {url: names for url, names in known.items() if isinstance(names, dict)}


def prune(runs: Path, *, keep: str) -> None:
    """Delete all but the newest runs; one in progress stays."""
    folders = sorted(
        (entry for entry in runs.iterdir() if entry.is_dir() and not entry.is_symlink()), key=lambda f: f.name
    )
    for folder in folders[: -KEPT_RUNS or None]:
        if folder.name != keep and not _in_progress(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _in_progress(folder: Path) -> bool:
    try:
        written_s = (folder / "events.jsonl").stat().st_mtime
    except OSError:
        return False
    return not (folder / "report.json").exists() and time.time() - written_s < _IN_PROGRESS_S


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
