"""docs/faults.md tells what really happens: every fault is met through the plugin, and the page made of what came."""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.errors import ErrorKind
from tests.faults_table import PAGE, RETRIES, WRITE, Met, masked, rendered
from tests.plugin.faults import ANSWERED, FAULTS, Fault
from tests.plugin.suite import Suite
from tests.standin import Model, StandIn, close_before_headers, engine_error, reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.suite import Ran
    from tests.standin import Received

SUITE = """
    import json
    import pytest
    from pytest_lmstudio import LMError
    MET, KEYWORDS = {{}}, {keywords!r}
    def meet(call):
        try:
            reply = call()
        except LMError as error:
            return str(error)
        reason = f", with finish_reason `{{reply.finish_reason}}`" if reply.finish_reason != "stop" else ""
        return "an answer" + ("" if reply.text else " without text") + reason
    @pytest.mark.parametrize("n", range(len(KEYWORDS)))
    def test_it(lm, n):
        MET[f"test_it[{{n}}]"] = meet(lambda: lm(f"fault {{n}}", **KEYWORDS[n]))
    def test_told():
        with open("met.json", "w", encoding="utf-8") as file:
            json.dump(MET, file)
"""
TWO_AT_ONCE = """
    import json
    from pytest_lmstudio import LMError
    def test_it(lm):
        answer, error = lm.map(["long", "overflow"], return_errors=True)
        assert answer.text == "done"
        with open("met.json", "w", encoding="utf-8") as file:
            json.dump({"test_it": str(error)}, file)
"""
INTERRUPTED = """
    import json
    import signal
    from pytest_lmstudio import LMError
    def test_it(lm):
        lm("before")
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            pass
        try:
            lm("after")
        except LMError as error:
            line = str(error)
        with open("met.json", "w", encoding="utf-8") as file:
            json.dump({"test_it": line}, file)
"""
HOW = (
    "-n0", f"--lmstudio-retries={RETRIES}", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%",
    "--lmstudio-cache=off",
)  # fmt: skip


def asks(prompt: str) -> Callable[[Received], bool]:
    return lambda received: received.text == prompt


def lines_of(suite: Suite) -> dict[str, str]:
    found: dict[str, str] = json.loads((suite.pytester.path / "met.json").read_text("utf-8"))
    return found


def met(ran: Ran, fault: Fault, test: str, line: str, *, mode: str, url: str) -> Met:
    """Return what became of a fault, by the line that its test saw and by the events of its call."""
    own = [event for event in ran.events if str(event.get("nodeid", "")).endswith(f"::{test}")]
    errors = [event for event in own if event["event"] == "gen_error"]
    sent = sum(event["event"] == "gen_request" for event in own)
    last = errors[-1] if errors else {"error_kind": "", "error_category": ""}
    if not line.startswith("["):
        last = {"error_kind": "", "error_category": ""}
    return Met(
        fault.does, masked(line, url), last["error_kind"], last["error_category"], max(sent - 1, 0), mode, fault.why
    )


def meet_all(suite: Suite, faults: list[Fault], mode: str) -> list[Met]:
    """Meet many faults in one run, one a test."""
    for n, fault in enumerate(faults):
        suite.server.when(asks(f"fault {n}"), fault.step)
    suite.write(SUITE.format(keywords=[fault.keywords for fault in faults]))
    ran = suite.run(*HOW, "--lmstudio-stream" if mode == "stream" else "--no-lmstudio-stream")
    assert ran.outcomes == {"passed": len(faults) + 1}
    lines = lines_of(suite)
    tests = [f"test_it[{n}]" for n in range(len(faults))]
    return [
        met(ran, fault, t, lines[t], mode=mode, url=suite.server.url) for fault, t in zip(faults, tests, strict=True)
    ]


def meet_one(
    suite: Suite, does: str, *how: str, before: Callable[[], object] | None = None, why: str = "", mode: str = ""
) -> Met:
    """Meet one fault of the server as a whole."""
    fault = Fault(does, reply("unused"), why=why)
    suite.write(SUITE.format(keywords=[{}]))
    if before:
        before()
    ran = suite.run(*HOW, *how)
    return met(ran, fault, "test_it[0]", lines_of(suite)["test_it[0]"], mode=mode, url=suite.server.url)


def meet_a_full_context(suite: Suite) -> Met:
    """Meet a context that another call in flight has filled."""
    does = "the context is full, and other calls are in flight"
    suite.server.when(asks("long"), reply("done", delay_s=3.0))
    suite.server.when(asks("overflow"), engine_error(500, "Context size has been exceeded.", delay_s=0.2))
    suite.write(TWO_AT_ONCE)
    ran = suite.run(*HOW)
    fault = Fault(does, reply("unused"), why="the others may have filled it")
    events = [event for event in ran.events if event["event"] == "gen_error"]
    found = met(ran, fault, "test_it", lines_of(suite)["test_it"], mode="stream", url=suite.server.url)
    return found._replace(retries=len(events) - 1)


def meet_a_server_that_goes(suite: Suite) -> Met:
    """Meet a server that is gone when the first call is made, though it listed its models."""

    class Goes:
        def pytest_runtest_setup(self, item: pytest.Item) -> None:
            if item.name == "test_it[1]":
                suite.server.stop()

    fault = Fault("goes away during the run", reply("unused"))
    suite.write(SUITE.format(keywords=[{}, {}]))
    arguments = suite.arguments(*HOW)
    ran = suite.ran(suite.pytester.runpytest_inprocess(*arguments, plugins=[Goes()]))
    return met(ran, fault, "test_it[1]", lines_of(suite)["test_it[1]"], mode="stream", url=suite.server.url)


def meet_an_interrupt(suite: Suite) -> Met:
    """Meet the end of a run that was stopped, which is no fault of the server's."""
    fault = Fault("is not asked any more: the run was interrupted (Ctrl-C, or a stop signal)", reply("unused"))
    suite.write(INTERRUPTED)
    ran = suite.run_apart(*HOW)
    assert ran.ret == 2, ran.out
    found = met(ran, fault, "test_it", lines_of(suite)["test_it"], mode="", url=suite.server.url)
    return found._replace(retries=0)


def put(suite: Suite, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(suite.server, name, value)


def everything(make: Callable[[], Suite]) -> list[Met]:
    """Return what became of every fault."""
    every = FAULTS + ANSWERED
    found = meet_all(make(), every, "stream")
    found += meet_all(make(), [fault for fault in every if not fault.streams], "whole")
    found.append(meet_one(suite := make(), "is not there", before=suite.server.stop))
    found.append(meet_a_server_that_goes(make()))
    suite = make()
    suite.server.default = close_before_headers()
    found.append(
        meet_one(
            suite,
            "fails every request, and the breaker paused three times",
            "--lmstudio-breaker=1:0.05",
            "--lmstudio-retries=9",
            why="the breaker gave up",
            mode="stream",
        )
    )
    found.append(
        meet_one(
            make(),
            "is not asked: the cache is offline and does not hold the answer",
            "--lmstudio-cache=offline",
            "--lmstudio-model=test-model",
        )
    )
    found.append(
        meet_one(suite := make(), "wants a token before it lists its models", before=put(suite, "token", "secret"))
    )
    two = [Model("one"), Model("two")]
    found.append(
        meet_one(suite := make(), "has loaded several models, and none is named", before=put(suite, "models", two))
    )
    none = [Model("one", loaded=False)]
    found.append(meet_one(suite := make(), "has loaded no model, and none is named", before=put(suite, "models", none)))
    found.append(meet_a_full_context(make()))
    found.append(meet_an_interrupt(make()))
    return found


@pytest.mark.timeout(600)
def test_the_page_of_faults_tells_what_really_happens(pytester: pytest.Pytester) -> None:
    servers: list[StandIn] = []

    def make() -> Suite:
        servers.append(StandIn(capacity=64))
        servers[-1].strict = False
        servers[-1].start()
        return Suite(pytester, servers[-1])

    try:
        found = everything(make)
    finally:
        for server in servers:
            server.close()
    page = rendered(found)
    if os.environ.get(WRITE):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    written = PAGE.read_text("utf-8") if PAGE.exists() else ""
    changed = list(
        difflib.unified_diff(written.splitlines(), page.splitlines(), "docs/faults.md", "now", lineterm="", n=0)
    )
    assert changed == [], "write it anew with: python -m tests.faults_table"
    assert {one.kind for one in found if one.kind} == set(ErrorKind)
