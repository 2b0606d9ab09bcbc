"""A healthy stand-in server, and a suite that asks it."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import Suite
from tests.standin import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def suite(pytester: pytest.Pytester, server: StandIn) -> Suite:
    return Suite(pytester, server)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own, in which a test can see what is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
