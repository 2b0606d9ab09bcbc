"""A fact a test: one call, one assertion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lmstudio import LM

SYSTEM = "Answer the question in one short sentence."


@pytest.mark.parametrize(
    ("country", "capital"),
    [
        ("France", "Paris"),
        ("Italy", "Rome"),
        ("Germany", "Berlin"),
        ("Spain", "Madrid"),
        ("Japan", "Tokyo"),
        ("Egypt", "Cairo"),
        ("Greece", "Athens"),
        ("China", "Beijing"),
    ],
)
def test_names_the_capital(lm: LM, country: str, capital: str) -> None:
    reply = lm(f"What is the capital of {country}?", system=SYSTEM, max_tokens=64, temperature=0)
    assert capital in reply
