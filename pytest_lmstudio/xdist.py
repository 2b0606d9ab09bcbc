"""Workers: how many, and what travels between them and the controller."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lmstudio.options import Resolved
    from pytest_lmstudio.session import Run

#: Options of pytest and xdist that mean "not in workers", with the value each has when it was not chosen.
_CHOICES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("numprocesses", (None,)),
    ("tx", ([], None)),
    ("dist", ("no", None)),
    ("distload", (False, None)),
    ("usepdb", (False, None)),
    ("trace", (False, None)),
    ("collectonly", (False, None)),
    ("showfixtures", (False, None)),
    ("show_fixtures_per_test", (False, None)),
    ("setuponly", (False, None)),
    ("setupshow", (False, None)),
    ("setupplan", (False, None)),
    ("looponfail", (False, None)),
    ("cacheshow", (None,)),
)
_OUTPUT = "lmstudio_usage_error"
_PROBLEMS = "lmstudio_problems"


def worker_input(config: pytest.Config) -> dict[str, Any] | None:
    """Return what the controller sent this worker; None in a process that is no worker."""
    sent: dict[str, Any] | None = getattr(config, "workerinput", None)
    return sent


def start_workers(config: pytest.Config, resolved: Resolved, environ: Mapping[str, str] = os.environ) -> bool:
    """Let xdist start as many workers as requests may be in flight, if the user asked for that; tell whether it will.

    Never inside a worker: one that maps again starts workers without end.
    """
    if worker_input(config) is not None or environ.get("PYTEST_XDIST_WORKER"):
        return False
    if not resolved.wants_workers or not config.pluginmanager.has_plugin("xdist") or _chosen(config, environ):
        return False
    config.option.numprocesses = resolved.settings.concurrency
    return True


def _chosen(config: pytest.Config, environ: Mapping[str, str]) -> bool:
    """Tell whether the user chose how tests are spread, or something that workers would spoil."""
    if any(config.getoption(name, unset[0]) not in unset for name, unset in _CHOICES):
        return True
    return config.getoption("capture", "fd") == "no" or _dist_given(config, environ)


def _dist_given(config: pytest.Config, environ: Mapping[str, str]) -> bool:
    """Look for ``--dist`` itself, since its default is also a value that can be chosen."""
    try:
        added = [*config.getini("addopts"), *shlex.split(environ.get("PYTEST_ADDOPTS", ""))]
    except ValueError:
        added = []
    return any(str(arg).split("=", 1)[0] == "--dist" for arg in [*added, *config.invocation_params.args])


def for_worker(run: Run) -> dict[str, Any]:
    """Return what a worker must know; plain data, and no secret."""
    return {
        "run_id": run.run_id,
        "clock_offset_s": run.clock.offset_s,
        "started_s": run.started_s,
        "shared_dir": run.common.folder(),
        "settings": run.own_server.settings().as_dict(),
        "fixed_model": run.own_server.model(),
    }


def report_usage_error(config: pytest.Config, items: list[pytest.Item], text: str) -> None:
    """Stop a run for a mistake found while collecting; a worker runs nothing, and lets the controller say it."""
    if worker_input(config) is None:
        raise pytest.UsageError(text)
    items.clear()
    config.workeroutput[_OUTPUT] = text  # type: ignore[attr-defined]  # xdist's


def send_problems(config: pytest.Config, problems: list[str]) -> None:
    """Let the controller show what went wrong in this worker."""
    config.workeroutput[_PROBLEMS] = list(problems)  # type: ignore[attr-defined]  # xdist's


def send_stop(config: pytest.Config, why: str) -> None:
    """Let the controller stop the run, should the worker's exit status not say that it was interrupted.

    When something fails while pytest handles an interrupt, that status is 0, and xdist takes the tests that did not run
    for a fault of its own.
    """
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]  # xdist's
    output["shouldstop"] = output.get("shouldstop") or why


def received_problems(node: Any) -> list[str]:
    """Return what went wrong in a worker, a line each.

    Raises:
        pytest.UsageError: a mistake that the worker found while collecting.
    """
    output = getattr(node, "workeroutput", {})
    if text := output.get(_OUTPUT):
        raise pytest.UsageError(text)
    return list(output.get(_PROBLEMS, ()))
