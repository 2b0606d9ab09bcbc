"""``pytest-lmstudio health``: does the server answer, as JSON; once, or to whoever asks."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.cli import target
from pytest_lmstudio.cli.screen import Failure, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.server.probe import Probe

HELP = "tell as JSON whether the server answers, once or as a service"
DESCRIPTION = "Asks the model for single tokens, and tells as JSON how that went."
EXAMPLES = """\
examples:
  pytest-lmstudio health                                ten tokens, one after the other; 0 healthy, 1 not
  pytest-lmstudio health --samples 30 | jq .p95_ms      more of them
  pytest-lmstudio health --serve 8080                   GET /api/health/llm and /metrics on 127.0.0.1:8080
  pytest-lmstudio health --serve 8080 --interval 60     one token a minute, however often it is asked

Healthy: no more of the newest generations failed than LLM_MAX_ERROR_RATE (5%).

"""
_HOST = "127.0.0.1"
#: A wait for ever cannot be interrupted on Windows.
_SLICE_S = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    target.arguments(parser)
    parser.add_argument(
        "--samples", metavar="N", type=target.count, default=10, help="generations that count, 10 by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as it does anyway")
    parser.add_argument("--serve", metavar="PORT", type=target.port, help="answer over HTTP until stopped; 0: any port")
    parser.add_argument("--host", default=_HOST, help=f"the address to serve on, {_HOST} by default")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=target.seconds, default=30.0, help="between two generations; 30"
    )


def run(chosen: argparse.Namespace) -> int:
    """Tell the health; return 0 when the server is healthy, or was served until stopped, else 1."""
    from pytest_lmstudio.server.probe import Probe

    with (
        target.opened(target.settings_from(chosen)) as asked,
        Probe(asked.settings.url, asked.token, wait_s=asked.settings.wait) as probe,
    ):
        if chosen.serve is not None:
            return _serve(probe, asked, chosen)
        health = _once(probe, asked, chosen.samples)
    sys.stdout.write(json.dumps(health, ensure_ascii=True, indent=2) + "\n")
    return int(health["status"] != "healthy")


def _once(probe: Probe, asked: Target, samples: int) -> dict[str, Any]:
    from pytest_lmstudio.cli.pulse import Beat, Breaker, judge, take

    beats: list[Beat] = []
    breaker = Breaker(asked.settings.breaker)
    while len(beats) < samples and not (beats and beats[-1].ends_a_series):
        beats.append(take(probe, asked))
        breaker = breaker.after(beats[-1])
    return judge(beats, url=probe.url, max_error_rate=asked.settings.max_error_rate, breaker=breaker)


def _serve(probe: Probe, asked: Target, chosen: argparse.Namespace) -> int:
    from pytest_lmstudio.cli.serving import HEALTH, METRICS, HealthServer, Monitor

    monitor = Monitor(probe, asked, window=chosen.samples, interval_s=chosen.interval)
    try:
        server = HealthServer(chosen.host, chosen.serve, monitor)
    except OSError as error:
        msg = f"cannot serve on {chosen.host}, port {chosen.serve}: {error.strerror or error}; choose another"
        raise Failure(msg) from None
    with server, _until_stopped() as stopped:
        thread = threading.Thread(target=server.serve_forever, name="lmstudio-health", daemon=True)
        thread.start()
        monitor.start()
        complain(f"serving {server.url}{HEALTH} and {METRICS}, until Ctrl-C")
        try:
            while not stopped.wait(_SLICE_S):
                pass
        finally:
            server.shutdown()
            thread.join()
            monitor.stop()
    return 0


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; to stop a service is how it is meant to end."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
