"""What a run learns from the reports of its tests."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio import outcome
from pytest_lmstudio.record.stats import counted_as

if TYPE_CHECKING:
    import pytest


class Ending(NamedTuple):
    """How a test ended, as far as its reports have come.

    Attributes:
        outcome: the word that it counts as.
        llm: whether it is an LM test.
        ran: whether it was more than skipped.
        lost_to: the kind of the error that a lost test was lost to, None for any other.
        declared: whether its only call is that of its declared case.
    """

    outcome: str
    llm: bool
    ran: bool
    lost_to: str | None = None
    declared: bool = False

    @property
    def concerned(self) -> bool:
        """Whether the model has to do with it."""
        return self.llm or self.lost_to is not None


#: One object for all tests that ended alike: a run keeps one for each test.
_ending = lru_cache(1000)(Ending)
_counted_as = lru_cache(1000)(counted_as)
_NO_WORDS = frozenset[str]()


@lru_cache(1000)
def _together(words: frozenset[str], word: str) -> frozenset[str]:
    return words | {word}


class Gathered:
    """The outcomes of all tests, by node id.

    Attributes:
        outcomes: every word that counted for a test, see `outcome.word_of`.
        llm_tests: the LM tests that ran.
        reasons: why a test was lost, as its first error says.
        workers_crashed: xdist workers that died.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, frozenset[str]] = {}
        self.llm_tests: set[str] = set()
        self._marked: set[str] = set()
        self._declared: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.workers_crashed = 0

    def note(self, report: pytest.TestReport) -> None:
        """Count a report of a test's phase, or of its subtest."""
        word = outcome.word_of(report)
        if word is None:
            return
        facts = outcome.facts_of(report)
        before = self.outcomes.get(report.nodeid)
        if before is None or word not in before:
            self.outcomes[report.nodeid] = _together(before or frozenset(), word)
        if word == "lm_error":
            self.reasons.setdefault(report.nodeid, str(facts.get("lost")))
        if facts.get("llm"):
            self._marked.add(report.nodeid)
            if facts.get("declared"):
                self._declared.add(report.nodeid)
            if word != "skipped":
                self.llm_tests.add(report.nodeid)

    def ending(self, nodeid: str) -> Ending | None:
        """Return how a test ended, None when nothing that counts was reported of it."""
        word = _counted_as(self.outcomes.get(nodeid, _NO_WORDS))
        if word is None:
            return None
        lost_to = self.reasons[nodeid].partition("]")[0].removeprefix("[") if word == "lm_error" else None
        return _ending(word, nodeid in self._marked, nodeid in self.llm_tests, lost_to, nodeid in self._declared)

    def lost(self) -> list[str]:
        """Return the tests that were lost, and did not fail in another phase."""
        return [
            nodeid for nodeid, words in self.outcomes.items() if "lm_error" in words and not words & {"failed", "error"}
        ]
