"""Metrics are served while a run goes on, over all its processes, and written at its end."""

from __future__ import annotations

import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.plugin import inner
from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers, reply

if TYPE_CHECKING:
    from tests.plugin.suite import Suite
    from tests.standin import StandIn

ALL_WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
LOSES = ("--lmstudio-retries=1", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%")
SUITE = """
    import pytest
    @pytest.mark.parametrize("n", range(4))
    def test_asks(lm, n): lm(f"question {n}")
    def test_lost(lm): lm("lost")
    def test_plain(): pass
"""
#: A conftest that reads the metrics: in a test, and when the last one has ended.
SCRAPES = """
    import pathlib, urllib.request
    import pytest

    def address_of(config):
        [server] = [p for p in config.pluginmanager.get_plugins() if type(p).__name__ == "Metrics"]
        return server.pytest_report_header().removeprefix("lmstudio: metrics at ")

    @pytest.fixture
    def address(request):
        return address_of(request.config)

    @pytest.fixture
    def scrape(address):
        def scrape(path=""):
            with urllib.request.urlopen(address + path, timeout=30) as answer:
                return answer.read().decode()
        return scrape

    def pytest_sessionfinish(session):
        if not hasattr(session.config, "workerinput"):
            with urllib.request.urlopen(address_of(session.config), timeout=30) as answer:
                pathlib.Path("scraped.prom").write_bytes(answer.read())
                pathlib.Path("type").write_text(answer.headers["Content-Type"])
"""
SERVED = ("--lmstudio-metrics-port=0",)


def values(text: str) -> dict[str, float]:
    """Return the values by name and labels, without zeros and buckets."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            found[sample.name + (f"[{labels}]" if labels else "")] = sample.value
    return {name: value for name, value in found.items() if value and "_bucket" not in name}


@pytest.fixture(autouse=True)
def broken(server: StandIn) -> None:
    server.when(lambda r: "lost" in r.text, close_before_headers())


def counts(found: dict[str, float]) -> dict[str, float]:
    """Return what was counted, but for tokens."""
    counted = {name: value for name, value in found.items() if "_total" in name or name.startswith("lmstudio_tests")}
    return {name: value for name, value in counted.items() if "_tokens_" not in name}


EXPECTED = {
    "lmstudio_calls_total[test-model,ok]": 4,
    "lmstudio_calls_total[test-model,failed]": 1,
    "lmstudio_attempts_total[test-model,ok]": 4,
    "lmstudio_attempts_total[test-model,failed]": 2,
    "lmstudio_retries_total[test-model]": 1,
    "lmstudio_errors_total[network,disconnect,test-model]": 2,
    "lmstudio_cache_misses_total": 5,
    "lmstudio_cache_stores_total": 4,
    "lmstudio_tests[passed]": 5,
    "lmstudio_tests[lm_error]": 1,
}


@ALL_WAYS
def test_a_run_is_served_over_all_its_processes(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    suite.conftest(SCRAPES)
    ran = suite.run(*way, *LOSES, *SERVED)
    assert ran.ret == 0
    assert re.search(r"^lmstudio: metrics at http://127\.0\.0\.1:\d+/metrics$", ran.out, re.MULTILINE)
    found = values((suite.pytester.path / "scraped.prom").read_text("utf-8"))
    # When the plain test ends last, nobody has told the log of it yet.
    assert found.pop("lmstudio_tests[passed]") in {4, 5}
    assert counts(found) == {name: count for name, count in EXPECTED.items() if name != "lmstudio_tests[passed]"}
    assert (suite.pytester.path / "type").read_text().startswith("text/plain")


@ALL_WAYS
def test_a_run_is_written_at_its_end(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    ran = suite.run(*way, *LOSES, "--lmstudio-metrics-file=out/lm.prom")
    assert ran.ret == 0
    found = values((suite.pytester.path / "out" / "lm.prom").read_text("utf-8"))
    assert counts(found) == EXPECTED
    for direction, name in (("in", "prompt"), ("out", "completion")):
        assert found[f"lmstudio_{name}_tokens_total[test-model]"] == ran.report["tokens"][direction]
    assert found["lmstudio_request_duration_seconds_count[test-model]"] == 4
    assert found["lmstudio_time_to_first_token_seconds_count[test-model]"] == 4
    assert found["lmstudio_run_end_time_seconds"] >= found["lmstudio_run_start_time_seconds"]
    assert found["lmstudio_cache_entries"] == 4


@ALL_WAYS
def test_the_file_says_whether_the_gate_failed(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(SUITE)
    ran = suite.run(*way, *LOSES, "--lmstudio-max-error-rate=5%", "--lmstudio-metrics-file=lm.prom")
    assert ran.ret == 1
    assert "lmstudio_gate_failed 1.0\n" in (suite.pytester.path / "lm.prom").read_text("utf-8")


def test_requests_in_flight_are_seen_while_they_are(suite: Suite) -> None:
    suite.server.default = reply("so many words that there is time to look", per_token_s=0.2)
    suite.conftest(SCRAPES)
    suite.write("""
        def test_asks(lm, scrape):
            assert "lmstudio_requests_in_flight 0.0" in scrape()
            stream = lm.stream("question")
            next(iter(stream))
            assert "lmstudio_requests_in_flight 1.0" in scrape()
            assert "lmstudio_requests_limit 7.0" in scrape()
            assert "".join(stream)
            assert "lmstudio_requests_in_flight 0.0" in scrape()
    """)
    assert suite.run(*ALONE, *SERVED, "--lmstudio-concurrency=7").summary == "1 passed"


def test_the_end_of_a_run_does_not_wait_for_a_client_that_says_nothing(suite: Suite) -> None:
    suite.conftest(SCRAPES)
    suite.write("""
        import socket
        from urllib.parse import urlsplit

        def test_asks(lm, address, request):
            idle = socket.create_connection((urlsplit(address).hostname, urlsplit(address).port))
            request.config.add_cleanup(idle.close)  # after the server's end
    """)
    assert suite.run(*ALONE, *SERVED).summary == "1 passed"
    assert "lmstudio-metrics" not in {thread.name for thread in threading.enumerate()}


def test_another_path_is_told_where_the_metrics_are(suite: Suite) -> None:
    suite.conftest(SCRAPES)
    suite.write("""
        import pytest, urllib.error
        def test_asks(lm, scrape):
            assert scrape("?x=1") == scrape()
            with pytest.raises(urllib.error.HTTPError, match="404") as wrong:
                scrape("/more")
            assert "Metrics are at /metrics" in wrong.value.read().decode()
            wrong.value.close()
    """)
    assert suite.run(*ALONE, *SERVED).summary == "1 passed"


def test_a_test_that_forbids_sockets_does_not_end_the_server(suite: Suite) -> None:
    suite.conftest(SCRAPES)
    suite.write("""
        import socket, threading
        from urllib.parse import urlsplit

        def test_asks(lm, address, scrape, monkeypatch):
            tried = threading.Event()
            def forbidden(self):
                tried.set()
                raise RuntimeError("no sockets here")
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "accept", forbidden)
                with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)):
                    assert tried.wait(30)
            assert "lmstudio_requests_limit" in scrape()
    """)
    assert suite.run(*ALONE, *SERVED).summary == "1 passed"


@ALL_WAYS
def test_a_port_that_is_taken_is_one_line(pytester: pytest.Pytester, way: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_asks(lm): pass")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = inner.refusal(inner.run(pytester, *way, f"--lmstudio-metrics-port={port}"))
    assert refused.startswith(f"--lmstudio-metrics-port='{port}' (command line): it cannot be served on 127.0.0.1 (")
    assert refused.endswith("); name another port, or 0 for any that is free")


@pytest.mark.parametrize(
    ("option", "named"),
    [("--lmstudio-metrics-port=0", "port='0'"), ("--lmstudio-metrics-file=lm.prom", "file='{path}/lm.prom'")],
)
@ALL_WAYS
def test_without_the_extra_the_options_say_what_to_install(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...], option: str, named: str
) -> None:
    pytester.makepyfile("def test_asks(lm): pass")
    missing = "raise ModuleNotFoundError('No module named prometheus_client', name='prometheus_client')"
    pytester.mkdir("blocked").joinpath("prometheus_client.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path / "blocked"))
    refused = inner.refusal(pytester.runpytest_subprocess(*inner.QUIET, *way, option))
    assert refused == (
        f"--lmstudio-metrics-{named.format(path=pytester.path)} (command line): prometheus-client is not installed: "
        "pip install 'pytest-lmstudio[metrics]'"
    )


def test_a_suite_that_only_collects_needs_neither_port_nor_extra(suite: Suite) -> None:
    suite.write(SUITE)
    ran = suite.run(*ALONE, "--collect-only", "-q", *SERVED, "--lmstudio-metrics-file=lm.prom")
    assert ran.ret == 0
    assert "metrics at" not in ran.out
    assert not (suite.pytester.path / "lm.prom").exists()


def test_a_run_without_calls_writes_no_file(suite: Suite) -> None:
    suite.write("def test_plain(): pass")
    ran = suite.run(*ALONE, *SERVED, "--lmstudio-metrics-file=lm.prom")
    assert ran.summary == "1 passed"
    assert not (suite.pytester.path / "lm.prom").exists()


def test_a_file_that_cannot_be_written_is_a_line_and_no_failure(suite: Suite) -> None:
    suite.write("""
        import pathlib
        def test_asks(lm):
            lm("question")
            pathlib.Path("lm.prom").mkdir()
    """)
    ran = suite.run(*ALONE, "--lmstudio-metrics-file=lm.prom")
    assert ran.ret == 0
    assert any(line.endswith("lm.prom cannot be written: Is a directory") for line in ran.section)


def test_metrics_survive_a_log_that_is_deleted_in_mid_run(suite: Suite) -> None:
    suite.conftest(SCRAPES)
    suite.write("""
        import pathlib
        def test_asks(lm, scrape):
            lm("question")
            assert 'lmstudio_calls_total{model="test-model",outcome="ok"} 1.0' in scrape()
            [log] = pathlib.Path(".lmstudio/runs").glob("*/events.jsonl")
            log.unlink()
            lm("another")
            assert 'lmstudio_calls_total{model="test-model",outcome="ok"} 1.0' in scrape()
    """)
    ran = suite.run(*ALONE, *SERVED, "--lmstudio-metrics-file=lm.prom")
    assert ran.summary == "1 passed"
    for name in ("lm.prom", "scraped.prom"):
        found = values((suite.pytester.path / name).read_text("utf-8"))
        assert found["lmstudio_calls_total[test-model,ok]"] == 2, name
