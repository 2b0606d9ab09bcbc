"""The order of tests: those of one model together, and declared cases of one system prompt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

MIXED = """
    import pytest
    a, b = pytest.mark.llm(model="a"), pytest.mark.llm(model="b")
    @a
    def test_a1(lm): pass
    def test_plain1(): pass
    @b
    def test_b1(lm): pass
    @a
    def test_a2(lm): pass
    def test_plain2(): pass
    @b
    def test_b2(lm): pass
"""
IN_ORDER = ["a1", "plain1", "a2", "b1", "plain2", "b2"]
AS_WRITTEN = ["a1", "plain1", "b1", "a2", "plain2", "b2"]
TOLD = "lmstudio: tests of one model and system prompt run together (--lmstudio-order=as-written turns this off)"


def collected(suite: Suite, *args: str) -> list[str]:
    """Return the tests in the order in which they would run, as ``file:name`` where a suite has several files."""
    ran = suite.run("-n0", "--collect-only", "-q", *args)
    ids = [line for line in ran.out.splitlines() if "::" in line]
    names = [line.partition("::")[2].replace("test_", "") for line in ids]
    files = [line.partition(".py::")[0].removeprefix("test_") for line in ids]
    return names if len(set(files)) < 2 else [f"{file}:{name}" for file, name in zip(files, names, strict=True)]


def cases(*systems: str | None) -> str:
    """Return a list of cases, one a system prompt, named by it and by their places."""
    rows = [{"q": f"{n}{system or ''}", **({"system": system} if system else {})} for n, system in enumerate(systems)]
    return json.dumps(rows)


def test_tests_of_one_model_run_together_and_the_others_stay(suite: Suite) -> None:
    suite.write(MIXED)
    assert collected(suite) == IN_ORDER
    ran = suite.run("-n0", "-v")
    assert list(ran.words) == [f"test_{name}" for name in IN_ORDER]
    assert TOLD in ran.out


@pytest.mark.parametrize("how", ["command line", "ini", "environment"])
def test_as_written_leaves_the_order_alone(suite: Suite, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(MIXED)
    if how == "ini":
        suite.pytester.makeini("[pytest]\nlmstudio_order = as-written")
    elif how == "environment":
        monkeypatch.setenv("LMSTUDIO_ORDER", "as-written")
    ran = suite.run("-n0", "-v", *(["--lmstudio-order=as-written"] if how == "command line" else []))
    assert list(ran.words) == [f"test_{name}" for name in AS_WRITTEN]
    assert TOLD not in ran.out


@pytest.mark.parametrize("model", ["a", "c", None])
def test_a_test_that_names_no_model_goes_with_that_of_the_settings(suite: Suite, model: str | None) -> None:
    suite.write("""
        import pytest
        a, b = pytest.mark.llm(model="a"), pytest.mark.llm(model="b")
        @a
        def test_a1(lm): pass
        @b
        def test_b1(lm): pass
        def test_bare1(lm): pass
        @b
        def test_b2(lm): pass
        def test_bare2(lm): pass
    """)
    args = [f"--lmstudio-model={model}"] if model else []
    with_a, alone = ["a1", "bare1", "bare2", "b1", "b2"], ["a1", "b1", "b2", "bare1", "bare2"]
    assert collected(suite, *args) == (with_a if model == "a" else alone)


def test_a_run_of_one_model_keeps_its_order(suite: Suite) -> None:
    suite.write(MIXED.replace('model="b"', 'model="a"'))
    assert collected(suite) == AS_WRITTEN
    assert TOLD not in suite.run("-n0").out


@pytest.mark.parametrize(
    "select",
    [
        ("-k", "not b"),
        ("-m", "not other"),
        ("--deselect", "test_suite.py::test_b1", "--deselect", "test_suite.py::test_b2"),
    ],
)
def test_only_what_is_selected_is_ordered(suite: Suite, select: tuple[str, ...]) -> None:
    """Else the other model's tests would move those that run."""
    suite.pytester.makeini("[pytest]\nmarkers = other")
    suite.write("""
        import pytest
        @pytest.mark.other
        @pytest.mark.llm(model="b")
        def test_b1(lm): pass
        @pytest.mark.llm(model="a")
        def test_a1(lm): pass
        def test_plain(): pass
        @pytest.mark.other
        @pytest.mark.llm(model="b")
        def test_b2(lm): pass
        @pytest.mark.llm(model="a")
        def test_a2(lm): pass
    """)
    assert collected(suite) == ["b1", "b2", "plain", "a1", "a2"]
    assert collected(suite, *select) == ["a1", "plain", "a2"]


def test_files_move_as_a_whole(suite: Suite) -> None:
    suite.write('import pytest\npytestmark = pytest.mark.llm(model="a")\ndef test_x(lm): pass', "test_1")
    suite.write("def test_x(): pass\ndef test_y(): pass", "test_2")
    suite.write('import pytest\npytestmark = pytest.mark.llm(model="b")\ndef test_x(lm): pass', "test_3")
    suite.write(MIXED, "test_4")
    suite.write(
        'import pytest\na = pytest.mark.llm(model="a")\n'
        "def test_w(): pass\n@a\ndef test_x(lm): pass\ndef test_y(): pass\n@a\ndef test_z(lm): pass",
        "test_5",
    )
    assert collected(suite) == [
        "1:x",
        *("2:x", "2:y"),
        *("4:a1", "4:plain1", "4:a2"),
        *("5:w", "5:x", "5:y", "5:z"),
        "3:x",
        *("4:b1", "4:plain2", "4:b2"),
    ]


def test_classes_of_a_file_with_several_models_move_as_a_whole(suite: Suite) -> None:
    suite.write("""
        import pytest
        set_up = []
        @pytest.fixture(scope="class", autouse=True)
        def costly(request): set_up.append(request.node.name)
        a, b = pytest.mark.llm(model="a"), pytest.mark.llm(model="b")
        class TestA:
            @a
            def test_1(self, lm): pass
            def test_2(self): pass
        class TestB:
            @b
            def test_1(self, lm): pass
        class TestC:
            def test_1(self): pass
            @a
            def test_2(self, lm): pass
        def test_set_up(): assert set_up == ["TestA", "TestC", "TestB", "test_set_up"]
    """)
    ran = suite.run("-n0", "-v")
    assert ran.summary == "6 passed"
    assert list(ran.words) == [
        "TestA::test_1", "TestA::test_2", "TestC::test_1", "TestC::test_2", "TestB::test_1", "test_set_up",
    ]  # fmt: skip


def test_a_fixture_of_a_module_is_set_up_once_for_each_model_of_the_file(suite: Suite) -> None:
    source = """
        import pytest
        a, b = pytest.mark.llm(model="a"), pytest.mark.llm(model="b")
        @pytest.fixture(scope="module", autouse=True)
        def costly(request, pytestconfig): pytestconfig.set_up.append(request.node.name)
        @b
        def test_1(lm): pass
        @a
        def test_2(lm): pass
        @b
        def test_3(lm): pass
        @a
        def test_4(lm): pass
        def test_5(pytestconfig): assert len(pytestconfig.set_up) <= 4
    """
    suite.conftest("def pytest_configure(config): config.set_up = []")
    for name in ("test_x", "test_y"):
        suite.write(source, name)
    assert suite.run("-n0").summary == "10 passed"


def test_a_parametrised_fixture_of_a_module_goes_on_working(suite: Suite) -> None:
    """Tests of one system prompt do not leave its parameter: setting it up may cost more than a prefix."""
    suite.write(f"""
        import pytest
        @pytest.fixture(scope="module", params=["small", "large"])
        def index(request): return request.param
        @pytest.mark.llm_cases({cases("S", "T", "S")}, prompt="{{q}}", id="q")
        def test_x(reply, index): pass
        @pytest.mark.llm_cases({cases("T", "S")}, prompt="{{q}}", id="q")
        def test_y(reply, index): pass
    """)
    assert collected(suite) == [
        *("x[small-0S]", "x[small-2S]", "y[small-1S]", "x[small-1T]", "y[small-0T]"),
        *("x[large-0S]", "x[large-2S]", "y[large-1S]", "x[large-1T]", "y[large-0T]"),
    ]


def test_cases_of_one_system_prompt_run_together(suite: Suite) -> None:
    suite.write(f"""
        import pytest
        @pytest.mark.llm_cases({cases("S", "T", None, "S", "T", "U", None)}, prompt="{{q}}", id="q")
        def test_x(reply): pass
        def test_own(lm): pass
        @pytest.mark.llm_cases({cases("T", "S")}, prompt="{{q}}", id="q")
        def test_y(reply): pass
    """)
    assert collected(suite) == [
        *("x[0S]", "x[3S]", "x[2]", "y[1S]", "x[1T]", "x[4T]", "x[6]"),
        *("own", "y[0T]", "x[5U]"),
    ]


def test_wherever_the_system_prompt_is_said(suite: Suite) -> None:
    suite.write("""
        import pytest
        one = [{"q": "q", "who": "S"}]
        @pytest.mark.llm_cases(one, prompt="{q}", system="Be {who}.")
        def test_template(reply): pass
        @pytest.mark.llm_cases(one, prompt="{q}", system="Be T.")
        def test_other(reply): pass
        @pytest.mark.llm_cases(one, prompt=lambda case: 1 / 0, system="Be S.")
        def test_function_of_the_prompt(reply): pass
        @pytest.mark.llm_cases(one, prompt="{q}", system=lambda case: 1 / 0)
        def test_nobody_knows(reply): pass
        @pytest.mark.llm_cases(one, messages=[{"role": "system", "content": "Be {who}."}], system="unused")
        def test_messages(reply): pass
        @pytest.mark.llm(system="Be S.")
        @pytest.mark.llm_cases(one, prompt="{q}")
        def test_marker(reply): pass
    """)
    names = [name.partition("[")[0] for name in collected(suite)]
    assert names == ["template", "function_of_the_prompt", "messages", "nobody_knows", "marker", "other"]


def test_cases_keep_to_their_files_and_classes_but_whole_ones_come_together(suite: Suite) -> None:
    whole = 'import pytest\n@pytest.mark.llm_cases([{"q": "q"}], prompt="{q}", id="q", system="SYSTEM")\n'
    mixed = f'import pytest\n@pytest.mark.llm_cases({cases("S", "T", "S")}, prompt="{{q}}", id="q")\n'
    test = "def test_x(reply): pass"
    for name, source in [("1", "S"), ("2", "T"), ("3", mixed), ("4", "S"), ("5", "T")]:
        suite.write((whole.replace("SYSTEM", source) if len(source) == 1 else source) + test, f"test_{name}")
    assert collected(suite) == ["1:x[q]", "4:x[q]", "3:x[0S]", "3:x[2S]", "3:x[1T]", "2:x[q]", "5:x[q]"]


def test_of_several_models_and_system_prompts_the_model_counts_first(suite: Suite) -> None:
    test = f'@pytest.mark.llm_cases({cases("S", "T", "S")}, prompt="{{q}}", id="q")\ndef test_'
    a, b = ('@pytest.mark.llm(model="a")\n', '@pytest.mark.llm(model="b")\n')
    suite.write(f"import pytest\n{a}{test}x(reply): pass\n{b}{test}y(reply): pass\n{a}{test}z(reply): pass\n")
    assert collected(suite) == [
        *("x[0S]", "x[2S]", "z[0S]", "z[2S]", "x[1T]", "z[1T]"),
        *("y[0S]", "y[2S]", "y[1T]"),
    ]


def test_a_conftest_may_name_models_and_sort_first(suite: Suite) -> None:
    suite.conftest("""
        import pytest
        def pytest_collection_modifyitems(items):
            items.reverse()
            for item in items: item.add_marker(pytest.mark.llm(model=item.name[5]))
    """)
    suite.write("def test_a1(lm): pass\ndef test_b1(lm): pass\ndef test_a2(lm): pass\ndef test_b2(lm): pass")
    assert collected(suite) == ["b2", "b1", "a2", "a1"]


def test_a_wrapper_of_a_conftest_has_the_last_word(suite: Suite) -> None:
    suite.conftest("""
        import pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_collection_modifyitems(items):
            yield
            items.sort(key=lambda item: item.name)
    """)
    suite.write(MIXED)
    assert collected(suite) == ["a1", "a2", "b1", "b2", "plain1", "plain2"]


def test_a_wrong_mark_of_a_conftest_is_told_by_its_test(suite: Suite) -> None:
    suite.conftest("""
        import pytest
        def pytest_collection_modifyitems(items): items[2].add_marker(pytest.mark.llm(modell="a"))
    """)
    suite.write(MIXED)
    ran = suite.run("-n0")
    assert "unknown keyword 'modell'; did you mean 'model'?" in ran.out
    assert ran.summary == "5 passed, 1 error"


@pytest.mark.parametrize("flag", ["--lf", "--ff"])
def test_what_failed_is_run_first_in_its_order(suite: Suite, flag: str) -> None:
    suite.write(MIXED.replace("a2(lm): pass", "a2(lm): assert 0").replace("b1(lm): pass", "b1(lm): assert 0"))
    cached = ("-p", "cacheprovider")
    assert suite.run("-n0", *cached).summary == "2 failed, 4 passed"
    rest = [name for name in IN_ORDER if name not in {"a2", "b1"}]
    assert collected(suite, *cached, flag) == (["a2", "b1", *rest] if flag == "--ff" else ["b1", "a2"])


def test_stepwise_leaves_out_nothing_that_was_not_run(suite: Suite) -> None:
    """It leaves out what stands before the test that failed, in the order that it sees: as written."""
    suite.write(MIXED.replace("def test_a2(lm): pass", "def test_a2(lm): assert 0"))
    stepwise = ("-p", "cacheprovider", "--stepwise", "-n0", "-v")
    assert list(suite.run(*stepwise).words) == [f"test_{name}" for name in AS_WRITTEN[:4]]
    suite.write(MIXED)
    assert list(suite.run(*stepwise).words) == [f"test_{name}" for name in AS_WRITTEN[3:]]


def test_doctests_and_items_of_others_stay(suite: Suite) -> None:
    suite.write(f'"""\n>>> 1\n1\n"""\n{MIXED}'.replace("\n    ", "\n"))
    suite.conftest("""
        import pytest
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".yaml": return Yaml.from_parent(parent, path=file_path)
        class Yaml(pytest.File):
            def collect(self): yield Thing.from_parent(self, name="thing")
        class Thing(pytest.Item):
            def runtest(self): pass
    """)
    (suite.pytester.path / "a.yaml").touch()
    (suite.pytester.path / "z.yaml").touch()
    ran = suite.run("-n0", "-v", "--doctest-modules")
    assert ran.summary == "9 passed"
    assert [name for name in ran.words if not name.endswith(("thing", "test_suite"))] == [f"test_{n}" for n in IN_ORDER]


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadfile", "worksteal", "each", "loadgroup"])
def test_all_workers_agree(suite: Suite, dist: str) -> None:
    suite.write(
        MIXED
        + f"""
    @pytest.mark.llm_cases({cases("S", "T", "S", "T")}, prompt="{{q}}", id="q")
    def test_case(reply): pass
"""
    )
    ran = suite.run("-n2", f"--dist={dist}", "-v", "--lmstudio-model=test-model")
    assert ran.ret == 0, ran.out
    assert len(ran.words) == 10


def test_randomly_shuffles_and_models_stay_together(suite: Suite) -> None:
    pytest.importorskip("pytest_randomly")
    suite.write(MIXED)
    orders = [collected(suite, "-p", "pytest_randomly", f"--randomly-seed={seed}") for seed in range(4)]
    assert {"".join(name[0] for name in names if "plain" not in name) for names in orders} == {"aabb", "bbaa"}
    assert len({tuple(names) for names in orders}) == 4
