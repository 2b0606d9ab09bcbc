"""A wrong mark names the test and the allowed keywords, stops the whole run with one line, and reaches no server."""

from __future__ import annotations

import pytest

from tests.plugin.inner import refusal, run

WAYS = [("-n0",), ("-n2",), ("-p", "no:xdist")]
ALLOWED = (
    "timeout, first_token_timeout, inter_token_timeout, retries, backoff, model, cache, stream, max_tokens, "
    "temperature, seed, system"
)
SECONDS = "expected seconds above 0 and up to 86400, or 'auto'"
COUNT = "expected a whole number from 0 to 1000000"


def marked(arguments: str) -> str:
    return f"import pytest\n@pytest.mark.llm({arguments})\ndef test_marked(lm): pass\ndef test_other(): pass\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("timout=3", f"unknown keyword 'timout'; did you mean 'timeout'? allowed: {ALLOWED}"),
        ("zzz=3", f"unknown keyword 'zzz'; allowed: {ALLOWED}"),
        ("90", "takes keywords only, got 90"),
        ("'gpt-4'", "takes keywords only, got 'gpt-4'"),
        ("timeout=0", f"timeout=0: {SECONDS}; allowed keywords: {ALLOWED}"),
        ("timeout='90'", f"timeout='90': {SECONDS}; allowed keywords: {ALLOWED}"),
        ("timeout=float('nan')", f"timeout=nan: {SECONDS}; allowed keywords: {ALLOWED}"),
        ("retries=-1", f"retries=-1: {COUNT}; allowed keywords: {ALLOWED}"),
        ("retries=True", f"retries=True: expected a number; allowed keywords: {ALLOWED}"),
        ("retries=1.5", f"retries=1.5: {COUNT}; allowed keywords: {ALLOWED}"),
        ("retries='auto'", f"retries='auto': {COUNT}; allowed keywords: {ALLOWED}"),
        ("backoff=-0.1", f"backoff=-0.1: expected seconds from 0 to 86400; allowed keywords: {ALLOWED}"),
        ("model=''", f"model='': expected a text that is not empty; allowed keywords: {ALLOWED}"),
        ("model=7", f"model=7: expected a text that is not empty; allowed keywords: {ALLOWED}"),
        ("cache='off'", f"cache='off': expected True or False; allowed keywords: {ALLOWED}"),
        ("stream=1", f"stream=1: expected True or False; allowed keywords: {ALLOWED}"),
        ("max_tokens=0", f"max_tokens=0: expected a whole number from 1; allowed keywords: {ALLOWED}"),
        ("temperature=-1", f"temperature=-1: expected a number from 0; allowed keywords: {ALLOWED}"),
        ("seed=1.5", f"seed=1.5: expected a whole number; allowed keywords: {ALLOWED}"),
        ("system=None", f"system=None: expected a text that is not empty; allowed keywords: {ALLOWED}"),
    ],
)
def test_every_wrong_keyword_and_value(arguments: str, problem: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_marks=marked(arguments))
    assert refusal(run(pytester)) == f"test_marks.py::test_marked: @pytest.mark.llm {problem}"


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
@pytest.mark.parametrize(
    ("source", "test"),
    [
        ("pytestmark = pytest.mark.llm(cash=False)\ndef test_a(lm): pass", "test_marks.py::test_a"),
        (
            "@pytest.mark.llm(cash=False)\nclass TestIt:\n    @pytest.mark.llm(timeout=3)\n    def test_b(self): pass",
            "test_marks.py::TestIt::test_b",
        ),
        (
            (
                "mark = pytest.mark.llm(cash=0)\n"
                "@pytest.mark.parametrize('n', [1, pytest.param(2, marks=mark)])\ndef test_c(lm, n): pass"
            ),
            "test_marks.py::test_c[2]",
        ),
    ],
    ids=["module", "class", "parameter"],
)
def test_a_wrong_mark_at_any_level_with_and_without_workers(
    source: str, test: str, way: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_marks=f"import pytest\n{source}\n", test_more="def test_plain(): pass")
    assert refusal(run(pytester, *way)) == (
        f"{test}: @pytest.mark.llm unknown keyword 'cash'; did you mean 'cache'? allowed: {ALLOWED}"
    )


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_wrong_mark_stops_the_run_before_any_test(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_marks=marked("seed='x'"),
        test_more="import pathlib\ndef test_runs():\n    pathlib.Path('ran').touch()\n",
    )
    line = refusal(run(pytester, *way))
    assert line == (
        f"test_marks.py::test_marked: @pytest.mark.llm seed='x': expected a whole number; allowed keywords: {ALLOWED}"
    )
    assert not (pytester.path / "ran").exists()
    assert not (pytester.path / ".lmstudio").exists()


@pytest.mark.parametrize("way", [("-n0",), ("-n2",)], ids=" ".join)
def test_a_wrong_mark_of_a_test_that_is_deselected_is_told_too(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_marks=marked("seed='x'"))
    assert refusal(run(pytester, *way, "-k", "other")).startswith("test_marks.py::test_marked: ")


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_good_marks_at_all_levels_merge_also_in_workers(way: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.llm(timeout=1, retries=1)

        @pytest.mark.llm(retries=2)
        class TestIt:
            @pytest.mark.llm(backoff=3)
            @pytest.mark.llm(backoff=4, model="m")
            def test_merged(self, lm):
                found = lm.settings
                assert (found.timeout, found.retries, found.backoff, found.model) == (1, 2, 4, "m")
        """
    )
    run(pytester, *way).assert_outcomes(passed=1)
