"""An interrupt wherever a run may be: nothing hangs, what was in flight may end, what waits ends at once."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.apart import PATIENT, Apart
from tests.standin import Model, StandIn, hang, html_500, rate_limit, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugin.suite import Ran

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and their signals are POSIX"),
    pytest.mark.timeout(120),
]
HERE = "import pathlib, time, pytest\nhere = pathlib.Path(__file__).with_name('here')\n"
ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")
BOTH = pytest.mark.parametrize("way", ["-n0", "-n2"])


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(capacity=64) as server:
        server.strict = False
        server.when(lambda r: r.text.startswith("slow"), reply("a slow answer", delay_s=0.5, per_token_s=0.5))
        server.when(lambda r: r.text.startswith("hang"), hang())
        yield server


def ended(run: Apart) -> Ran:
    ran = run.wait()
    run.wait_until_gone()
    return ran


@pytest.mark.parametrize(("way", "option"), [("-n0", "-v"), ("-n2", "-v"), ("-n2", "--collect-only")])
def test_while_tests_are_collected(tmp_path: Path, server: StandIn, way: str, option: str) -> None:
    source = HERE + "here.touch()\ntime.sleep(600)\ndef test_it(lm): lm('never')"
    with Apart(tmp_path, source, server.url, way, option) as run:
        run.wait_until((tmp_path / "here").exists)
        run.signal(signal.SIGINT)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert not ran.home.exists()
    assert server.all_requests == []


@pytest.mark.parametrize(("way", "number"), [("-n0", signal.SIGINT), ("-n2", signal.SIGINT), ("-n2", signal.SIGTERM)])
def test_before_the_first_call(tmp_path: Path, server: StandIn, way: str, number: signal.Signals) -> None:
    source = HERE + "def test_it(lm):\n    here.touch()\n    time.sleep(600)\n    lm('never')"
    with Apart(tmp_path, source, server.url, way) as run:
        run.wait_until((tmp_path / "here").exists)
        run.signal(number)
        ran = ended(run)
    assert ran.ret == (2 if number == signal.SIGINT else -signal.SIGTERM), ran.out
    assert not ran.home.exists()


@pytest.mark.parametrize(("way", "model"), [("-n0", ()), ("-n2", ("--lmstudio-model=test-model",))])
def test_while_the_server_is_asked_what_it_is(tmp_path: Path, way: str, model: tuple[str, ...]) -> None:
    source = "def test_it(lm): lm('never')"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Apart(tmp_path, source, url, way, "--lmstudio-wait=600", *model) as run:
            connection, _ = silent.accept()
            run.signal(signal.SIGTERM)
            ran = ended(run)
            connection.close()
    assert ran.ret == 2, ran.out
    if model:  # else there was no call yet, only the question which model
        assert ran.report["errors_by_kind"] == {"cancelled": 1}


def test_while_a_model_is_loaded(tmp_path: Path, server: StandIn) -> None:
    server.models[:] = [Model("test-model", loaded=False, load_s=60)]
    source = "def test_it(lm): lm('never')"
    with Apart(tmp_path, source, server.url, "-n0", "--lmstudio-model=test-model") as run:
        server.wait_for(lambda: any(r.path.endswith("chat/completions") for r in server.all_requests), 30)
        run.signal(signal.SIGINT)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["errors_by_kind"] == {"cancelled": 1}


@BOTH
def test_during_a_pause_of_the_breaker(tmp_path: Path, server: StandIn, way: str) -> None:
    server.default = html_500()
    source = "def test_it(lm): lm('broken')"
    with Apart(tmp_path, source, server.url, way, "--lmstudio-breaker=1:600") as run:
        server.wait_for(lambda: any(r.outcome for r in server.requests), 30)
        run.signal(signal.SIGTERM, group=False)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"]["failed"] == 1
    assert ran.report["errors_by_kind"] == {"server_error": 1, "cancelled": 1}
    assert len(server.requests) == 1


@BOTH
def test_during_a_back_off(tmp_path: Path, server: StandIn, way: str) -> None:
    server.default = rate_limit(retry_after=100)
    source = "def test_it(lm): lm('later')"
    with Apart(tmp_path, source, server.url, way) as run:
        server.wait_for(lambda: any(r.outcome for r in server.requests), 30)
        run.signal(signal.SIGINT)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"]["failed"] == 1
    assert ran.report["errors_by_kind"] == {"rate_limited": 1, "cancelled": 1}
    (last,) = [event for event in ran.named("gen_error") if event["error_kind"] == "cancelled"]
    assert last["attempt"] == 0


@pytest.mark.parametrize(("way", "scope"), [("-n0", "session"), ("-n2", "function")])
def test_in_a_fixtures_setup(tmp_path: Path, server: StandIn, way: str, scope: str) -> None:
    client = "lm" if scope == "function" else "lm_session"
    source = f"""
        import pytest
        @pytest.fixture(scope="{scope}")
        def told({client}): return {client}("slow")
        def test_it(told): assert told
    """
    with Apart(tmp_path, source, server.url, way) as run:
        server.wait_for(lambda: server.in_flight == 1, 30)
        run.signal(signal.SIGTERM)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"] | {"ok": 1, "failed": 0} == ran.report["calls"]
    assert ran.report["cache"]["entries"] == 1


@pytest.mark.parametrize(("way", "number"), [("-n0", signal.SIGINT), ("-n2", signal.SIGTERM)])
def test_in_a_stream(tmp_path: Path, server: StandIn, way: str, number: signal.Signals) -> None:
    source = HERE + "def test_it(lm):\n    for piece in lm.stream('slow'):\n        here.touch()"
    with Apart(tmp_path, source, server.url, way) as run:
        run.wait_until((tmp_path / "here").exists)
        run.signal(number)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"] | {"ok": 1, "abandoned": 0} == ran.report["calls"]
    assert ran.report["cache"]["entries"] == 1


ALM = """
import asyncio, pytest
pytestmark = {mark}
@pytest.fixture
def anyio_backend(): return "{backend}"
async def test_map(alm): await alm.map(["slow 1", "slow 2"])
"""
GATHER = """
async def test_gather(alm): await asyncio.gather(alm("slow 1"), alm("slow 2"))
async def test_stream(alm): assert [piece async for piece in alm.stream("slow 3")]
"""


@pytest.mark.parametrize(
    ("loop", "name", "number"),
    [
        *(("asyncio", name, signal.SIGINT) for name in ("map", "gather", "stream")),
        ("asyncio", "map", signal.SIGTERM),
        ("anyio", "map", signal.SIGINT),
        ("anyio", "stream", signal.SIGTERM),
    ],
)
def test_in_coroutines(tmp_path: Path, server: StandIn, loop: str, name: str, number: signal.Signals) -> None:
    source = ALM.format(mark=f"pytest.mark.{loop}", backend="asyncio") + GATHER
    calls = 1 if name == "stream" else 2
    with Apart(tmp_path, source, server.url, "-n0", "-k", f"test_{name}", *ASYNCIO, plugins=[loop]) as run:
        server.wait_for(lambda: server.in_flight == calls, 30)
        run.signal(number)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"] | {"total": calls, "ok": calls, "abandoned": 0} == ran.report["calls"], ran.out
    assert ran.report["cache"]["entries"] == calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_coroutines_on_trio(tmp_path: Path, server: StandIn, number: signal.Signals) -> None:
    source = ALM.format(mark="pytest.mark.anyio", backend="trio")
    with Apart(tmp_path, source, server.url, "-n0", plugins=["anyio"]) as run:
        server.wait_for(lambda: server.in_flight == 2, 30)
        run.signal(number)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["calls"] | {"total": 2, "ok": 2, "abandoned": 0} == ran.report["calls"]


def test_in_a_teardown_that_hangs_the_second_one_breaks_it_off_and_the_report_is_there(
    tmp_path: Path, server: StandIn
) -> None:
    source = HERE + (
        "@pytest.fixture\ndef slow_end(lm):\n    yield lm\n    here.touch()\n    time.sleep(600)\n"
        "def test_it(slow_end): slow_end('quick')"
    )
    with Apart(tmp_path, source, server.url, "-n0") as run:
        run.wait_until((tmp_path / "here").exists)
        run.signal(signal.SIGINT)
        ran = ended(run)
    assert ran.ret == 2, ran.out
    assert ran.report["exit_status"] == 2
    assert ran.report["calls"]["ok"] == 1


def test_while_pytest_shows_the_first_one(tmp_path: Path, server: StandIn) -> None:
    """Pytest sets its exit status after that, and a second one that breaks it off keeps it from doing so."""
    (tmp_path / "shows.py").write_text(HERE + "def pytest_keyboard_interrupt():\n    here.touch()\n    time.sleep(600)")
    source = "def test_it(lm): lm('hang')"
    with Apart(tmp_path, PATIENT + source, server.url, "-n0", "-p", "shows") as run:
        server.wait_for(lambda: server.in_flight == 1, 30)
        run.signal(signal.SIGINT)
        run.wait_until((tmp_path / "here").exists)
        run.signal(signal.SIGINT)
        ran = ended(run)
    assert ran.ret == -signal.SIGINT, ran.out
    assert ran.report["exit_status"] == 2
    assert ran.report["gate"]["failed"] is None


def test_in_the_end_of_a_session_that_hangs(tmp_path: Path, server: StandIn) -> None:
    """Pytest tears down what is left after an interrupt; there the second one has to break it off."""
    source = (
        PATIENT
        + HERE
        + (
            "@pytest.fixture(scope='session', autouse=True)\ndef slow_end():\n    yield\n    here.touch()\n"
            "    time.sleep(600)\n"
            "def test_it(lm): lm('hang')\ndef test_next(lm): lm('never')"
        )
    )
    with Apart(tmp_path, source, server.url, "-n0") as run:
        server.wait_for(lambda: server.in_flight == 1, 30)
        run.signal(signal.SIGINT)
        run.wait_until((tmp_path / "here").exists)
        run.signal(signal.SIGINT)
        server.wait_for(lambda: server.in_flight == 0, 30)
        ran = ended(run)
    assert ran.ret == -signal.SIGINT, ran.out
    assert ran.report["exit_status"] == 2
    assert ran.report["errors_by_kind"] == {"cancelled": 1}
    assert ran.report["gate"]["failed"] is None
