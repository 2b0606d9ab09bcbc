"""report.json against the log of events, and both against what the server saw."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.standin import Model, auth_401, close_before_headers, endless_stream, hang, reply, status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.suite import Ran, Suite
    from tests.standin import Received, StandIn

WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
EMBEDDER = Model("test-embedder", type="embedding")
SECRET = "zebra-quagga"
MIXED = f"""
    import pytest, threading

    def test_ok(lm): assert lm("ok {SECRET}").text == "echo: ok {SECRET}"
    def test_cached(lm):
        lm("twice {SECRET}")
        assert lm("twice {SECRET}").cached
    def test_map(lm): assert len(lm.map(["m 0", "m 1", "m 1", "m 2"])) == 4
    def test_map_partly(lm):
        found = lm.map(["m 3", "refused m", "gone m"], return_errors=True)
        assert [getattr(one, "kind", None) for one in found] == [None, "auth", "disconnect"]
    def test_embed(lm): assert len(lm.embed(["a {SECRET}", "b"])) == 2
    def test_retried(lm): assert lm("fails once {SECRET}").attempts == 2
    def test_lost(lm): lm("gone")
    def test_refused(lm): lm("refused")
    def test_slow(lm): lm("never", timeout=0.2, retries=1)
    def test_leaves(lm):
        for piece in lm.stream("endless {SECRET}"): break
    def test_reads(lm): assert "".join(lm.stream("read {SECRET}")) == "echo: read {SECRET}"
    def test_shared(lm):
        asked = [threading.Thread(target=lm, args=("same {SECRET}",)) for _ in range(4)]
        for one in asked: one.start()
        for one in asked: one.join()
    def test_models(lm): lm.models()
    @pytest.mark.llm(cache=False)
    def test_uncached(lm): assert [lm("ok {SECRET}").cached for _ in range(2)] == [False, False]
    @pytest.mark.skip
    def test_skipped(lm): lm("skipped")
    def test_plain(): pass
    @pytest.mark.xfail
    def test_xfails(lm): assert lm("x {SECRET}") == "y"
    @pytest.mark.xfail
    def test_xpasses(lm): lm("z {SECRET}")
"""


@pytest.fixture(autouse=True)
def faults(server: StandIn) -> None:
    failed: list[Received] = []

    def fails_once(received: Received) -> bool:
        if not received.text.startswith("fails once") or failed:
            return False
        failed.append(received)
        return True

    server.when(fails_once, status(500))
    server.when(lambda r: r.text.startswith("gone"), close_before_headers())
    server.when(lambda r: r.text.startswith("refused"), auth_401())
    server.when(lambda r: r.text == "never", hang())
    server.when(lambda r: r.text.startswith("endless"), endless_stream())
    server.when(lambda r: r.text.startswith("same"), reply("the same", delay_s=0.2))


def run(suite: Suite, way: tuple[str, ...]) -> Ran:
    suite.server.models.append(EMBEDDER)
    suite.write(MIXED)
    return suite.run(
        *way, "--lmstudio-retries=1", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=50%",
        "--lmstudio-pipeline-version=v7", "-v",
    )  # fmt: skip


def calls(ran: Ran) -> dict[str, list[dict[str, Any]]]:
    """Return the events of each call."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in ran.events:
        if "call_id" in event:
            found.setdefault(event["call_id"], []).append(event)
    return found


def counted(ran: Ran, fits: Callable[[list[dict[str, Any]]], bool]) -> int:
    return sum(fits(events) for events in calls(ran).values())


@WAYS
def test_every_number_holds(suite: Suite, way: tuple[str, ...]) -> None:
    ran = run(suite, way)
    report = ran.report
    assert report["schema_version"] == 1
    assert report["calls"] == {
        "total": 25, "sent": 20, "ok": 15, "failed": 5, "cached": 1, "coalesced": 3, "abandoned": 1,
    }  # fmt: skip
    attempts = report["attempts"]
    # Failed: gone (2), gone m (2), never (2), refused and refused m (1 each), fails once (1).
    assert attempts | {"total": 24, "ok": 15, "failed": 9, "retries": 4, "disconnects": 6} == attempts
    assert (
        report["rates"]
        | {
            "error_rate": pytest.approx(5 / 20, abs=1e-3),
            "disconnect_rate": pytest.approx(6 / 24, abs=1e-3),
            "first_attempt_failure_rate": pytest.approx(6 / 20, abs=1e-3),
        }
        == report["rates"]
    )
    assert report["errors_by_kind"] == {"disconnect": 4, "timeout": 2, "auth": 2, "server_error": 1}
    assert report["errors_by_category"] == {"network": 7, "auth": 2}
    assert report["latency_ms"]["count"] == 15
    assert report["tests"] == {
        "passed": 12, "failed": 1, "error": 0, "lm_error": 2, "skipped": 1, "xfailed": 1, "xpassed": 1,
    }  # fmt: skip
    assert report["lost"] == {"requests_without_outcome": 0, "workers_crashed": 0, "damaged_lines": 0}
    assert report["gate"]["failed"] is False
    assert report["cache"] | {"hits": 1, "stores": 13, "evictions": 0, "entries": 13} == report["cache"]
    assert report["pipeline_version"] == "v7"
    assert report["exit_status"] == ran.ret == 1


@WAYS
def test_the_log_and_the_server_agree(suite: Suite, way: tuple[str, ...]) -> None:
    ran = run(suite, way)
    report, requests = ran.report, suite.server.requests
    sent = ran.named("gen_request")
    assert report["attempts"]["total"] + 1 == len(sent)  # one is abandoned
    assert len(requests) == len(sent) + report["attempts"]["stale_reconnects"]
    assert suite.server.peak_in_flight <= report["concurrency"]["peak_in_flight"] <= 4
    assert counted(ran, lambda events: events[-1]["event"] == "gen_success") == report["calls"]["ok"]
    assert counted(ran, lambda events: events[-1]["event"] == "gen_error") == report["calls"]["failed"]
    assert len(ran.named("gen_abandoned")) == report["calls"]["abandoned"]
    sources = Counter(event["source"] for event in ran.named("gen_cached"))
    assert sources == {"cache": report["calls"]["cached"], "coalesced": report["calls"]["coalesced"]}
    assert {event["pipeline_version"] for event in ran.events} == {"v7"}
    assert {event["run_id"] for event in ran.events} == {report["run_id"]}
    assert report["tokens"]["out"] == sum(event["tokens_out"] or 0 for event in ran.named("gen_success"))
    (left,) = [request for request in requests if request.text.startswith("endless")]
    assert left.outcome == "aborted"
    assert ran.events[0]["event"] == "run_start"
    assert ran.events[-1]["event"] == "run_end"


@WAYS
def test_no_prompt_and_no_answer_is_written(suite: Suite, way: tuple[str, ...]) -> None:
    run(suite, way)
    runs: Path = suite.pytester.path / ".lmstudio" / "runs"
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"latest", "events.jsonl", "report.json"}
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
