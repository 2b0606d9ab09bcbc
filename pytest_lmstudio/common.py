"""The folder on a local disk that the processes of one run have in common: locks, a few numbers, a server's log."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.record import liveness
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from pytest_lmstudio.engine.shared import Shared

_PREFIX = "pytest-lmstudio-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
#: The file that each process of the run holds as long as it lives.
_ALIVE = "alive"
#: A folder as young as this may be one that its run is just taking hold of.
_SETTLED_S = 5.0


class Common:
    """The folder of one run; the controller makes it at the first need of it, and deletes it at the end.

    Args:
        slots: how many requests may be in flight at once.
        received: the folder, in a worker.
    """

    def __init__(self, slots: int, received: str | None) -> None:
        self._slots = slots
        self._folder = received
        self._is_ours = received is None
        self._alive: int | None = None
        self._shared: Shared | None = None
        if received:
            self._hold(received)

    def folder(self) -> str:
        """Return the folder.

        Raises:
            pytest.UsageError: it cannot be made.
        """
        if self._folder is None:
            try:
                self._folder = tempfile.mkdtemp(prefix=_PREFIX)
            except OSError as error:
                msg = f"the folder for temporary files cannot be used ({printable(error)}): set TMPDIR to one with room"
                raise pytest.UsageError(msg) from None
            self._hold(self._folder)
        return self._folder

    def numbers(self, *, make: bool = False) -> Shared | None:
        """Return the controller's view of the numbers, None as long as no process has a use for them.

        Args:
            make: let them be there from now on, if there is a folder.
        """
        if self._shared is None and self._folder and (make or Path(self._folder, "memory").exists()):
            from pytest_lmstudio.engine.shared import Shared

            self._shared = Shared(Path(self._folder), self._slots)
        return self._shared

    @property
    def opened(self) -> Shared | None:
        """Return the numbers if they were asked for before; takes no lock."""
        return self._shared

    def close(self) -> None:
        """Give everything back; the controller also deletes what runs left that were killed."""
        if self._shared is not None:
            self._shared.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        if self._is_ours and self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            sweep(Path(self._folder).parent)

    def _hold(self, folder: str) -> None:
        alive = Path(folder, _ALIVE)
        with suppress(OSError):  # a worker may outlive its controller, and the folder with it
            self._alive = os.open(alive, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            liveness.hold(self._alive)
            if not liveness.is_held(alive):  # no locks here: let nobody take the folder for one that was left
                alive.unlink()


def sweep(parent: Path) -> None:
    """Delete the folders of runs whose processes are all dead; only this user's own, and none in doubt."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and _is_left(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_left(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
        is_ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
        is_settled = time.time() - found.st_mtime > _SETTLED_S
        return is_ours and is_settled and entry.is_dir(follow_symlinks=False) and _is_dead(Path(entry.path, _ALIVE))
    except OSError:
        return False


def _is_dead(alive: Path) -> bool:
    return alive.is_file() and not alive.is_symlink() and not liveness.is_held(alive)
