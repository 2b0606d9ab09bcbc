"""What a call costs that the cache answers, next to other caches, by the number of their entries."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.calls import body_of, text_of
from benchmarks.hosted import Competitor, peer, take_turns
from benchmarks.measure import BLOCK_CALLS, Row, Timing, alone, beside, cpus, timed, timed_async, walls
from benchmarks.server import ANSWER, TOKENS, running
from benchmarks.subject import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Block

TOPIC = "A cached call"
HOW = (
    "Entries are asked for in random order, by a process for each cache, in a run after the one that stored them. Ours "
    "is the whole of `lm(...)`: plan, key, look-up, reply, the test's record and a line of the log. sqlite3 is one "
    "select, by its key, of a text as long as an entry of ours, diskcache one `get` of that, langchain one `lookup` of "
    "its `SQLiteCache`, without a model around it; inspect_ai is `generate(cache=True)` of its mock model; vcrpy "
    "replays a cassette to `httpx.Client`, and is left out where its cassette, which it reads whole and searches entry "
    "by entry, would hold 100,000."
)
ENTRIES = (1, 1_000, 100_000)
MOST_US = 80.0
#: How much slower the fullest cache may be than that of one entry. SQLite itself grows more: of its 90 MB, a look-up
#: needs pages that it has not got in memory.
MOST_GROWTH = 1.5
MOST_OF_PEERS = 1.0
_OURS = "`lm`"
_FUNCTIONS = {
    _OURS: "ours",
    "sqlite3": "plain_sqlite",
    "diskcache": "disk_cache",
    "vcrpy": "cassette",
    "langchain SQLiteCache": "langchain",
    "inspect_ai": "inspect",
}
#: These do less than a call: they are the floor, and need not be beaten.
_FLOOR = ("sqlite3", "diskcache")
#: What they hold, as long as an entry of ours.
_TEXT = ANSWER.ljust(640)
#: Most entries that a peer is asked to hold: vcrpy reads its whole cassette at first, and then tries entry by entry.
_MOST_ENTRIES = {"vcrpy": 1_000}
#: Calls in a block of a peer that takes a thousand times as long as others.
_SLOW_CALLS = 2


def measure(folder: Path, rounds: int) -> list[Row]:
    """Measure all caches of all sizes."""
    competitors = {}
    with running() as url:
        for entries in ENTRIES:
            (folder / str(entries)).mkdir()
            for name, function in _FUNCTIONS.items():
                if entries <= _MOST_ENTRIES.get(name, entries):
                    given = {"url": url, "folder": str(folder / str(entries) / function), "entries": entries}
                    competitors[_named(name, entries)] = Competitor(f"benchmarks.cached:{function}", given)
        timings = take_turns(competitors, rounds)
    rows = [row for entries in ENTRIES for row in _rows(entries, timings)]
    return [*rows, *(_growth(name, timings) for name in (_OURS, *_FLOOR))]


def _growth(name: str, timings: dict[str, list[Timing]]) -> Row:
    pair, target = (_named(name, ENTRIES[-1]), _named(name, ENTRIES[0])), MOST_GROWTH if name == _OURS else None
    return beside(TOPIC, f"{pair[0]}: wall", "µs", walls(timings), pair, target=target)


def _named(name: str, entries: int) -> str:
    return f"{name}, {entries:,} {'entry' if entries == 1 else 'entries'}"


def _rows(entries: int, timings: dict[str, list[Timing]]) -> list[Row]:
    ours = _named(_OURS, entries)
    walls_us = walls(timings)
    rows = [
        alone(TOPIC, f"{ours}: wall", "µs", walls_us[ours], MOST_US),
        alone(TOPIC, f"{ours}: CPU", "µs", cpus(timings)[ours]),
    ]
    for name in list(_FUNCTIONS)[1:]:
        target, pair = None if name in _FLOOR else MOST_OF_PEERS, (ours, _named(name, entries))
        row = beside(TOPIC, f"{ours}: wall", "µs", walls_us, pair, target=target)
        rows.append(replace(row, note="left out") if entries > _MOST_ENTRIES.get(name, entries) else row)
    return rows


# The competitors.


def _hits(entries: int, hit: Callable[[int], object], calls: int = BLOCK_CALLS) -> Block:
    chosen = random.Random(entries)

    def one(_: int) -> None:
        assert hit(chosen.randrange(entries)), "not in the cache"

    return lambda _: timed(one, calls)


@contextmanager
def ours(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Call through `lm`, in the run after the one that stored."""
    home = Path(folder)
    with opened(url, home) as first:
        first.lm("0")
        cache = first.runtime.cache
        assert cache is not None
        entry = cache.get(first.request("0").key)
        assert entry is not None
        for number in range(1, entries):
            request = first.request(str(number))
            cache.put(request.key, {**entry, "asked": request.asked})
    with opened(url, home, "run-2") as subject:
        hits = _hits(entries, lambda number: subject.lm(str(number)).cached)

        def block(number: int) -> Timing:
            subject.next_test()
            return hits(number)

        yield block


@contextmanager
def plain_sqlite(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Select a text by its key."""
    del url
    with closing(sqlite3.connect(folder)) as database:
        database.execute("create table answers (key text primary key, value text) without rowid")
        database.executemany("insert into answers values (?, ?)", ((_key(n), _TEXT) for n in range(entries)))
        database.commit()
        select = "select value from answers where key = ?"
        yield _hits(entries, lambda n: database.execute(select, (_key(n),)).fetchone())


@contextmanager
def disk_cache(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Get a text by its key."""
    del url
    with peer("diskcache").Cache(folder) as cache:
        with cache.transact():
            for number in range(entries):
                cache[_key(number)] = _TEXT
        yield _hits(entries, lambda n: cache.get(_key(n)))


@contextmanager
def cassette(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Make a call that a cassette answers; the body tells calls apart."""
    recorder = peer("vcr").VCR(match_on=["method", "uri", "body"])
    with httpx.Client(base_url=url, timeout=45) as client:

        def call(number: int) -> bool:
            body = body_of(str(number), stream=False)
            answer = client.post("/v1/chat/completions", json=body).raise_for_status()
            return text_of(answer.json()) == ANSWER

        with recorder.use_cassette(folder, record_mode="all") as tape:
            call(0)
            (request,), (response,) = tape.requests, tape.responses
            for number in range(1, entries):  # recording would compare each with all before it
                again = copy(request)
                again.body = json.dumps(body_of(str(number), stream=False), separators=(",", ":")).encode()
                tape.append(again, response)
        with recorder.use_cassette(folder, record_mode="none", allow_playback_repeats=True):
            yield _hits(entries, call, calls=BLOCK_CALLS if entries == 1 else _SLOW_CALLS)


@contextmanager
def langchain(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Look a prompt up."""
    del url
    cache = peer("langchain_community.cache").SQLiteCache(folder)
    cache.update("0", "bench", [peer("langchain_core.outputs").Generation(text=ANSWER)])
    with closing(sqlite3.connect(folder)) as database:
        stored = database.execute("select llm, idx, response from full_llm_cache").fetchone()
        rows = ((str(number), *stored) for number in range(1, entries))
        database.executemany("insert into full_llm_cache (prompt, llm, idx, response) values (?, ?, ?, ?)", rows)
        database.commit()
    yield _hits(entries, lambda n: cache.lookup(str(n), "bench"))


@contextmanager
def inspect(url: str, folder: str, entries: int) -> Iterator[Block]:
    """Generate with inspect_ai's own cache, which keeps a file for each entry."""
    del url
    os.environ["INSPECT_CACHE_DIR"] = folder
    made = peer("inspect_ai.model")
    asked = [0]

    def answered(*_: Any) -> Any:
        asked[0] += 1
        answer = made.ModelOutput.from_content("mockllm/model", ANSWER)
        # Without figures of its own, the mock would fetch a tokenizer from afar to count tokens.
        answer.usage = made.ModelUsage(input_tokens=12, output_tokens=len(TOKENS), total_tokens=12 + len(TOKENS))
        return answer

    model = made.get_model("mockllm/model", custom_outputs=answered)
    chosen = random.Random(entries)

    async def fill() -> None:
        inside, kept = peer("inspect_ai.model._model"), []
        store = inside.cache_store
        inside.cache_store = lambda **stored: kept.append((stored["entry"], stored["output"]))
        await model.generate("0", cache=True)
        ((entry, output),) = kept
        for number in range(entries):  # to generate so many takes some minutes
            message = entry.input[0].model_copy(update={"content": str(number)})
            given = {name: value for name, value in vars(entry).items() if name != "key"} | {"input": [message]}
            store(type(entry)(**given), output)

    async def hit(_: int) -> None:
        reply = await model.generate(str(chosen.randrange(entries)), cache=True)
        assert reply.completion == ANSWER
        assert asked == [1], "not in the cache"

    with asyncio.Runner() as runner:
        runner.run(fill())
        yield lambda _: runner.run(timed_async(hit))


def _key(number: int) -> str:
    return f"{number:064x}"
