"""The tests keep to their own rules: each one asserts something, looks at what it ran, and no unit test sleeps."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house import Function, Module, check_none, functions, parse, read_modules

TESTS = Path(__file__).parents[1]
MODULES = read_modules(TESTS)
VERDICTS = {"raises", "warns", "fail", "assert_outcomes", "run_state_machine_as_test"}
VERDICT_WORDS = ("check_", "expect_", "fnmatch_lines", "no_fnmatch_line", "re_match_lines", "no_re_match_line")
RUNS = {"runpytest", "runpytest_inprocess", "runpytest_subprocess", "runpython", "runpython_c", "inline_run"}


def called(node: ast.AST) -> str:
    """Return the last name of what a call calls, empty when the node is no call."""
    callee = node.func if isinstance(node, ast.Call) else None
    return callee.attr if isinstance(callee, ast.Attribute) else callee.id if isinstance(callee, ast.Name) else ""


def asserts(function: Function) -> bool:
    return any(
        isinstance(node, ast.Assert) or called(node) in VERDICTS or called(node).startswith(VERDICT_WORDS)
        for node in ast.walk(function)
    )


def is_run(node: ast.AST) -> bool:
    """Tell whether a call runs something and returns its result, as pytester does."""
    receiver = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
    of_pytester = isinstance(receiver, ast.Name) and receiver.id == "pytester"
    return called(node) in RUNS or (of_pytester and called(node) == "run")


def dropped_runs(function: Function) -> list[int]:
    """Return the lines of runs whose result nobody looks at."""
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return [node.lineno for node in ast.walk(function) if isinstance(node, ast.stmt) and _drops(node, read)]


def _drops(node: ast.stmt, read: set[str]) -> bool:
    if isinstance(node, ast.Expr):
        return is_run(node.value)
    kept = node.targets[0] if isinstance(node, ast.Assign) and is_run(node.value) else None
    return isinstance(kept, ast.Name) and kept.id not in read


def sleeps(module: Module) -> list[int]:
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func) in {"time.sleep", "sleep"}]


def cases_of(module: Module) -> list[Function]:
    return [function for function in functions(module) if function.name.startswith("test")]


def test_every_test_asserts_something() -> None:
    empty = [f"{module.name}:{f.lineno} {f.name}" for module in MODULES for f in cases_of(module) if not asserts(f)]
    check_none(empty, "Assert the exact value, or call a helper named check_… or expect_… that does.")


def test_nobody_drops_the_result_of_a_run() -> None:
    dropped = [f"{module.name}:{line}" for module in MODULES for f in functions(module) for line in dropped_runs(f)]
    check_none(dropped, "Look at the result: result.assert_outcomes(…), result.stdout.fnmatch_lines(…), result.ret.")


def test_unit_tests_do_not_sleep() -> None:
    units = [module for module in MODULES if module.name.startswith("tests.unit.")]
    asleep = [f"{module.name}:{line}" for module in units for line in sleeps(module)]
    check_none(asleep, "Use the fake clock, or wait for a condition.")


def test_the_guards_see_what_they_guard_against() -> None:
    module = parse(
        "m",
        "def test_a(pytester):\n    pytester.runpytest('-q')\n    result = pytester.run('x')\n    time.sleep(1)\n"
        "def test_b(pytester):\n    result = pytester.runpytest()\n    result.assert_outcomes(passed=1)\n"
        "def test_c(pytester):\n    pytester.runpytest().stdout.fnmatch_lines(['*'])\n",
    )
    assert [f.name for f in cases_of(module) if not asserts(f)] == ["test_a"]
    assert [line for f in functions(module) for line in dropped_runs(f)] == [2, 3]
    assert sleeps(module) == [4]
