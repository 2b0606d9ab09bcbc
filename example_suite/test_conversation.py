"""Several turns: the answer depends on what was said before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lmstudio import LM


def test_remembers_what_the_user_said(lm: LM) -> None:
    reply = lm.chat(
        [
            {"role": "system", "content": "Answer the question in one short sentence."},
            {"role": "user", "content": "My cat is called Momo."},
            {"role": "assistant", "content": "Momo is a lovely name for a cat."},
            {"role": "user", "content": "What is my cat called?"},
        ],
        max_tokens=64,
        temperature=0,
    )
    assert "Momo" in reply


def test_keeps_to_the_form_of_its_earlier_answers(lm: LM) -> None:
    reply = lm.chat(
        [
            {"role": "system", "content": "Answer with one word."},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris"},
            {"role": "user", "content": "What is the capital of Italy?"},
        ],
        max_tokens=64,
        temperature=0,
    )
    assert reply.text.strip(" .\n") == "Rome"
