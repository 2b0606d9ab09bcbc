"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lmstudio import values
from pytest_lmstudio.flags import FLAGS, Flag
from pytest_lmstudio.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DEFAULTS = {
    "model": "the one loaded",
    "pipeline_version": "empty",
    "recipe": "none",
    "dir": "`.lmstudio` under rootdir",
    "report": "(in the run's folder)",
    "html": "none",
    "metrics_port": "none",
    "metrics_file": "none",
}


def row(flag: Flag) -> str:
    """Return a setting's row of the settings table."""
    option = f"`{flag.option} {flag.metavar}`" if flag.metavar else f"`{flag.option}`, `{flag.negated}`"
    default = getattr(Settings(), flag.name)
    shown = DEFAULTS.get(flag.name) or f"`{values.shown(flag.name, default)}`"
    return f"| {option} | `{flag.env}` | `{flag.ini}` | {shown} | {flag.help.replace('%%', '%')} |"


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_the_settings_table_has_the_row_of_each_setting(flag: Flag) -> None:
    assert row(flag) in README.splitlines()


def test_the_settings_table_has_no_other_rows() -> None:
    assert sum(line.startswith("| `--") for line in README.splitlines()) == len(FLAGS)


@pytest.mark.parametrize("name", values.RECIPES)
def test_every_recipe_is_explained(name: str) -> None:
    assert f"`{name}` (" in README
