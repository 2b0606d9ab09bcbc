"""Mutation testing: ``python -m tests.mutation [retry gate ...]`` tells which small mistakes no unit test notices.

The mistakes are those of cosmic-ray's operators. No file is changed: each mutant lives in a fork of this process, which
imports it in place of the module. That needs Linux or macOS, and takes some minutes on an idle machine.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import resource
import sys
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "tests" / "unit"
#: Each module with the files of tests that have to notice a mistake in it.
TESTS = {
    "retry": ("engine/retry", "engine/test_retry.py"),
    "gate": ("record/gate", "record/test_gate.py"),
    "key": ("engine/key", "engine/test_key.py"),
    "breaker": ("engine/breaker", "engine/test_breaker*.py"),
    "slots": ("engine/slots", "engine/test_slots.py"),
    "pressure": ("engine/pressure", "engine/test_pressure.py"),
}
#: A mutant that loops ends after so much processor time, one that waits after so much real time.
MOST_CPU_S, MOST_WAIT_S = 10, 30
#: Of the operators that put one arithmetic sign for another, those whose new sign tells no more than + - * / do.
_EXOTIC = re.compile(r"ReplaceBinaryOperator_\w+_(Pow|Mod|FloorDiv|LShift|RShift|BitOr|BitAnd|BitXor)$")
_OPTIONS = ("-x", "-q", "--no-header", "--tb=no", f"--timeout={MOST_WAIT_S}", "--hypothesis-profile=mutation")
_IGNORED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
_PLUGINS = (*_IGNORED, "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin")


class Mutant(NamedTuple):
    """A module with one mistake: where it is, what the line was and is, and the whole source."""

    line: int
    was: str
    became: str
    source: str


class _InPlace(importlib.abc.SourceLoader):
    """Finds and loads one module from a text."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self._path, loader=self) if name == self._name else None

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str) -> bytes:
        return self._source.encode()


class _Behaviour(ast.NodeTransformer):
    """Leaves out what does nothing when the tests run: annotations, and what is for the type checker alone."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Forget which parameters have to be named: mypy looks at every call."""
        args, defaults = (
            [*node.posonlyargs, *node.args, *node.kwonlyargs],
            [*node.defaults, *filter(None, node.kw_defaults)],
        )
        node = ast.arguments([], args, node.vararg, [], [], node.kwarg, defaults)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


def behaviour(source: str) -> str:
    """Return a text that two sources share when they do the same, empty for what is no Python."""
    try:
        return ast.dump(_Behaviour().visit(ast.parse(source)))
    except SyntaxError:
        return ""


def mutants(source: str) -> Iterator[Mutant]:
    """Yield each mistake once, however many operators make it."""
    importlib.import_module("parso")  # or the operators import its parts in a circle
    mutating: Any = importlib.import_module("cosmic_ray.mutating")
    plugins: Any = importlib.import_module("cosmic_ray.plugins")
    seen = {"", behaviour(source)}
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        if _EXOTIC.search(name) or kind.arguments():
            continue
        number = 0
        while (text := mutating.mutate_code(source, kind(), number)) is not None:
            number += 1
            if (does := behaviour(text)) not in seen:
                seen.add(does)
                yield told(source, text)


def told(source: str, text: str) -> Mutant:
    """Return a mutant with the first line in which it differs."""
    pairs = list(zip(source.splitlines(), [*text.splitlines(), ""], strict=False))
    line, (was, became) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return Mutant(line, was.strip(), became.strip(), text)


def passes(module: str, tests: str, source: str) -> bool:
    """Tell whether the tests pass with this source as the module, in a fork that ends with the answer."""
    child = os.fork()
    if not child:
        try:
            _run(module, tests, source)
        finally:
            os._exit(9)
    return os.waitpid(child, 0)[1] == 0


def _run(module: str, tests: str, source: str) -> None:
    """Run the tests, and leave with pytest's exit status."""
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    name = "pytest_lmstudio." + module.replace("/", ".")
    finder: Any = _InPlace(name, ROOT / "pytest_lmstudio" / f"{module}.py", source)
    sys.meta_path.insert(0, finder)
    os._exit(int(pytest.main([*_PLUGINS, *_OPTIONS, *files(tests)])))


def files(tests: str) -> list[str]:
    """Return the paths of test files, in an order that stays."""
    return sorted(map(str, UNIT.glob(tests)))


def survivors(name: str) -> tuple[int, list[Mutant]]:
    """Return how many mutants of a module there are, and those that its tests let pass."""
    module, tests = TESTS[name]
    source = (ROOT / "pytest_lmstudio" / f"{module}.py").read_text(encoding="utf-8")
    if not passes(module, tests, source):
        sys.exit(f"{tests} fails without any mutant: run it with pytest, mend it, and come back")
    count, left = 0, []
    for mutant in mutants(source):
        count += 1
        if passes(module, tests, mutant.source):
            left.append(mutant)
            print(f"{name}.py:{mutant.line}: {mutant.was}  ->  {mutant.became}", flush=True)
    return count, left


def warm(tests: Sequence[str]) -> None:
    """Collect the tests once, so that each fork finds imported what does not depend on the mutant."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        pytest.main([*_PLUGINS, *_OPTIONS, "--collect-only", *chain.from_iterable(map(files, tests))])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytest_lmstudio"]:
        del sys.modules[name]
    for name in [name for name in sys.modules if name.startswith("tests.") and name != __name__]:
        del sys.modules[name]
    gc.freeze()


def main(names: Sequence[str]) -> None:
    """Print each survivor, and the totals of each module."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    hypothesis.settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, max_examples=20, stateful_step_count=40
    )
    warm([tests for _, tests in TESTS.values()])
    for name in names or TESTS:
        count, left = survivors(name)
        print(f"{name}: {count} mutants, {count - len(left)} killed, {len(left)} survived", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
