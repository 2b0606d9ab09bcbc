"""`health`: one look as JSON, and the service that answers from what it knows, however often it is asked."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lmstudio.cli import serving
from pytest_lmstudio.cli.pulse import Beat, Breaker, judge
from pytest_lmstudio.cli.serving import HealthServer, Monitor
from pytest_lmstudio.cli.target import Target
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.server.probe import Probe
from pytest_lmstudio.settings import BreakerLimits, Settings
from tests.standin import Model, StandIn, close_before_headers, echo, hang
from tests.unit.cli.asked import TOKEN, ask, silent_port, standin, taken_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Capsys = pytest.CaptureFixture[str]
LIMITS = BreakerLimits(3, 60.0)
PAGES = Path(__file__).parents[3] / "docs"


# One look.


def test_the_page_explains_every_key() -> None:
    page = (PAGES / "doctor.md").read_text("utf-8")
    told = set(judged()) - {"url", "model", "checked_at", "max_error_rate"}  # which speak for themselves
    assert {key for key in told if f"`{key}`" not in page} == set()


def test_a_healthy_server(capsys: Capsys) -> None:
    with standin(Model("qwen")) as server:
        said = ask(capsys, "health", "--url", server.url, "--samples", "4")
        assert [received.body["max_tokens"] for received in server.requests] == [1, 1, 1, 1]
    told = said.told
    assert (said.status, said.err) == (0, "")
    assert {name: told[name] for name in ("status", "reason", "url", "model", "samples", "failed", "error_rate")} == {
        "status": "healthy", "reason": None, "url": server.url, "model": "qwen", "samples": 4, "failed": 0,
        "error_rate": 0.0,
    }  # fmt: skip
    assert 0 < told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"] <= told["max_ms"]
    assert (told["breaker"], told["errors_by_kind"]) == ("closed", {})


def test_no_server_is_not_healthy(capsys: Capsys) -> None:
    with taken_port() as port:
        said = ask(capsys, "health", "--url", f"http://127.0.0.1:{port}")
    told = said.told
    assert (said.status, told["status"], told["samples"]) == (1, "unhealthy", 1)
    assert told["errors_by_kind"] == {"unreachable": 1}
    assert told["reason"].startswith("100% failed, limit 5%; the last one: [unreachable] no connection: ")
    assert (told["latency_ms"], told["p99_ms"], told["spike"]) == (None, None, False)


def test_a_server_that_says_nothing_is_to_be_restarted_and_not_to_be_waited_for(capsys: Capsys) -> None:
    with silent_port() as port:
        told = ask(capsys, "health", "--url", f"http://127.0.0.1:{port}", "--timeout", "1").told
    why = "[timeout] it did not list its models: 1 s passed before the answer was whole"
    how = "restart the server, and look in its log"
    assert told["reason"] == f"100% failed, limit 5%; the last one: {why}; {how}"


@pytest.mark.parametrize("option", [("--host", "127.0.0.1"), ("--interval", "5")])
def test_what_goes_with_a_service_alone_is_wrong_use_without_one(capsys: Capsys, option: tuple[str, str]) -> None:
    assert ask(capsys, "health", *option) == (2, "", f"pytest-lmstudio: {option[0]} goes with --serve\n")


@pytest.mark.parametrize(
    ("models", "keywords", "kind"),
    [
        ([Model("one"), Model("two")], {}, "no_model"),
        ([Model("one", type="embedding")], {}, "no_model"),
        ([Model("one")], {"token": TOKEN}, "auth"),
    ],
)
def test_what_another_try_cannot_mend_is_tried_once(
    capsys: Capsys, models: list[Model], keywords: dict[str, Any], kind: str
) -> None:
    with standin(*models, **keywords) as server:
        said = ask(capsys, "health", "--url", server.url)
        assert server.requests == []
    assert (said.status, said.told["errors_by_kind"]) == (1, {kind: 1})


def test_a_slow_model_is_asked_once(capsys: Capsys) -> None:
    with standin() as server:
        server.default = hang()
        said = ask(capsys, "health", "--url", server.url, "--timeout", "0.2")
        assert len(server.requests) == 1
    assert (said.status, said.told["errors_by_kind"]) == (1, {"timeout": 1})


def test_an_unstable_server_is_asked_to_the_end(capsys: Capsys) -> None:
    with standin() as server:
        server.script(echo(), close_before_headers(), echo(), close_before_headers())
        said = ask(capsys, "health", "--url", server.url, "--samples", "5")
    assert said.status == 1
    assert (said.told["samples"], said.told["failed"], said.told["error_rate"]) == (5, 2, 0.4)
    assert said.told["errors_by_kind"] == {"disconnect": 2}


def test_the_error_rate_may_be_higher_where_the_environment_says_so(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_ERROR_RATE", "50%")
    with standin() as server:
        server.script(echo(), close_before_headers())
        said = ask(capsys, "health", "--url", server.url, "--samples", "2")
    assert (said.status, said.told["status"], said.told["max_error_rate"]) == (0, "healthy", 0.5)


# The judgement.


def good(latency_ms: float = 100.0) -> Beat:
    return Beat(1_800_000_000.0, "qwen", latency_ms, latency_ms / 2)


def bad(kind: ErrorKind = ErrorKind.DISCONNECT) -> Beat:
    return Beat(1_800_000_001.0, "qwen", 5.0, None, kind, "it broke")


def judged(*beats: Beat, breaker: Breaker | None = None, limit: float = 0.05) -> dict[str, Any]:
    return judge(beats, url="http://x", max_error_rate=limit, breaker=breaker or Breaker(LIMITS))


def test_before_the_first_generation_nothing_is_known() -> None:
    told = judged()
    assert (told["status"], told["error_rate"], told["checked_at"], told["p95_ms"]) == ("starting", None, None, None)


def test_numbers_are_those_of_the_answers() -> None:
    told = judged(*(good(latency) for latency in (100.0, 200.0, 300.0)), bad(), limit=0.25)
    assert (told["status"], told["p50_ms"], told["p95_ms"], told["p99_ms"]) == ("healthy", 200.0, 290.0, 298.0)
    assert (told["latency_ms"], told["ttft_ms"], told["max_ms"]) == (300.0, 150.0, 300.0)
    assert told["checked_at"] == "2027-01-15T08:00:01.000Z"


@pytest.mark.parametrize(
    ("latencies", "spike", "times"),
    [
        ([100.0, 100.0, 100.0, 300.0], True, 3.0),
        ([100.0, 100.0, 100.0, 299.0], False, 2.99),
        ([10.0, 10.0, 10.0, 50.0], False, 5.0),  # no more than a hiccup
        ([100.0], False, 1.0),
        ([0.0, 5e-324, 1.0], False, None),
    ],
)
def test_a_spike_is_seen_against_the_median(latencies: list[float], spike: bool, times: float | None) -> None:
    told = judged(*map(good, latencies))
    assert (told["spike"], told["spike_ratio"], told["status"]) == (spike, times, "healthy")


def test_network_errors_in_a_row_open_the_breaker_and_an_answer_closes_it() -> None:
    breaker = Breaker(LIMITS)
    for beat, state in (
        (bad(), "closed"), (bad(), "closed"), (bad(ErrorKind.AUTH), "closed"), (bad(), "open"), (bad(), "open"),
        (good(), "closed"), (bad(), "closed"),
    ):  # fmt: skip
        breaker = breaker.after(beat)
        assert breaker.state == state
        assert breaker.pause_s == (60.0 if state == "open" else 0.0)
    assert Breaker(None).after(bad()).state == "off"


def test_an_open_breaker_is_unhealthy_whatever_the_rate() -> None:
    told = judged(good(), bad(), breaker=Breaker(LIMITS, failures=3), limit=1.0)
    assert (told["status"], told["breaker"]) == ("unhealthy", "open")
    assert told["reason"].startswith("3 network errors in a row; the last one: [disconnect] it broke; ")


@given(st.lists(st.one_of(st.floats(0, 1e9).map(good), st.sampled_from(ErrorKind).map(bad))))
def test_any_health_is_json_and_in_order(beats: list[Beat]) -> None:
    told = json.loads(json.dumps(judged(*beats), allow_nan=False))
    assert told["samples"] == len(beats)
    assert (told["p50_ms"] is None) is (told["failed"] == len(beats))
    assert told["p50_ms"] is None or told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"] <= told["max_ms"]


# The service.


class Service:
    """A service in this process, and the monitor behind it."""

    def __init__(self, monitor: Monitor, server: HealthServer) -> None:
        self.monitor = monitor
        self._server = server

    def get(
        self, path: str = serving.HEALTH, method: str = "GET", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.server_port, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers
        finally:
            connection.close()

    def raw(self, sent: bytes) -> bytes:
        """Return what comes back, also when the service answers and hangs up before it has read all."""
        with socket.create_connection(("127.0.0.1", self._server.server_port), timeout=20) as connection:
            with suppress(OSError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with suppress(ConnectionResetError):
                while part := connection.recv(65_536):
                    answer += part
            return answer


@contextmanager
def service(
    server: StandIn, *, asks: bool = True, interval_s: float = 60.0, timeout_s: float = 20.0
) -> Iterator[Service]:
    target = Target(Settings(url=server.url, timeout=timeout_s, breaker=BreakerLimits(2, 60.0)), None)
    with Probe(server.url, None) as probe:
        monitor = Monitor(probe, target, window=4, interval_s=interval_s)
        with HealthServer("127.0.0.1", 0, monitor) as health:
            thread = threading.Thread(target=health.serve_forever, args=[0.01], daemon=True)
            thread.start()
            if asks:
                monitor.start()
            try:
                yield Service(monitor, health)
            finally:
                health.shutdown()
                thread.join()
                monitor.stop()


def when(condition: Callable[[], bool], server: StandIn) -> None:
    """Wait; generous, since it is no measurement."""
    server.wait_for(condition, 30)


def test_being_asked_asks_the_model_nothing() -> None:
    with standin() as server, service(server) as asked:
        when(lambda: asked.monitor.health()["samples"] == 1, server)
        answers = [asked.get() for _ in range(10)]
        assert len(server.requests) == 1
    assert {status for status, _, _ in answers} == {200}
    assert {json.loads(text)["status"] for _, text, _ in answers} == {"healthy"}


def test_before_the_first_answer_it_is_unavailable() -> None:
    with standin() as server, service(server, asks=False) as asked:
        status, text, headers = asked.get()
    assert (status, json.loads(text)["status"], headers["Cache-Control"]) == (503, "starting", "no-store")


def test_failures_make_it_unavailable_and_the_breaker_leaves_the_server_alone() -> None:
    with standin() as server:
        server.default = close_before_headers()
        with service(server, interval_s=0.01) as asked:
            when(lambda: asked.monitor.health()["breaker"] == "open", server)
            status, text, _ = [asked.get() for _ in range(20)][-1]  # which takes many intervals
            assert len(server.requests) == 2
    assert (status, json.loads(text)["status"]) == (503, "unhealthy")


def test_only_the_newest_generations_count() -> None:
    with standin() as server:
        server.script(close_before_headers())
        with service(server, interval_s=0.01) as asked:
            when(lambda: asked.monitor.health()["failed"] == 1, server)
            when(lambda: asked.get()[0] == 200, server)
            assert asked.monitor.health()["samples"] == 4


def test_a_monitor_that_meets_the_unforeseen_goes_on_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Beat:
        msg = "what\x1b"
        raise RuntimeError(msg)

    monkeypatch.setattr(serving, "take", fail)
    with standin() as server, service(server, interval_s=0.01) as asked:
        when(lambda: asked.monitor.health()["samples"] >= 2, server)
        status, text, _ = asked.get()
    assert status == 503
    assert r"what\\x1b" in text


def test_stopping_ends_a_generation_that_hangs() -> None:
    with standin() as server:
        server.default = hang()
        with service(server) as asked:
            when(lambda: server.in_flight == 1, server)
        when(lambda: server.in_flight == 0, server)
    assert (asked.monitor.health()["status"], len(server.requests)) == ("starting", 1)


def test_metrics_follow_the_text_format() -> None:
    with standin() as server:
        server.script(echo(), close_before_headers())
        with service(server, interval_s=0.01) as asked:
            when(lambda: asked.monitor.health()["samples"] == 4, server)
            status, text, headers = asked.get(serving.METRICS)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert families == [
        ("lmstudio_health_up", "gauge"), ("lmstudio_health_latency_seconds", "gauge"),
        ("lmstudio_health_error_rate", "gauge"), ("lmstudio_health_breaker_open", "gauge"),
        ("lmstudio_health_probes_total", "counter"), ("lmstudio_health_errors_total", "counter"),
    ]  # fmt: skip
    assert re.search(r'^lmstudio_health_latency_seconds\{quantile="0.95"\} \d+\.\d+$', text, re.MULTILINE)
    assert 'lmstudio_health_errors_total{kind="disconnect"} 1\n' in text
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+(\{[a-z]+=\"[\w.]+\"\})? [\d.e+-]+", line)


def test_metrics_are_what_prometheus_reads() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with standin() as server, service(server) as asked:
        when(lambda: asked.monitor.health()["samples"] == 1, server)
        families = {family.name for family in parser.text_string_to_metric_families(asked.get(serving.METRICS)[1])}
    assert {"lmstudio_health_up", "lmstudio_health_probes"} <= families


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/health/llm/", 404),
        ("GET", "/api/health/llm?x=1", 503),
        ("HEAD", "/api/health/llm", 503),
        ("HEAD", "/metrics", 200),
        ("HEAD", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/api/health/llm", 405),
        ("BREW", "/api/health/llm", 405),
        ("POST", "/nothing", 404),
    ],
)
def test_routes_and_methods(method: str, path: str, status: int) -> None:
    with standin() as server, service(server, asks=False) as asked:
        answered, text, headers = asked.get(path, method)
    assert answered == status
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)
    assert (text == "") is (method == "HEAD")
    assert headers["Server"] == "pytest-lmstudio"


@pytest.mark.parametrize("path", ["/metrics", "/api/health/llm", "/nothing"])
def test_a_head_request_gets_no_body(path: str) -> None:
    with standin() as server, service(server, asks=False) as asked:
        head, _, body = asked.raw(f"HEAD {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert (b"Content-Length: " in head, body) == (True, b"")


@pytest.mark.parametrize(
    "sent",
    [
        b"<script>\r\n\r\n",
        b"GET /<script> HTTP/1.1\r\nHost: <script>\r\n\r\n",
        b"GET / <script> HTTP/9.9\r\n\r\n",
        b"GET /" + b"<script>" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-<script>: 1\r\n" * 200 + b"\r\n",
        b"GET http://<script>/metrics HTTP/1.1\r\nHost: evil\r\n\r\n",
    ],
)
def test_nothing_that_is_sent_comes_back(sent: bytes) -> None:
    with standin() as server, service(server, asks=False) as asked:
        answer = asked.raw(sent)
        assert asked.get(serving.METRICS)[0] == 200  # and it goes on
    assert answer.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4", b"{"))
    assert b"script" not in answer
    assert b"Python" not in answer


def test_a_port_that_is_taken_is_one_line(capsys: Capsys) -> None:
    with standin() as server, taken_port() as port:
        said = ask(capsys, "health", "--url", server.url, "--serve", str(port))
    assert (said.status, said.out) == (2, "")
    assert re.fullmatch(rf"pytest-lmstudio: cannot serve on 127\.0\.0\.1, port {port}: .+; choose another\n", said.err)


@pytest.mark.parametrize(("option", "value"), [("--serve", "65536"), ("--interval", "0"), ("--interval", "off")])
def test_wrong_use_of_the_service(capsys: Capsys, option: str, value: str) -> None:
    with pytest.raises(SystemExit) as done:
        ask(capsys, "health", option, value)
    assert done.value.code == 2
    assert f"argument {option}: '{value}': expected" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals to another process are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_how_it_ends_well(number: signal.Signals) -> None:
    with standin() as server:
        command = [sys.executable, "-m", "pytest_lmstudio", "health", "--url", server.url, "--serve", "0"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"serving http://127\.0\.0\.1:(\d+)/api/health/llm and /metrics", line)
            assert found, line
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(number)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, rest) == (0, "")
