"""The suites in the documentation do what their pages say, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugin.suite import Suite
    from tests.standin import Received

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SUITE = re.compile(r"<!-- suite: (\S+) -->\n((?:```\w+\n.*?```\n\n?)+)", re.DOTALL)
_FILE = re.compile(r"```\w+\n# (\S+)\n(.*?)```", re.DOTALL)
#: What the model says when a prompt holds the words.
ANSWERS = {
    "France": "Paris.",
    "Italy": "Rome.",
    "works like a charm": "Positive",
    "broke on the first day": "negative.",
    "not buy it again": "Negative",
    "Ada Lovelace": '{"name": "Ada Lovelace", "age": 36}',
    "essay on the sea": "The sea is wide and it is deep.",
    "sky blue": "It is blue because air scatters light.",
}


class Example(NamedTuple):
    """A suite of a page: its files by name."""

    page: str
    name: str
    files: dict[str, str]


def examples() -> Iterator[Example]:
    for page in PAGES:
        for name, blocks in _SUITE.findall(page.read_text(encoding="utf-8")):
            yield Example(page.name, name, dict(_FILE.findall(blocks)))


def says(words: str) -> Callable[[Received], object]:
    def asked(received: Received) -> bool:
        return words in str(received.body)

    return asked


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
@pytest.mark.parametrize("example", list(examples()), ids=lambda example: f"{example.page}-{example.name}")
def test_the_suite_of_a_page_passes(example: Example, way: tuple[str, ...], suite: Suite) -> None:
    assert any(name.startswith("test_") for name in example.files)
    for name, text in example.files.items():
        suite.pytester.path.joinpath(name).write_text(text, encoding="utf-8")
    for words, answer in ANSWERS.items():
        suite.server.when(says(words), reply(answer))
    ran = suite.run(*way)
    assert ran.report["tests"]["passed"] == ran.report["calls"]["total"] > 0
    assert sum(ran.report["tests"].values()) == ran.report["tests"]["passed"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def anchors(text: str) -> set[str]:
    """Return the anchors that a code host makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
