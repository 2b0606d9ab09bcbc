"""What `verify` says to the model: short and long, for short and long answers."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.files import read_small

MAX_TOKENS = 256
_MOST_BYTES = 2**20


class Prompt(NamedTuple):
    """One prompt, and the most tokens of its answer."""

    text: str
    max_tokens: int


_PARAGRAPH = (
    "The lighthouse stood at the end of the pier. Each evening its keeper climbed the stairs, cleaned the lamp and "
    "wrote down the weather: wind, cloud, the height of the waves. Ships passed far out, and some answered the light. "
)
BUILT_IN = (
    Prompt("Say OK.", 16),
    Prompt("What is the capital of France? Answer in one word.", 16),
    Prompt("Name three colours of the rainbow.", 32),
    Prompt("Explain in two sentences why the sky is blue.", 96),
    Prompt("Write a list of ten animals, one a line.", 96),
    Prompt(f"Summarise this in one sentence: {_PARAGRAPH}", 64),
    Prompt("Write a short story about a lighthouse keeper, of about 150 words.", MAX_TOKENS),
    Prompt(f"How often is the light mentioned here? Answer with a number. {_PARAGRAPH * 5}", 16),
    Prompt("Explain step by step how to change a bicycle tyre.", MAX_TOKENS),
    Prompt(f"Go on with this text in the same style, for about 100 words: {_PARAGRAPH * 3}", 192),
)


def chosen(path: str | None, count: int | None) -> list[Prompt]:
    """Return prompts: built in, or those of a file, one a line; from the beginning again where more are wanted.

    Args:
        path: the file, None for those built in.
        count: how many; None is as many as there are.

    Raises:
        Failure: the file cannot be read, or holds none.
    """
    known = list(BUILT_IN) if path is None else _read(path)
    return list(islice(cycle(known), count or len(known)))


def _read(path: str) -> list[Prompt]:
    try:
        text = read_small(Path(path), _MOST_BYTES).removeprefix("\ufeff")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}" if error.strerror else str(error)
        raise Failure(msg) from None
    except UnicodeDecodeError:
        msg = f"{path} cannot be read: it is no UTF-8"
        raise Failure(msg) from None
    found = [Prompt(line.strip(), MAX_TOKENS) for line in text.splitlines() if line.strip()]
    if not found:
        msg = f"{path} holds no prompts: write one a line"
        raise Failure(msg)
    return found
