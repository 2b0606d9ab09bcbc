"""Prompts and replies in the page: only when asked for, without secrets, and nowhere else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Ran, Suite

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no xdist"])
TEXTS = ("--lmstudio-html=page.html", "--lmstudio-html-texts", "--lmstudio-max-error-rate=1", "--lmstudio-retries=0")
SECRET = "hunter2-and-more"
THREE = """
    import pytest

    def test_passes(lm): lm("<b>first</b>\\nsecond line", system="be brief")
    def test_fails(lm): assert lm("the wrong one") == ""
    def test_lost(lm): lm("never answered")
"""


def page(suite: Suite) -> str:
    return (suite.pytester.path / "page.html").read_text("utf-8")


def texts(suite: Suite) -> list[str]:
    """Return the texts of the page, in its order."""
    return [html.unescape(part.partition("</pre>")[0]) for part in page(suite).split("<pre>")[1:]]


def written(ran: Ran) -> str:
    """Return all that the run wrote but for its cache and page."""
    return "".join(path.read_text("utf-8") for path in ran.folder.rglob("*") if path.is_file())


@WAYS
def test_the_page_shows_what_each_test_asked_and_was_answered(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(THREE)
    suite.server.when(lambda request: request.text == "never answered", close_before_headers())
    suite.server.when(lambda request: "wrong" in request.text, reply("the <i>answer</i>"))
    ran = suite.run_apart(*way, *TEXTS)
    assert ran.summary == "1 failed, 1 passed, 1 lm-error"
    first = "<b>first</b>\nsecond line"
    assert texts(suite) == ["the wrong one", "the <i>answer</i>", "never answered", "be brief", first, texts(suite)[5]]
    assert len(texts(suite)) == 6
    assert not any(text in written(ran) for text in ("second line", "the wrong one", "never answered", "answer</i>"))


@WAYS
@pytest.mark.parametrize("args", [TEXTS[:1], TEXTS[1:2]], ids=["page without texts", "texts without page"])
def test_nobody_who_did_not_ask_for_texts_gets_them(suite: Suite, way: tuple[str, ...], args: tuple[str, ...]) -> None:
    suite.write('def test_it(lm): lm("what I asked")')
    ran = suite.run_apart(*way, *args)
    assert ran.summary == "1 passed"
    pages = [path.read_text("utf-8") for path in suite.pytester.path.glob("*.html")]
    assert len(pages) == args.count(TEXTS[0])
    assert [one for one in pages if "what I asked" in one or "<pre>" in one] == []


@WAYS
def test_no_other_plugin_finds_them_on_a_report(suite: Suite, way: tuple[str, ...]) -> None:
    suite.conftest("""
        def pytest_runtest_logreport(report):
            print("SEEN", sorted(key for key in vars(report) if "texts" in key))
    """)
    suite.write('def test_it(lm): lm("what I asked")')
    ran = suite.run_apart(*way, *TEXTS, "-s")
    assert "SEEN []" in ran.out
    assert ran.out.count("SEEN") == ran.out.count("SEEN []")
    assert "what I asked" in texts(suite)


def test_secrets_of_the_environment_are_masked(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", SECRET)
    suite.write(f'def test_it(lm): lm("with {SECRET} and sk-lm-abcdefgh12345")')
    suite.server.default = reply(f"I say {SECRET}\x1b[31m and more")
    suite.run_apart("-n0", *TEXTS)
    assert texts(suite) == ["with *** and ***", "I say ***\\x1b[31m and more"]
    assert SECRET not in page(suite)


def test_long_texts_are_cut_and_the_page_says_so(suite: Suite) -> None:
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(3))
        def test_it(lm, n): lm("<&" * 50_000, seed=n)
    """)
    suite.server.default = reply("short")
    suite.run_apart("-n2", *TEXTS)
    assert texts(suite) == [f"{'<&' * 2000}\n... (96,000 more characters)", "short"] * 3
    assert len(page(suite).encode()) < 2_000_000


def test_a_rerun_shows_each_of_its_calls_once(suite: Suite) -> None:
    suite.write("""
        calls = []
        def test_it(lm):
            calls.append(1)
            lm(f"run {len(calls)}")
            assert len(calls) == 2
    """)
    suite.server.default = reply("short")
    ran = suite.run_apart("-n0", "-p", "rerunfailures", "--reruns=2", *TEXTS)
    assert ran.summary == "1 passed, 1 rerun"
    assert texts(suite) == ["run 1", "short", "run 2", "short"]


def test_a_declared_case_shows_its_texts_too(suite: Suite) -> None:
    suite.write("""
        import pytest
        @pytest.mark.llm_cases([{"name": "a"}, {"name": "b"}], prompt="say {name}", id="name")
        def test_it(reply, case): pass
    """)
    suite.server.default = reply("short")
    suite.run_apart("-n0", *TEXTS)
    assert texts(suite) == ["say a", "short", "say b", "short"]


def test_text_that_no_encoding_takes_does_not_stop_a_worker(suite: Suite) -> None:
    suite.write(r'def test_it(lm): lm("lone \ud800 half")')
    suite.server.default = reply("short")
    ran = suite.run_apart("-n2", *TEXTS)
    assert ran.summary in {"1 passed", "1 failed"}
    assert [text for text in texts(suite) if "\\ud800" in text] != []
