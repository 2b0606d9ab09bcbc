"""How pytest is told of every setting. Loaded in every pytest run, so it is all that a plain suite pays for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.names import FLAGS, TOKEN_VARIABLES, Flag, is_header_safe

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FLAGS", "PROBLEMS", "TOKEN_VARIABLES", "Flag", "add_options", "any_given", "is_header_safe", "is_in_ini"]

#: What collecting found wrong, a line each; told when it is over, so that a worker can let the controller tell it.
PROBLEMS = pytest.StashKey[list[str]]()


#: A native TOML table may hold a number as a number; pytest takes that since 9.2, before it every value is a string.
_INI_TYPE: Any = str | int | float | bool if pytest.version_tuple >= (9, 2) else None


def add_options(parser: pytest.Parser) -> None:
    """Register every setting as a command line option and as an ini value."""
    group = parser.getgroup("lmstudio", "evals against a local model server (pytest-lmstudio)")
    for flag in FLAGS:
        if not flag.metavar:
            undone = f"Turn {flag.option} off"
            group.addoption(flag.option, dest=flag.ini, action="store_const", const="on", help=flag.help)
            group.addoption(flag.negated, dest=flag.ini, action="store_const", const="off", help=undone)
        else:
            group.addoption(flag.option, dest=flag.ini, metavar=flag.metavar, help=flag.help)
        parser.addini(flag.ini, f"{flag.help.replace('%%', '%')} (as {flag.option})", _INI_TYPE, default=None)


def any_given(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether any setting was given, and so must be checked and shown, whatever the suite holds.

    A token is not shown, so it counts only when it is wrong.
    """
    if not all(is_header_safe(environ.get(name, "").strip()) for name in TOKEN_VARIABLES):
        return True
    return any(
        environ.get(flag.env) or config.getoption(flag.ini, None) is not None or is_in_ini(config, flag)
        for flag in FLAGS
    )


def is_in_ini(config: pytest.Config, flag: Flag) -> bool:
    """Tell whether the ini file has a setting, even with a value of a wrong type."""
    try:
        return config.getini(flag.ini) is not None
    except (TypeError, pytest.UsageError):
        return True
