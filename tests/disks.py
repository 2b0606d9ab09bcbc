"""Disks that are small, full or read-only, where the tests may mount one; else the test is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Disk:
    """A disk of its own in memory.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Leave no more room than this, in whole pages of 4096 bytes."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    pass
            except OSError:
                pass
            filler.truncate(max(filler.tell() - leave_bytes, 0))

    def empty(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink()

    def make_read_only(self) -> None:
        """Let nobody write from now on."""
        _mount("-o", "remount,ro", str(self.folder))


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Disk]:
    """Mount a disk on a folder, which is made."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root may mount a disk here")
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount("-t", "tmpfs", "-o", f"size={size}", "none", str(folder)):
        pytest.skip("no disk can be mounted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607  # found like any command


def _mount(*args: str) -> bool:
    try:
        return subprocess.run(["mount", *args], check=False, capture_output=True).returncode == 0  # noqa: S607  # the same
    except FileNotFoundError:
        return False
