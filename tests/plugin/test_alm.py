"""The fixture `alm`, on asyncio with pytest-asyncio and with anyio, and on trio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.standin import Model, close_before_headers, endless_stream, hang, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Ran, Suite

ASYNCIO = "pytestmark = pytest.mark.asyncio"
ANYIO = "pytestmark = pytest.mark.anyio\n@pytest.fixture\ndef anyio_backend(): return {!r}"
LOOPS = pytest.mark.parametrize(
    "loop",
    [
        pytest.param(ASYNCIO, id="pytest-asyncio"),
        pytest.param(ANYIO.format("asyncio"), id="anyio-asyncio"),
        pytest.param(ANYIO.format("trio"), id="anyio-trio"),
    ],
)


def run(suite: Suite, loop: str, source: str, *args: str) -> Ran:
    suite.write(f"import pytest\n{loop}\n{source}")
    asyncio = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")
    return suite.run("-n0", "-p", "anyio.pytest_plugin", *(asyncio if loop == ASYNCIO else ()), *args)


@LOOPS
def test_everything_that_lm_does(suite: Suite, loop: str) -> None:
    suite.server.models.append(Model("embedder", type="embedding"))
    suite.server.when(lambda r: r.text == "json", reply('{"n": 1}'))
    ran = run(suite, loop, """
async def test_call(alm): assert (await alm("hi", max_tokens=9)).text == "echo: hi"
async def test_chat(alm): assert "ho" in await alm.chat([{"role": "user", "content": "ho"}])
async def test_json(alm): assert await alm.json("json", {"type": "object"}) == {"n": 1}
async def test_map(alm): assert [str(reply) for reply in await alm.map(["a", "b"])] == ["echo: a", "echo: b"]
async def test_stream(alm): assert [piece async for piece in alm.stream("read on")] == ["echo:", " read", " on"]
async def test_replayed(alm): assert [piece async for piece in alm.stream("read on")] == ["echo:", " read", " on"]
async def test_embed(alm): assert len(await alm.embed(["a", "b"])) == 2
async def test_models(alm): assert [model.id for model in await alm.models()] == ["test-model", "embedder"]
async def test_settings(alm): assert alm.settings.retries == 3
async def test_keyword(alm):
    with pytest.raises(TypeError, match="did you mean 'seed'"): await alm("hi", sede=1)
""")  # fmt: skip
    assert ran.summary == "10 passed", ran.out
    assert ran.report["calls"] | {"sent": 7, "ok": 7, "cached": 1} == ran.report["calls"]


@LOOPS
def test_lost_failed_and_expected_tests(suite: Suite, loop: str) -> None:
    suite.server.when(lambda r: r.text == "lost", close_before_headers())
    ran = run(suite, loop, """
async def test_lost(alm): await alm("lost")
async def test_lost_map(alm): await alm.map(["a", "lost"])
async def test_fails(alm): assert await alm("hi") == "x"
async def test_returned(alm):
    found = await alm.map(["b", "lost"], return_errors=True)
    assert [getattr(one, "kind", None) for one in found] == [None, "disconnect"]
""", "--lmstudio-retries=0", "--lmstudio-max-error-rate=1")  # fmt: skip
    assert ran.outcomes == {"lm_error": 2, "failed": 1, "passed": 1}


@LOOPS
def test_a_stream_that_is_left_is_abandoned(suite: Suite, loop: str) -> None:
    suite.server.default = endless_stream()
    ran = run(suite, loop, """
async def test_leaves(alm):
    async for piece in alm.stream("hi"): break
    assert piece == "word1"
async def test_leaves_open(alm):
    pieces = alm.stream("ho")
    assert await anext(pieces) == "word1"
    await pieces.aclose()
    assert [piece async for piece in pieces] == []
left = []
async def test_forgets(alm):
    left.append(alm.stream("hum"))
    assert await anext(left[0]) == "word1"
""")  # fmt: skip
    assert ran.summary == "3 passed"
    suite.server.wait_for(lambda: suite.server.in_flight == 0)
    assert [request.outcome for request in suite.server.requests] == ["aborted"] * 3
    assert ran.report["calls"] | {"total": 3, "sent": 0, "abandoned": 3} == ran.report["calls"]


@pytest.mark.parametrize("asked", ['alm("hi")', 'alm.map(["hi", "ho"])'], ids=["call", "map"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_the_test_cancels_is_abandoned(suite: Suite, backend: str, asked: str) -> None:
    suite.server.default = hang()
    ran = run(suite, ANYIO.format(backend), f"""
import anyio
async def test_cancels(alm):
    with anyio.move_on_after(0.3) as scope: await {asked}
    assert scope.cancelled_caught
""")  # fmt: skip
    assert ran.summary == "1 passed"
    n = 2 if "map" in asked else 1
    suite.server.wait_for(lambda: suite.server.in_flight == 0)
    assert ran.report["calls"] | {"total": n, "sent": 0, "abandoned": n} == ran.report["calls"]


@LOOPS
def test_calls_at_once_share_the_limit(suite: Suite, loop: str) -> None:
    suite.server.default = reply("x", delay_s=0.05)
    together = """
async def test_many(alm):
    found = []
    async def ask(n): found.append(await alm(f"prompt {n}"))
    GATHER
    assert len(found) == 50
"""
    trio = (
        "import trio\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        for n in range(50): nursery.start_soon(ask, n)"
    )
    gather = "import asyncio; await asyncio.gather(*map(ask, range(50)))"
    ran = run(suite, loop, together.replace("GATHER", trio if "trio" in loop else gather), "--lmstudio-concurrency=3")
    assert ran.summary == "1 passed"
    assert suite.server.peak_in_flight == 3


def test_tests_on_every_loop_share_one_pool_of_connections(suite: Suite) -> None:
    """One after another they need one connection, although each async test has an event loop of its own."""
    suite.server.keep_alive_s = 600.0
    suite.conftest("""
        from pytest_lmstudio.engine import transport
        def pytest_configure(config):
            config.kept_s, transport.KEEPALIVE_EXPIRY_S = transport.KEEPALIVE_EXPIRY_S, 600.0
        def pytest_unconfigure(config):
            transport.KEEPALIVE_EXPIRY_S = config.kept_s
    """)
    suite.write("""
        import pytest
        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request): return request.param
        @pytest.mark.asyncio
        @pytest.mark.parametrize("n", [1, 2])
        async def test_asyncio(alm, n): assert await alm(f"asyncio {n}")
        @pytest.mark.anyio
        @pytest.mark.parametrize("n", [1, 2])
        async def test_anyio(alm, n, anyio_backend): assert await alm(f"{anyio_backend} {n}", cache=False)
        def test_sync(lm): assert [str(reply) for reply in lm.map(["a", "b"])] == ["echo: a", "echo: b"]
        @pytest.mark.anyio
        async def test_at_once(alm, anyio_backend): assert len(await alm.map(["c", "d"], cache=False)) == 2
    """)
    plugin = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")
    ran = suite.run("-n0", "--lmstudio-concurrency=1", *plugin, "-p", "anyio.pytest_plugin")
    assert ran.summary == "9 passed", ran.out
    assert len(suite.server.requests) == 12
    assert len({request.connection for request in suite.server.requests}) == 1
    assert [request.reused for request in suite.server.requests][1:] == [True] * 11
