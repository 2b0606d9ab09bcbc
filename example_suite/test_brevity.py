"""How an answer ends and how long it is, besides what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio import LM

MAX_WORDS = 15


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the opposite of hot?", "cold"),
        ("How many days are in a week?", "7 seven"),
        ("Name the largest planet in the solar system.", "jupiter"),
    ],
)
def test_answers_in_one_short_sentence(lm: LM, question: str, answer: str) -> None:
    reply = lm(question, system="Answer the question in one short sentence.", max_tokens=64, temperature=0)
    assert reply.finish_reason == "stop"
    assert len(reply.text.split()) <= MAX_WORDS
    assert any(word in reply.text.lower() for word in answer.split())
