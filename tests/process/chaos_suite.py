"""The suite of the chaos run: ten sorts of tests in turn, with prompts of different lengths. It is copied to be run."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio import LM

BASE_CHARS = 20
TESTS = int(os.environ.get("CHAOS_TESTS", "0"))


def prompt(tag: int, less: int = 0) -> str:
    return f"<{tag}>".ljust(BASE_CHARS + tag - less, ".")


def ask_plainly(lm: LM, tag: int) -> None:
    assert lm(prompt(tag)).text == f"echo: {prompt(tag)}"


def ask_whole(lm: LM, tag: int) -> None:
    assert lm(prompt(tag), stream=False).text == f"echo: {prompt(tag)}"


def converse(lm: LM, tag: int) -> None:
    messages = [{"role": "system", "content": "sys"}, {"role": "user", "content": prompt(tag, 3)}]
    assert lm.chat(messages).text == f"echo: {prompt(tag, 3)}"


def ask_for_json(lm: LM, tag: int) -> None:
    assert lm.json(prompt(tag), {"type": "object", "properties": {"tag": {"const": tag}}}) == {"tag": tag}


def stream(lm: LM, tag: int) -> None:
    assert "".join(lm.stream(prompt(tag))) == f"echo: {prompt(tag)}"


def ask_many(lm: LM, tag: int) -> None:
    asked = [prompt(tag + n) for n in range(4)]
    assert [reply.text for reply in lm.map(asked)] == [f"echo: {text}" for text in asked]


def ask_the_same(lm: LM, tag: int) -> None:
    asked = prompt(tag // 140 * 140 + 13)
    with ThreadPoolExecutor(3) as threads:
        for asking in [threads.submit(lm, asked) for _ in range(3)]:
            assert asking.result().text == f"echo: {asked}"


def embed(lm: LM, tag: int) -> None:
    assert len(lm.embed([prompt(tag)], model="test-embedder")) == 1


def ask_uncached(lm: LM, tag: int) -> None:
    assert [lm(prompt(tag), cache=False).cached for _ in range(2)] == [False, False]


def leave_a_stream(lm: LM, tag: int) -> None:
    for piece in lm.stream(prompt(tag)):
        assert piece.startswith("word")
        break


SORTS: list[Callable[[LM, int], None]] = [
    ask_plainly, ask_whole, converse, ask_for_json, stream, ask_many, ask_the_same, embed, ask_uncached, leave_a_stream,
]  # fmt: skip


# Ten tests have fourteen tags: a map takes four, and the last one is for the prompt that tests share.
@pytest.mark.parametrize("n", range(TESTS), ids=lambda n: f"{SORTS[n % 10].__name__}-{n}")
def test_it(lm: LM, n: int) -> None:
    check_answers = SORTS[n % 10]
    check_answers(lm, n // 10 * 14 + n % 10 + (3 if n % 10 > 5 else 0))
