"""``pytest-lmstudio health``: does the server answer, as JSON; once, or to whoever asks."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.cli import screen, target
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
  pytest-lmstudio health                               ten tokens, one by one
  pytest-lmstudio health --samples 30 | jq .p95_ms     more of them
  pytest-lmstudio health --serve 8080                  over HTTP, on 127.0.0.1
  pytest-lmstudio health --serve 8080 --interval 60    one token a minute

--serve answers GET /api/health/llm and /metrics, until Ctrl-C or SIGTERM; the
server is asked at the interval, however often these are. Healthy: no more of
the newest generations failed than LLM_MAX_ERROR_RATE (5%).

"""
STATUSES = {0: "healthy; with --serve, stopped by Ctrl-C or SIGTERM", 1: "not healthy, see `reason`"}
_HOST, _INTERVAL_S = "127.0.0.1", 30.0
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
    parser.add_argument("--host", type=screen.filled, help=f"with --serve: the address, {_HOST} by default")
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=target.seconds,
        help=f"with --serve: between two generations, {_INTERVAL_S:g} by default",
    )


def run(chosen: argparse.Namespace) -> int:
    """Tell the health; return 0 when the server is healthy, or was served until stopped, else 1."""
    from pytest_lmstudio.server.probe import Probe

    for name in ("host", "interval"):
        if chosen.serve is None and getattr(chosen, name) is not None:
            msg = f"--{name} goes with --serve"
            raise Failure(msg)
    with (
        target.opened(target.settings_from(chosen)) as asked,
        Probe(asked.settings.url, asked.token, wait_s=asked.settings.wait, timeout_s=asked.timeout_s) as probe,
    ):
        if chosen.serve is not None:
            return _serve(probe, asked, chosen)
        health = _once(probe, asked, chosen.samples)
    screen.say(json.dumps(health, ensure_ascii=True, indent=2) + "\n")
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

    host = chosen.host or _HOST
    monitor = Monitor(probe, asked, window=chosen.samples, interval_s=chosen.interval or _INTERVAL_S)
    try:
        server = HealthServer(host, chosen.serve, monitor)
    except OSError as error:
        msg = f"cannot serve on {host}, port {chosen.serve}: {error.strerror or error}; choose another"
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
