"""What a call costs: uncached next to a bare `httpx.Client`, and cached."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from operator import truediv
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.measure import Row, Timing, compared, interleaved, spread, timed
from benchmarks.server import MODEL, TOKENS
from benchmarks.subject import Subject, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENTRIES = (1, 500, 10_000)
MOST_RATIO = 2.0
MOST_CACHED_US = 250.0
_ANSWER = "".join(TOKENS)


def uncached(url: str, folder: Path, rounds: int) -> list[Row]:
    """Compare calls that reach the server with the same requests over a bare client, whole answers and streams."""
    with httpx.Client(timeout=45) as client, opened(url, folder) as subject:

        def ours(**keywords: Any) -> Callable[[int], Timing]:
            return lambda number: _ours(subject, f"{number}/{sorted(keywords.items())}", keywords)

        chat_url = f"{url}/v1/chat/completions"
        timings = interleaved(
            {
                "bare whole": lambda number: timed(lambda n: _bare_whole(client, chat_url, f"{number}/{n}")),
                "bare stream": lambda number: timed(lambda n: _bare_stream(client, chat_url, f"{number}/{n}")),
                "whole": ours(stream=False),
                "stream": ours(stream=True),
                "whole, cache=False": ours(stream=False, cache=False),
                "stream, cache=False": ours(stream=True, cache=False),
            },
            rounds,
        )
    rows = []
    for name in ("stream", "whole", "stream, cache=False", "whole, cache=False"):
        taken, base = timings[name], timings[f"bare {name.partition(',')[0]}"]
        for n, kind in ((1, "CPU"), (0, "wall")):
            ours_us, base_us = [t[n] for t in taken], [t[n] for t in base]
            what = f"uncached call, {name}: {kind}"
            rows.append(compared(what, ours_us, base_us, unit="µs", how=truediv, most=MOST_RATIO))
    return rows


def cached(url: str, folder: Path, rounds: int) -> list[Row]:
    """Time calls that the cache answers, by the number of its entries, in the run after the one that stored them."""
    with ExitStack() as stack:
        competitors: dict[str, Callable[[int], Timing]] = {}
        for entries in ENTRIES:
            home = folder / str(entries)
            with opened(url, home) as first:
                _fill(first, entries)
            second = stack.enter_context(opened(url, home, "run-2"))
            competitors[f"cached call, {entries:,} entries"] = _hits(second, entries)
        timings = interleaved(competitors, rounds)
    return [
        Row(f"{name}: {kind}", "µs", spread(t[index] for t in taken), target=MOST_CACHED_US)
        for name, taken in timings.items()
        for index, kind in ((1, "CPU"), (0, "wall"))
    ]


def _message(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _bare_whole(client: httpx.Client, url: str, prompt: str) -> None:
    body = {"model": MODEL, "messages": _message(prompt), "stream": False}
    answer = client.post(url, json=body).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == _ANSWER


def _bare_stream(client: httpx.Client, url: str, prompt: str) -> None:
    """Read a stream as a test without the plugin would: the least that yields the text."""
    options = {"include_usage": True}
    body = {"model": MODEL, "messages": _message(prompt), "stream": True, "stream_options": options}
    pieces = []
    with client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                choices = json.loads(line[6:])["choices"]
                pieces.append(choices[0]["delta"].get("content", "") if choices else "")
    assert "".join(pieces) == _ANSWER


def _ours(subject: Subject, prefix: str, keywords: dict[str, Any]) -> Timing:
    subject.next_test()

    def call(number: int) -> None:
        reply = subject.lm(f"{prefix}/{number}", **keywords)
        assert reply.text == _ANSWER
        assert not reply.cached

    return timed(call)


def _fill(subject: Subject, entries: int) -> None:
    """Store answers to the prompts 0, 1, ... as calls would have, one of them by a call."""
    subject.lm("0")
    cache = subject.runtime.cache
    assert cache is not None
    first = cache.get(subject.request("0").key)
    assert first is not None
    for number in range(1, entries):
        request = subject.request(str(number))
        cache.put(request.key, {**first, "asked": request.asked})


def _hits(subject: Subject, entries: int) -> Callable[[int], Timing]:
    chosen = random.Random(entries)

    def hit(_: int) -> None:
        assert subject.lm(str(chosen.randrange(entries))).cached

    def block(_: int) -> Timing:
        subject.next_test()
        return timed(hit)

    return block
