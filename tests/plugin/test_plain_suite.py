"""A suite without LM tests does not notice the plugin; one with both kinds can tell them apart."""

from __future__ import annotations

import os

import pytest

from tests.plugin.inner import header_of, run

#: Plugins of others that import what ours may not.
ALONE = (
    "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:randomly", "-p", "no:timeout",
    "-p", "no:pytest_cov", "-p", "no:rerunfailures", "--color=no",
)  # fmt: skip
HEAVY = ("asyncio", "diskcache", "filelock", "httpx", "jsonschema", "pytest_lmstudio.runtime")
TELLS_IMPORTS = f"""
    import pathlib, sys

    def pytest_unconfigure(config):
        worker = getattr(config, "workerinput", {{}}).get("workerid", "main")
        found = [name for name in {HEAVY} if name in sys.modules]
        pathlib.Path("imports-" + worker).write_text(" ".join(found))
"""
PLAIN = """
    import unittest
    import pytest

    @pytest.fixture(scope="session")
    def resource(request):
        yield 1

    @pytest.fixture
    def case():
        return 1

    @pytest.mark.parametrize("n", range(3))
    def test_passes(n, resource, case):
        pass

    def test_fails():
        assert 1 == 2

    @pytest.mark.skip
    def test_skipped():
        pass

    @pytest.mark.xfail
    def test_expected():
        assert 0

    class TestCase(unittest.TestCase):
        def test_method(self):
            pass
"""


@pytest.mark.parametrize(
    ("args", "processes"), [(("-n0",), {"main"}), (("-n2",), {"main", "gw0", "gw1"}), (("-p", "no:xdist"), {"main"})]
)
def test_nothing_is_imported_shown_or_written(
    args: tuple[str, ...], processes: set[str], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(TELLS_IMPORTS)
    pytester.makepyfile(test_plain=PLAIN)
    result = pytester.runpytest_subprocess(*ALONE, *args)
    result.assert_outcomes(passed=4, failed=1, skipped=1, xfailed=1)
    imports = {path.name.removeprefix("imports-"): path.read_text("utf-8") for path in pytester.path.glob("imports-*")}
    assert imports == dict.fromkeys(processes, "")
    assert not [line for line in result.outlines if "lm studio" in line.lower() or line.startswith("lmstudio")]
    assert result.stderr.str() == ""
    assert not (pytester.path / ".lmstudio").exists()


REWRITTEN = """
    import sys

    def pytest_unconfigure(config):
        loaders = {
            name: type(module.__spec__.loader).__name__
            for name, module in sys.modules.items()
            if name.startswith("pytest_lmstudio.") and name != "pytest_lmstudio.plugin"
        }
        assert "pytest_lmstudio.flags" in loaders
        assert set(loaders.values()) == {"SourceFileLoader"}, loaders
        print("loaded as installed")
"""


@pytest.mark.parametrize("test", ["def test_plain(): pass", "def test_asks(lm): pass"], ids=["plain", "lm"])
def test_pytest_compiles_no_module_anew(test: str, pytester: pytest.Pytester) -> None:
    """It does that for the asserts of a plugin's modules, in every process where it cannot keep what it made."""
    pytester.makeconftest(REWRITTEN)
    pytester.makepyfile(test)
    result = pytester.runpytest_subprocess("-s", *ALONE, "-n0")
    assert result.ret == 0
    assert "loaded as installed" in result.outlines


@pytest.mark.parametrize("args", [("-n0",), ("-n2",)], ids=" ".join)
def test_settings_alone_write_nothing_and_ask_nobody(
    args: tuple[str, ...], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("EVAL_PIPELINE_VERSION", "v1")
    pytester.makeconftest(TELLS_IMPORTS)
    pytester.makepyfile(test_plain=PLAIN)
    result = pytester.runpytest_subprocess(*ALONE, *args)
    result.assert_outcomes(passed=4, failed=1, skipped=1, xfailed=1)
    assert header_of(result) == [
        "lmstudio: url=http://127.0.0.1:9 (LMSTUDIO_URL), pipeline_version=v1 (EVAL_PIPELINE_VERSION)"
    ]
    assert {path.read_text("utf-8") for path in pytester.path.glob("imports-*")} == {""}
    assert not any("LM Studio" in line for line in result.outlines)
    assert not (pytester.path / ".lmstudio").exists()


def test_an_lm_test_that_makes_no_call_leaves_no_section_and_no_folder(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_idle(lm): pass")
    result = run(pytester)
    result.assert_outcomes(passed=1)
    assert not any("LM Studio" in line for line in result.outlines)
    assert not (pytester.path / ".lmstudio").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--lmstudio-html=page.html", "--lmstudio-report=out/r.json"), ["out/r.json", "page.html"]),
        (("--lmstudio-html=page.html", "-n2"), ["page.html"]),
        (("--lmstudio-html=page.html", "--collect-only"), []),
        (("-o", "lmstudio_html=page.html"), []),
    ],
    ids=["both", "workers", "collect only", "ini"],
)
def test_a_page_asked_for_in_vain_is_told(args: tuple[str, ...], told: list[str], pytester: pytest.Pytester) -> None:
    """What the command line asks for would be looked for; a setting of the project holds for runs without calls too."""
    (pytester.path / "out").mkdir()
    pytester.makepyfile("def test_plain(): pass")
    result = run(pytester, *args)
    assert result.ret == 0
    said = [line for line in result.outlines if line.startswith("no call was made: ")]
    assert said == [f"no call was made: {name} is not written" for name in map(os.path.normpath, told)]
    assert [line for line in result.outlines if "LM Studio" in line] == (
        [" LM Studio ".center(80, "=")] if told else []
    )


MIXED = """
    import pytest

    @pytest.fixture
    def answer(lm):
        return lm

    @pytest.fixture
    def shared(lm_session):
        return lm_session

    @pytest.mark.usefixtures("lm")
    class TestOfClass:
        def test_llm_by_class(self): pass

    def test_llm_direct(lm): pass
    def test_llm_async(alm): pass
    def test_llm_indirect(answer): pass
    def test_llm_by_name(request, lm): pass
    @pytest.mark.llm
    def test_llm_by_hand(): pass
    @pytest.mark.llm(timeout=3)
    def test_llm_with_options(lm): pass

    def test_plain(): pass
    def test_plain_session(shared): pass
    def test_plain_param(request): pass
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize(
    ("expression", "passed", "deselected"), [("llm", 7, 3), ("not llm", 3, 7), ("llm or not llm", 10, 0)]
)
def test_lm_tests_are_marked_and_can_be_selected(
    expression: str, passed: int, deselected: int, workers: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(MIXED)
    result = run(pytester, workers, "-m", expression, "--strict-markers", "-v")
    # xdist does not count what its workers deselect.
    result.assert_outcomes(passed=passed, deselected=deselected if workers == "-n0" else 0)
    shown = {"llm": ["test_llm"], "not llm": ["test_plain"]}.get(expression, ["test_llm", "test_plain"])
    names = {line.partition("::")[2].replace("TestOfClass::", "") for line in result.outlines if "PASSED" in line}
    if workers == "-n0":
        assert {name[: len(shown[0])] for name in names} <= {*shown, "test_plain"[: len(shown[0])]}
        assert all(name.startswith(tuple(shown)) for name in names)


def test_selecting_the_other_tests_needs_no_server_and_no_correct_model(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_asks(lm):\n    lm('hello')\ndef test_plain():\n    pass\n")
    result = run(pytester, "--lmstudio-url=http://127.0.0.1:9", "-n0", "-m", "not llm")
    result.assert_outcomes(passed=1, deselected=1)
    assert not (pytester.path / ".lmstudio").exists()


def test_markers_shows_the_marker_with_its_keywords(pytester: pytest.Pytester) -> None:
    lines = run(pytester, "--markers").outlines
    assert [line for line in lines if line.startswith("@pytest.mark.llm(")] == [
        (
            "@pytest.mark.llm(timeout=..., first_token_timeout=..., inter_token_timeout=..., retries=..., backoff=..., "
            "model=..., cache=..., stream=..., max_tokens=..., temperature=..., seed=..., system=...): how the calls "
            "of this test go (times in seconds); tests that use lm, alm or reply have this mark by themselves"
        )
    ]


@pytest.mark.parametrize(
    ("variable", "value"), [("LLM_MAX_RETRIES", "many"), ("LMSTUDIO_URL", "x"), ("LM_API_TOKEN", "a\nb")]
)
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["", "-n2"])
def test_help_shows_every_option_even_with_a_wrong_environment(
    variable: str,
    value: str,
    workers: tuple[str, ...],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    result = run(pytester, "--help", *workers)
    assert result.ret == pytest.ExitCode.OK
    text = result.stdout.str()
    names = (
        "url model timeout retries backoff retry-strategy concurrency latency-threshold breaker cache cache-size "
        "pipeline-version max-error-rate on-error stream order recipe wait dir report "
        "html html-texts metrics-port metrics-file"
    )
    assert [name for name in names.split() if f"  --lmstudio-{name}" not in text] == []
    assert [name for name in names.split() if f"  lmstudio_{name.replace('-', '_')} " not in text] == []
    assert "  --no-lmstudio-stream" in text
    assert "  --no-lmstudio-html-texts" in text


def test_fixtures_lists_ours_with_a_line_each(pytester: pytest.Pytester) -> None:
    text = run(pytester, "--fixtures").stdout.str()
    for name in ("lm", "alm", "lm_session [session scope]"):
        assert f"\n{name} -- " in text


def test_collecting_alone_starts_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_asks(lm):\n    lm('hello')\n")
    result = run(pytester, "--collect-only", "-q", "--lmstudio-url=http://127.0.0.1:9")
    assert result.outlines[0] == "test_collecting_alone_starts_nothing.py::test_asks"
    assert result.ret == pytest.ExitCode.OK
    assert not (pytester.path / ".lmstudio").exists()
