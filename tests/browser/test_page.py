"""The page of a run in a real browser: it looks right, says nothing to the console, and everybody can read it."""

from __future__ import annotations

import os
import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import Chromium, Look, find
from tests.browser.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(find() is None, reason="no Chromium here: install it (Debian: chromium), or name one"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(300),
]

needs_axe = pytest.mark.skipif(find_spec("axe_core_python") is None, reason="axe-core-python is not installed")


def ids(look: Look) -> str:
    return "-".join(map(str, look))


SCREENS = [Look(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]
PAPER = Look(width=720, media="print")
LOOKS = [*SCREENS, PAPER]
FEW_LOOKS = {"thousand": [PAPER], "long-names": [SCREENS[-1]]}
SEEN = [(name, look) for name in PAGES for look in FEW_LOOKS.get(name, LOOKS)]
#: One of each width, one of each scheme.
TWO_SCREENS = [SCREENS[0], SCREENS[-1]]
#: What a page may not be found to have; only what nobody is hurt by is let pass.
SERIOUS = {"serious", "critical", "moderate"}
AXE = """(async () => {
  const found = await axe.run(document, {resultTypes: ["violations", "incomplete"]});
  const told = rules => rules.map(rule => [rule.id, rule.impact, rule.nodes.map(node => node.html.slice(0, 120))]);
  return {violations: told(found.violations), incomplete: told(found.incomplete), passes: found.passes.length};
})()"""
OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"
#: Elements that stick out of the page, but for what a region of its own lets one scroll to.
STICKS_OUT = """[...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect(), region = one.parentElement.closest(".scroll");
  return !region && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 120))"""
SMALL = """[...document.querySelectorAll("body *")].filter(one =>
  [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()) &&
  parseFloat(getComputedStyle(one).fontSize) < 11.3).map(one => one.outerHTML.slice(0, 120))"""
#: Texts of one picture that lie on each other.
OVERLAPS = """[...document.querySelectorAll("svg")].flatMap(picture => {
  const texts = [...picture.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
  return texts.flatMap(([text, box], n) => texts.slice(n + 1).filter(([, other]) =>
    box.left < other.right - 1 && other.left < box.right - 1 && box.top < other.bottom - 3 && other.top < box.bottom - 3
  ).map(([other]) => `${text} / ${other}`));
})"""
FOCUSED = "document.activeElement.outerHTML.slice(0, 60)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(find() or "", tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name, page in PAGES.items():
        (folder / f"{name}.html").write_text(page(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where pictures go; ``LMSTUDIO_TESTS_SHOTS`` keeps them."""
    folder = Path(os.environ.get("LMSTUDIO_TESTS_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(("name", "look"), SEEN, ids=[f"{name}-{ids(look)}" for name, look in SEEN])
def test_a_page_fits_its_place_and_asks_for_nothing(
    browser: Chromium, pages: Path, shots: Path, name: str, look: Look
) -> None:
    page = pages / f"{name}.html"
    browser.show(page, look)
    browser.screenshot(shots / f"{name}-{ids(look)}.png")
    assert browser.complaints == []
    assert browser.asked == [page.resolve().as_uri()]
    assert browser.value("document.documentElement.scrollWidth") == look.width
    assert browser.value(STICKS_OUT) == []
    assert browser.value(SMALL) == []
    assert browser.value(OVERLAPS) == []
    # A page of one colour is a picture too.
    assert (shots / f"{name}-{ids(look)}.png").stat().st_size > 10_000


@needs_axe
@pytest.mark.parametrize("look", TWO_SCREENS, ids=ids)
@pytest.mark.parametrize("name", [name for name in PAGES if name != "thousand"])
def test_axe_finds_nothing_that_would_keep_anybody_out(browser: Chromium, pages: Path, name: str, look: Look) -> None:
    browser.show(pages / f"{name}.html", look)
    browser.value(OPEN_ALL)
    browser.value((resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + "; 1")
    found = browser.value(AXE)
    assert found["passes"] > 15
    assert found["violations"] == []
    # It cannot tell what is behind the texts of a picture; tests/unit/report/test_html.py has those colours.
    unsure = {node for _, impact, nodes in found["incomplete"] if impact in SERIOUS for node in nodes}
    assert [node for node in unsure if not node.startswith("<text ")] == []


@needs_axe
def test_what_axe_looks_for_would_be_found(browser: Chromium, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src=data:,><p style='color:#aaa'>pale</p><script>throw 1</script>", encoding="utf-8")
    browser.show(page)
    browser.value((resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + "; 1")
    names = {rule[0] for rule in browser.value(AXE)["violations"]}
    assert {"image-alt", "color-contrast", "html-has-lang", "document-title"} <= names
    assert [text for text in browser.complaints if "Uncaught" in text] != []


def test_a_script_that_got_in_would_not_run(browser: Chromium, pages: Path, tmp_path: Path) -> None:
    page = tmp_path / "forged.html"
    inside = (
        "<script>document.title = 'run'</script><img src='http://192.0.2.1/x.png' onerror=\"document.title='run'\">"
    )
    page.write_text((pages / "good.html").read_text("utf-8").replace("<main>", f"<main>{inside}"), encoding="utf-8")
    browser.show(page)
    assert browser.value("document.title") == "Gate passed: LM Studio run run-1"
    assert [text for text in browser.complaints if "Content Security Policy" in text] != []


def test_whoever_has_only_keys_gets_everywhere(browser: Chromium, pages: Path) -> None:
    browser.show(pages / "over-budget.html", Look(400))
    wanted = browser.value("document.querySelectorAll('[tabindex], summary').length")
    seen = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(browser.value(FOCUSED))
    order = browser.value("[...document.querySelectorAll('[tabindex], summary')].slice(0, 12).map(one => "
                          "one.outerHTML.slice(0, 60))")  # fmt: skip
    assert wanted > 12
    assert seen == order
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_paper_shows_what_the_screen_folds_away(browser: Chromium, pages: Path) -> None:
    visible = "document.querySelector('details .call').checkVisibility()"
    browser.show(pages / "good.html", Look())
    assert browser.value("document.querySelector('details').open") is False
    assert browser.value(visible) is False
    browser.show(pages / "good.html", PAPER)
    assert browser.value(visible) is True
    assert len(re.findall(rb"/Type\s*/Page\b", browser.pdf())) > 5


def test_a_dark_page_is_printed_on_white(browser: Chromium, pages: Path) -> None:
    browser.show(pages / "good.html", Look(scheme="dark", media="print"))
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.show(pages / "good.html", Look(scheme="dark"))
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_the_page_of_a_thousand_calls_with_their_texts_is_small() -> None:
    page = PAGES["thousand"]()
    assert len(page.encode("utf-8")) < 2_000_000
    assert page.count("<details>") == 1000
    assert "not shown" not in page.partition("<h2>Tests</h2>")[2].partition("<h2>")[0]


def test_the_browser_leaves_no_process_behind(tmp_path: Path) -> None:
    with Chromium(find() or "", tmp_path) as browser:
        pid = browser.pid
        assert members(pid)
    assert members(pid) == []


def members(group: int) -> list[Any]:
    """Return the processes of a group that are no zombies."""
    from tests.process.apart import processes

    return [one for one in processes() if one.group == group]
