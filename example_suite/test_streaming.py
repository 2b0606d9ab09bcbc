"""Text as it arrives: read to its end, or left as soon as enough was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio import LM


@pytest.mark.llm(timeout=90)
def test_counts_to_ten_piece_by_piece(lm: LM) -> None:
    pieces = list(lm.stream("Count from one to ten.", max_tokens=128, temperature=0))
    text = "".join(pieces).lower()
    assert len(pieces) > 1
    assert "10" in text or "ten" in text


@pytest.mark.llm(timeout=90)
def test_keeps_to_the_subject_from_the_start(lm: LM) -> None:
    text = ""
    # Leaving the loop ends the generation: the rest of the story is never written.
    for piece in lm.stream("Tell me a short story about a fox.", max_tokens=512, temperature=0):
        text += piece
        if len(text) > 100:
            break
    assert "fox" in text.lower()
