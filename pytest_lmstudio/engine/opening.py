"""Looking a cache over before a run opens it, and what is said when that cannot be done."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_lmstudio.engine.database import LOCK_WAIT_S, TRIES, TROUBLE, ReadOnly
from pytest_lmstudio.engine.generation import next_run
from pytest_lmstudio.engine.vetting import is_closed_to_us, set_aside, vet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: How a cache is used: stored to, read alone, or not at all.
Way = Literal["write", "read", "none"]
#: What SQLite says where locks or common memory do not work, as on network file systems, and elsewhere too.
_SAID_WITHOUT_LOCKS = ("database is locked", "locking protocol", "disk i/o")


class Prepared(NamedTuple):
    """What the first process of a run found out about the cache.

    Attributes:
        number: the run's.
        way: how the cache can be used.
    """

    number: int
    way: Way


def prepare(folder: Path, on_problem: Callable[[str], None]) -> Prepared:
    """Look a cache over before a run uses it, make its folder, and count the run; never raises.

    Args:
        folder: the cache's.
        on_problem: called with one line when something is wrong with it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Prepared(next_run(folder, vet(folder, LOCK_WAIT_S * TRIES)), "write")
    except (*TROUBLE, ValueError, TypeError, KeyError) as error:
        problem = error
    if is_closed_to_us(problem):
        return Prepared(0, way_to_read(folder, problem, on_problem))
    try:
        aside = set_aside(folder)
    except OSError:
        on_problem(unusable(folder, problem))
        return Prepared(0, "none")
    on_problem(f"the cache was damaged ({said(problem)}) and was set aside as {aside}")
    return Prepared(next_run(folder), "write")


def way_to_read(folder: Path, problem: Exception, on_problem: Callable[[str], None]) -> Way:
    """Tell whether a cache that cannot be written to can be read; what is locked by another process is left alone."""
    if "locked" not in str(problem):
        with suppress(*TROUBLE, ValueError, TypeError, KeyError):
            ReadOnly(folder).end()
            why = f"the cache in {folder} cannot be written to ({said(problem)})"
            on_problem(f"{why}: its answers are used, and none is stored")
            return "read"
    on_problem(unusable(folder, problem))
    return "none"


def unusable(folder: Path, problem: Exception) -> str:
    """Return the line for a cache that is not used at all."""
    return f"the cache in {folder} cannot be opened, and nothing is cached: {said(problem)}"


def said(problem: Exception) -> str:
    """Return what went wrong, without what a row holds."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    text = f"{type(problem).__name__}: {problem}".partition(" with text ")[0]
    if isinstance(problem, sqlite3.Error) and any(word in text.lower() for word in _SAID_WITHOUT_LOCKS):
        return f"{text}; if that is a network file system, name a folder on a local disk with --lmstudio-dir"
    return text
