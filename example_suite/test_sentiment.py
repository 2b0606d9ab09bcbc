"""A score over a set: a model may miss some, so the test asks for enough of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio import LM

REVIEWS = {
    "I loved every minute of it, wonderful!": "positive",
    "The best meal I have had in years.": "positive",
    "Great service and friendly staff.": "positive",
    "A beautiful story, I cried with joy.": "positive",
    "Works perfectly, highly recommended.": "positive",
    "Terrible, I want my money back.": "negative",
    "The food was cold and the waiter was rude.": "negative",
    "It broke after one day.": "negative",
    "Boring from the first page to the last.": "negative",
    "The worst hotel I have ever stayed in.": "negative",
}
ENOUGH = 8  # of 10; chance gives 5

SCHEMA = {
    "type": "object",
    "properties": {"sentiment": {"type": "string", "enum": ["positive", "negative"]}},
    "required": ["sentiment"],
    "additionalProperties": False,
}


def sentiment(lm: LM, review: str) -> str:
    """Return what the model takes the review for."""
    prompt = f"Is the sentiment of this review positive or negative? Review: {review}"
    return str(lm.json(prompt, SCHEMA, max_tokens=64, temperature=0)["sentiment"])


@pytest.mark.llm(timeout=90)
def test_tells_praise_from_complaint(lm: LM) -> None:
    wrong = [review for review, label in REVIEWS.items() if sentiment(lm, review) != label]
    assert len(REVIEWS) - len(wrong) >= ENOUGH, wrong
