"""Prompts and replies on their way to the page: with the reports of tests, from whichever process made the calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lmstudio.gathered import Gathered
    from pytest_lmstudio.records import Call
    from pytest_lmstudio.report.texts import Parts
    from pytest_lmstudio.settings import Settings

NAME = "lmstudio-texts"
#: The attribute of a `TestReport` that carries them, and nothing else does.
_ATTRIBUTE = "lmstudio_texts"
#: What a run keeps at most, characters; of tests that went wrong as much again.
_MOST_CHARS = 4_000_000
_WRONG = frozenset({"failed", "error", "lm_error"})


def wanted(settings: Settings) -> bool:
    """Tell whether prompts and replies are to be shown, and there is a page that shows them."""
    return settings.html_texts and settings.html is not None


def put(report: pytest.TestReport, calls: Iterable[Call], environ: Mapping[str, str] = os.environ) -> None:
    """Put what a test asked, and was answered, on its last report."""
    if report.when == "teardown":
        from pytest_lmstudio.report.masking import secrets_of
        from pytest_lmstudio.report.texts import parts_of

        setattr(report, _ATTRIBUTE, parts_of(calls, secrets_of(environ)))


class Texts:
    """Hooks of the process that sees all reports.

    Attributes:
        by_call: what each call asked and was answered, by its id.
    """

    def __init__(self, gathered: Gathered) -> None:
        self.by_call: dict[str, Parts] = {}
        self._outcomes = gathered.outcomes
        self._chars = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take them off the report: other plugins write down what stands there."""
        found: dict[str, Parts] = vars(report).pop(_ATTRIBUTE, {})
        if not found:
            return
        from pytest_lmstudio.report.texts import size_of

        went_wrong = bool(_WRONG & self._outcomes.get(report.nodeid, frozenset())) or report.failed
        most_chars = _MOST_CHARS * (1 + went_wrong)
        for call_id, parts in found.items():
            if call_id not in self.by_call and self._chars + size_of(parts) <= most_chars:
                self.by_call[call_id] = parts
                self._chars += size_of(parts)
