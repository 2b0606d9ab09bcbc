"""How the guards of the house read code: modules, imports, functions; nothing is imported to be looked at."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = "pytest_lmstudio"
When = Literal["load", "types", "call"]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One file: its dotted name (the package's own is ``pytest_lmstudio``), its source and its tree."""

    name: str
    source: str
    tree: ast.Module


class Import(NamedTuple):
    """One imported module, and when: as the importer loads, for type checkers alone, or when a function is called."""

    importer: str
    target: str
    line: int
    when: When


def parse(name: str, source: str) -> Module:
    """Return a module made of text."""
    return Module(name, source, ast.parse(source))


def read_modules(root: Path) -> list[Module]:
    """Return the modules under a folder, named from that folder's own name on."""
    paths = sorted(root.rglob("*.py"))
    return [parse(_dotted(path.relative_to(root.parent)), path.read_text("utf-8")) for path in paths]


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(modules: list[Module]) -> list[Import]:
    """Return every import of the modules; ``from a import b`` is of ``a.b`` where that is one of the modules."""
    known = {module.name for module in modules}
    found = [Import(module.name, *rest) for module in modules for rest in _walk(module.tree.body, "load")]
    return [entry._replace(target=_nearest(entry.target, known)) for entry in found]


def _nearest(target: str, known: set[str]) -> str:
    """Drop the name that follows a module of ours; a foreign name stays whole."""
    parent = target.rpartition(".")[0]
    return parent if target not in known and parent in known else target


def _walk(body: list[ast.stmt], when: When) -> Iterator[tuple[str, int, When]]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno, when) for alias in node.names)
        else:
            for inner in _blocks(node):
                yield from _walk(inner, _moment(node, inner, when))


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    """Return the statement lists of a compound statement."""
    holders = [node, *getattr(node, "handlers", []), *getattr(node, "cases", [])]
    blocks = [getattr(holder, field, []) for holder in holders for field in ("body", "orelse", "finalbody")]
    return [block for block in blocks if block]


def _moment(node: ast.stmt, inner: list[ast.stmt], when: When) -> When:
    if isinstance(node, Function):
        return "call"
    if isinstance(node, ast.If) and inner is node.body and "TYPE_CHECKING" in ast.unparse(node.test):
        return "types"
    return when


def functions(module: Module) -> list[Function]:
    """Return every function and method of a module, inner ones too."""
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


def code_lines(function: Function) -> int:
    """Return the lines of a function from its ``def`` to its end, without its docstring."""
    first = function.body[0]
    text = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if text else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def check_none(complaints: list[str], advice: str) -> None:
    """Fail with every complaint, one a line, and with what to do."""
    if complaints:
        pytest.fail("\n".join([*sorted(set(complaints)), advice]), pytrace=False)
