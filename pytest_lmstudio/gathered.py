"""What a run learns from the reports of its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio import outcome

if TYPE_CHECKING:
    import pytest


class Gathered:
    """The outcomes of all tests, by node id.

    Attributes:
        outcomes: every word that counted for a test, see `outcome.word_of`.
        llm_tests: the LM tests that ran.
        reasons: why a test was lost, as its first error says.
        workers_crashed: xdist workers that died.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, set[str]] = {}
        self.llm_tests: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.workers_crashed = 0

    def note(self, report: pytest.TestReport) -> None:
        """Count a report of a test's phase, or of its subtest."""
        word = outcome.word_of(report)
        if word is None:
            return
        self.outcomes.setdefault(report.nodeid, set()).add(word)
        if word == "lm_error":
            self.reasons.setdefault(report.nodeid, str(outcome.facts_of(report).get("lost")))
        if outcome.facts_of(report).get("llm") and word != "skipped":
            self.llm_tests.add(report.nodeid)

    def lost(self) -> list[str]:
        """Return the tests that were lost, and did not fail in another phase."""
        return [
            nodeid for nodeid, words in self.outcomes.items() if "lm_error" in words and not words & {"failed", "error"}
        ]
