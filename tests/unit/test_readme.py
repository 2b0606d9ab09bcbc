"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lmstudio import values
from pytest_lmstudio.options import OPTIONS, Option
from pytest_lmstudio.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DEFAULTS = {
    "model": "the one loaded",
    "pipeline_version": "empty",
    "recipe": "none",
    "dir": "`.lmstudio` under rootdir",
    "report": "(in the run's folder)",
    "html": "none",
}


def row(option: Option) -> str:
    """Return an option's row of the settings table."""
    flag = f"`{option.flag} {option.metavar}`" if option.metavar else "`--lmstudio-stream`, `--no-lmstudio-stream`"
    default = getattr(Settings(), option.name)
    shown = DEFAULTS.get(option.name) or f"`{values.shown(option.name, default)}`"
    return f"| {flag} | `{option.env}` | `{option.ini}` | {shown} | {option.help.replace('%%', '%')} |"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_settings_table_has_the_row_of_each_option(option: Option) -> None:
    assert row(option) in README.splitlines()


def test_the_settings_table_has_no_other_rows() -> None:
    assert sum(line.startswith("| `--") for line in README.splitlines()) == len(OPTIONS)


@pytest.mark.parametrize("name", values.RECIPES)
def test_every_recipe_is_explained(name: str) -> None:
    assert f"`{name}` (" in README
