"""``python -m tests.process.workers ROLE …``: one process of a run, for tests that need several real ones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine.attempt import AttemptFailed, run_attempt
from pytest_lmstudio.engine.breaker import Breaker
from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.coalesce import Coalescer
from pytest_lmstudio.engine.deadline import Limits
from pytest_lmstudio.engine.loop import Loop
from pytest_lmstudio.engine.pressure import Pressure
from pytest_lmstudio.engine.shared import Shared
from pytest_lmstudio.engine.slots import Slots
from pytest_lmstudio.engine.transport import Transport
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KEY = "ab" * 32
#: Mean latency above which `ease_off` eases off.
SLOW_S = 0.8


@contextmanager
def started(role: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Start one process; it is killed when it outlives its test."""
    command = [sys.executable, "-m", "tests.process.workers", role, *map(str, args)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end_of(process: subprocess.Popen[str]) -> list[str]:
    """Return the other lines, once the process has ended well."""
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out.splitlines()


def slots_of(folder: Path, limit: int, first: int = 0) -> Slots:
    """Return one process's slots."""
    shared = Shared(folder, limit)
    return Slots(shared, limit, Pressure(shared, limit, None, lambda *_: None), first)


def say(text: str) -> None:
    """Tell the test something."""
    print(text, flush=True)


async def take_slots(folder: str, limit: str, number: str, url: str) -> None:
    """Send requests, each with a slot, and log each slot taken (+) and given back (-)."""
    slots, transport = slots_of(Path(folder), int(limit), int(number)), Transport(url, None)
    log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def one() -> None:
        slot = await slots.acquire()
        os.write(log, b"+")
        await ask(transport, timeout_s=20)
        os.write(log, b"-")
        slots.release(slot)

    await asyncio.gather(*(one() for _ in range(10)))
    await transport.close()
    os.close(log)


async def hold_slot(folder: str, limit: str) -> None:
    """Hold a slot until a line comes in."""
    slots = slots_of(Path(folder), int(limit))
    slot = await slots.acquire()
    say("held")
    await asyncio.to_thread(sys.stdin.readline)
    slots.release(slot)
    say("released")
    await asyncio.to_thread(sys.stdin.readline)


async def hold_probe(folder: str, name: str) -> None:
    """Trip the breaker, wait out its pause, and probe, until a line comes in; the second waits for its turn."""
    shared = Shared(Path(folder), 1)
    breaker = Breaker(shared, BreakerLimits(1, 0.01), lambda *_: None)
    if name == "first":
        breaker.failed(time.monotonic(), ErrorKind.DISCONNECT, probe=False)
    elif breaker.ask(3600).verdict == "wait":
        say("waits")
    while breaker.ask(3600).verdict != "probe":
        await breaker.admitted(3600)
    say("probes")
    await asyncio.to_thread(sys.stdin.readline)
    breaker.succeeded(probe=True)
    say("resumed")


async def ease_off(folder: str, limit: str, number: str, url: str) -> None:
    """Send requests as the engine does under backpressure, until the file ``enough`` is there."""
    shared = Shared(Path(folder), int(limit))
    pressure = Pressure(shared, int(limit), SLOW_S, lambda before, now, why: say(f"{before} {now} {why}"))
    slots, transport = Slots(shared, int(limit), pressure, int(number)), Transport(url, None)

    def enough() -> bool:
        return Path(folder, "enough").exists()

    async def one() -> None:
        while not enough():
            slot = await slots.acquire()
            start_s = time.monotonic()
            failed = await ask(transport, timeout_s=20) != "answered"
            pressure.lost(start_s) if failed else pressure.answered(start_s, time.monotonic() - start_s)
            slots.release(slot)

    await asyncio.gather(*(one() for _ in range(4)))
    await transport.close()


async def make_once(folder: str, how: str) -> None:
    """Make something once, or begin to and never end."""

    async def make() -> dict[str, Any]:
        note(folder)
        say("making")
        await asyncio.sleep(3600 if how == "hang" else 0.05)
        return {"by": os.getpid()}

    say(json.dumps(await Shared(Path(folder), 1).once("it", make)))


def note(folder: str) -> None:
    """Write down that something was made."""
    with Path(folder, "log").open("a", encoding="ascii") as log:
        log.write("made\n")


async def take_turn(folder: str, how: str) -> None:
    """Lead or follow a request."""
    coalescer = Coalescer(Shared(Path(folder), 1))
    say("asks")
    async with coalescer.turn(KEY) as (left, leave):
        say("leads" if left is None else f"follows {left['n']}")
        if left is None:
            await asyncio.to_thread(sys.stdin.readline)
            if how == "answer":
                leave({"n": os.getpid(), "stored": False})


def store(folder: str, size: str, run: str, name: str) -> None:
    """Store sixty answers."""
    cache = AnswerCache(Path(folder), size=int(size), run=int(run), on_problem=say)
    say("ready")
    sys.stdin.readline()
    for number in range(60):
        cache.put(f"{name}-{number}", {"answer": number})
        cache.get(f"{name}-{number // 2}")
    cache.close()


def look_up(url: str) -> None:
    """Make an attempt at a server whose name is looked up for ever."""
    import socket
    import threading

    socket.getaddrinfo = lambda *_, **__: threading.Event().wait()  # type: ignore[assignment]
    loop, transport = Loop(), Transport(url, None)
    start_s = time.monotonic()
    say(loop.run(ask(transport, timeout_s=0.3)))
    say(str(time.monotonic() - start_s < 5))
    loop.run(transport.close())
    loop.close()


async def ask(transport: Transport, timeout_s: float) -> str:
    """Make one attempt; return kind and phase of its failure."""
    try:
        await run_attempt(
            transport,
            "/v1/chat/completions",
            b'{"model":"test-model","messages":[{"role":"user","content":"hi"}]}',
            limits=Limits(timeout_s),
            check=lambda body: body if isinstance(body, dict) else {},
        )
    except AttemptFailed as failed:
        return f"{failed.failure.kind} {failed.failure.phase}"
    return "answered"


def main(role: str, *args: str) -> None:
    """Play a role."""
    done = globals()[role](*args)
    if asyncio.iscoroutine(done):
        asyncio.run(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
