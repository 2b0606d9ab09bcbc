"""The house stays as ARCHITECTURE.md draws it: rooms import only rooms below them, and loading the plugin is cheap."""

from __future__ import annotations

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.house import PACKAGE, Import, check_none, code_lines, functions, imports, parse, read_modules

FOLDER = Path(__file__).parents[2] / PACKAGE
MODULES = read_modules(FOLDER)
IMPORTS = imports(MODULES)

_RUN_MODULES = (
    *("announce", "ci", "closing", "common", "endings", "fixtures", "flags", "gathered", "hooks", "interrupt", "live"),
    *("marks", "metrics_server", "options", "outcome", "outlets", "own_server", "session", "texts", "xdist"),
)
ROOM_OF = {
    **dict.fromkeys(("clock", "errors", "files", "keywords", "lazy"), "ground"),
    **dict.fromkeys(("names", "records", "reply", "settings", "text", "values"), "ground"),
    "record": "record",
    "engine": "engine",
    "server": "server",
    **dict.fromkeys(("home", "runtime"), "runtime"),
    "client": "client",
    "report": "report",
    **dict.fromkeys((*_RUN_MODULES, "cases"), "run"),
    **dict.fromkeys(("cli", "__main__"), "cli"),
    "plugin": "plugin",
    "": "front",
}
_ALL_BELOW_RUN = {"ground", "record", "engine", "server", "runtime", "client", "report", "front"}
#: What a room may import besides itself: rooms, or single modules.
MAY_IMPORT: dict[str, set[str]] = {
    "ground": set(),
    "record": {"ground"},
    "engine": {"ground", "record.events"},
    "server": {"ground", "engine"},
    "runtime": {"ground", "record.events", "record.liveness", "record.spare", "engine", "server"},
    "client": {"ground", "engine", "runtime"},
    "report": {"ground", "record"},
    "run": _ALL_BELOW_RUN,
    "cli": _ALL_BELOW_RUN,
    "plugin": _ALL_BELOW_RUN | {"run"},
    "front": _ALL_BELOW_RUN | {"run"},
}
_CASES_MODULES = ("cases.ahead", "cases.asked", "cases.declare", "cases.order")
MAY_IMPORT_PYTEST = {"plugin", *_CASES_MODULES, *_RUN_MODULES} - {"closing", "endings", "interrupt"}
#: The one home of each library: everything else goes through that module.
HOME_OF = {
    "httpx": {"engine.proxied"},
    "h11": {"engine.plain"},
    "diskcache": {"engine.database"},
    "filelock": {"engine.locks", "record.events"},
    "xllamacpp": {"server.embedded"},
    "prometheus_client": {"report.metrics"},
}
HEAVY = {"httpx", "h11", "diskcache", "jsonschema", "asyncio", "filelock", "xllamacpp", "prometheus_client"}
LOADED_WITH_THE_PLUGIN = {
    *(
        "plugin",
        "endings",
        "fixtures",
        "flags",
        "gathered",
        "hooks",
        "live",
        "marks",
        "options",
        "outcome",
        "outlets",
        "own_server",
        "session",
        "texts",
        "xdist",
    ),
    *("settings", "errors", "keywords", "lazy", "names", "records", "text", "values", ""),
}
MOST_LINES_OF_A_FUNCTION = 40
MOST_LINES_OF_A_FILE = 330


def short(name: str) -> str:
    """Return a module's name inside the package, empty for the package itself."""
    return name.removeprefix(PACKAGE).removeprefix(".")


def room(name: str) -> str:
    return ROOM_OF.get(short(name).split(".")[0], "unknown")


def is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def is_of(target: str, library: str) -> bool:
    return target.split(".", maxsplit=1)[0] == library


def where(entry: Import) -> str:
    return f"{entry.importer}:{entry.line} imports {entry.target}"


def is_upward(entry: Import) -> bool:
    known = room(entry.importer) != "unknown" and is_ours(entry.target)
    allowed = MAY_IMPORT.get(room(entry.importer), set()) | {room(entry.importer)}
    return known and room(entry.target) not in allowed and short(entry.target) not in allowed


def cycle(entries: list[Import]) -> list[str]:
    """Return the modules of one cycle of imports that run as modules load, or nothing."""
    graph: dict[str, set[str]] = {}
    for entry in entries:
        if entry.when == "load" and is_ours(entry.target):
            graph.setdefault(entry.importer, set()).add(entry.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def loaded_from(starts: set[str], entries: list[Import]) -> list[Import]:
    """Return the imports that run when these modules are loaded, through whatever they load in turn."""
    found: list[Import] = []
    waiting, seen = list(starts), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        reached = [entry for entry in entries if entry.importer == name and entry.when == "load"]
        found += reached
        ours = [entry.target for entry in reached if is_ours(entry.target)]
        waiting += [parent for target in ours for parent in (target, target.rpartition(".")[0]) if parent]
    return found


def test_every_module_has_a_room() -> None:
    strangers = [module.name for module in MODULES if room(module.name) == "unknown"]
    check_none(strangers, "Put it into a folder that is a room, or name its room in ROOM_OF and in ARCHITECTURE.md.")


def test_rooms_import_only_rooms_below() -> None:
    upward = [where(entry) for entry in IMPORTS if is_upward(entry)]
    check_none(upward, "Move what is needed down to a room below both, or hand it in as an argument from above.")


def test_no_import_cycle_runs_as_modules_load() -> None:
    names = cycle(IMPORTS)
    check_none([" -> ".join(names)] if names else [], "Move what both need into a third module below.")


def test_nobody_imports_the_plugin() -> None:
    users = [where(entry) for entry in IMPORTS if short(entry.target) == "plugin"]
    check_none(users, "Hooks delegate downward: move what is needed out of plugin.py.")


def test_nobody_imports_the_command() -> None:
    users = [where(entry) for entry in IMPORTS if room(entry.target) == "cli" and room(entry.importer) != "cli"]
    check_none(users, "What a run and the command both need lies in a room below both.")


def test_only_the_top_floor_imports_pytest() -> None:
    users = [
        where(entry)
        for entry in IMPORTS
        if is_of(entry.target, "pytest") and short(entry.importer) not in MAY_IMPORT_PYTEST
    ]
    check_none(users, f"Hand plain values down and turn errors into pytest's in one of {sorted(MAY_IMPORT_PYTEST)}.")


def test_private_modules_of_pytest_are_not_imported() -> None:
    users = [where(entry) for entry in IMPORTS if entry.target.split(".")[0] in {"_pytest", "_hypothesis_pytestplugin"}]
    check_none(users, "Use what pytest itself exports, or a hook.")


@pytest.mark.parametrize("library", sorted(HOME_OF))
def test_a_library_is_imported_at_its_home_alone(library: str) -> None:
    users = [entry for entry in IMPORTS if is_of(entry.target, library)]
    strays = [where(entry) for entry in users if short(entry.importer) not in HOME_OF[library]]
    check_none(strays, f"Only {sorted(HOME_OF[library])} may import {library}: call what is there.")


def test_one_module_imports_jsonschema() -> None:
    homes = sorted({entry.importer for entry in IMPORTS if is_of(entry.target, "jsonschema")})
    check_none(homes[1:], f"{homes[:1]} imports jsonschema already: call what is there.")


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    starts = {f"{PACKAGE}.{name}".removesuffix(".") for name in LOADED_WITH_THE_PLUGIN}
    heavy = [where(entry) for entry in loaded_from(starts, IMPORTS) if entry.target.split(".")[0] in HEAVY]
    check_none(heavy, "Import it in the function that needs it, or load the module that does so on first use.")


@pytest.mark.skipif(not (FOLDER / "plugin.py").exists(), reason="there is no plugin.py yet")
def test_a_fresh_interpreter_with_the_plugin_has_loaded_nothing_heavy() -> None:
    program = f"import pytest, sys; old = {{*sys.modules}}; import {PACKAGE}.plugin; print(*({{*sys.modules}} - old))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert f"{PACKAGE}.plugin" in loaded
    check_none(sorted(HEAVY & set(loaded)), f"Find who imports it: python -X importtime -c 'import {PACKAGE}.plugin'")


def test_functions_are_short() -> None:
    lengths = [(module.name, f.name, code_lines(f)) for module in MODULES for f in functions(module)]
    long = [f"{module}.{name}: {lines} lines" for module, name, lines in lengths if lines > MOST_LINES_OF_A_FUNCTION]
    check_none(long, f"Give its parts names: {MOST_LINES_OF_A_FUNCTION} lines without the docstring are the ceiling.")


def test_files_are_short() -> None:
    lengths = [(module.name, len(module.source.splitlines())) for module in MODULES]
    long = [f"{name}: {lines} lines" for name, lines in lengths if lines > MOST_LINES_OF_A_FILE]
    check_none(long, f"Split it by what changes together: {MOST_LINES_OF_A_FILE} lines are the ceiling.")


def test_the_guards_see_what_they_guard_against() -> None:
    low = parse(f"{PACKAGE}.record.stats", f"from {PACKAGE} import plugin\nclass C:\n    import asyncio.events\n")
    plugin = parse(
        f"{PACKAGE}.plugin",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import httpx\n"
        f"else:\n    import {PACKAGE}.record.stats\n"
        "def f():\n    try:\n        pass\n    except OSError:\n        from diskcache import Cache\n",
    )
    front = parse(PACKAGE, "")
    entries = imports([front, low, plugin])
    assert entries == [
        Import(low.name, plugin.name, 1, "load"),
        Import(low.name, "asyncio.events", 3, "load"),
        Import(plugin.name, "typing.TYPE_CHECKING", 1, "load"),
        Import(plugin.name, "httpx", 3, "types"),
        Import(plugin.name, low.name, 5, "load"),
        Import(plugin.name, "diskcache.Cache", 10, "call"),
    ]
    assert [entry.importer for entry in entries if is_upward(entry)] == [low.name]
    assert set(cycle(entries)) == {low.name, plugin.name}
    assert [entry.target for entry in loaded_from({plugin.name}, entries)].count("asyncio.events") == 1
    documented = parse("m", 'def f():\n    """Two\n\n    lines."""\n    return 1\n')
    assert [code_lines(function) for function in functions(documented)] == [2]
