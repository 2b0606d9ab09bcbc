"""What every test needs: pytester, and an environment in which nobody's own settings can change a result."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["pytester"]

_LIVE = Path(__file__).parent / "live"
_OURS = ("LM_", "LLM_", "LMSTUDIO_", "EVAL_", "GITHUB_")
_PYTESTS = ("PYTEST_ADDOPTS", "PYTEST_XDIST_")

# A slow machine is no bug, and an example that failed is printed in a form that can be pasted.
hypothesis.settings.register_profile("project", deadline=None, print_blob=True)
hypothesis.settings.load_profile("project")


def _named(prefixes: tuple[str, ...]) -> list[str]:
    """Return the environment variables that begin so, without the switches of the tests themselves."""
    return [name for name in os.environ if name.startswith(prefixes) and not name.startswith("LMSTUDIO_TESTS_")]


# The plugin under test is loaded in this run too, and would read a developer's settings before the first fixture.
for _name in _named(_OURS):
    del os.environ[_name]


# A shell that starts this run in the background has SIGINT ignored by all below, also by what the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nobodys_settings() -> Iterator[None]:
    """Run a test as on a fresh machine, and inside a worker as outside, so that a pytest in it decides alike."""
    with pytest.MonkeyPatch.context() as environment:
        for name in _named(_OURS + _PYTESTS):
            environment.delenv(name)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the real server in one worker, so that ``--dist=loadgroup`` starts one server only."""
    for item in items:
        if item.path.is_relative_to(_LIVE):
            item.add_marker(pytest.mark.xdist_group("live"))
