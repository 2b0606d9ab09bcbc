"""``pytest-lmstudio health --serve``: a server of our own that tells the health of the model server."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import CancelledError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.cli.pulse import Beat, Breaker, judge, take
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.server.probe import Probe

HEALTH, METRICS = "/api/health/llm", "/metrics"
#: Who connects and does not ask, or does not read, holds a thread no longer.
_PATIENCE_S = 5.0
_JSON, _TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"


class Monitor:
    """Asks the server again and again, on a thread of its own, so that who asks for its health asks nothing of it.

    Args:
        probe: asks the server.
        target: what to ask, and how.
        window: how many of the newest generations count.
        interval_s: seconds between two of them.
    """

    def __init__(self, probe: Probe, target: Target, *, window: int, interval_s: float) -> None:
        self._probe = probe
        self._target = target
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._beats: deque[Beat] = deque(maxlen=window)
        self._breaker = Breaker(target.settings.breaker)
        self._asked = 0
        self._errors: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lmstudio-monitor", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End the generation under way, and ask no more."""
        self._stop.set()
        while self._thread.is_alive():  # it may be about to begin another one
            self._probe.cut_off()
            self._thread.join(0.1)

    def health(self) -> dict[str, Any]:
        """Return the health as `judge` does."""
        with self._lock:
            beats, breaker = list(self._beats), self._breaker
        limit = self._target.settings.max_error_rate
        return judge(beats, url=self._probe.url, max_error_rate=limit, breaker=breaker)

    def metrics(self) -> str:
        """Return the health in Prometheus' text format."""
        with self._lock:
            asked, errors = self._asked, dict(self._errors)
        return "".join(_metrics(self.health(), asked, errors))

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                beat = take(self._probe, self._target)
            except CancelledError:
                return
            except Exception as error:  # noqa: BLE001  # a thread that died would leave the last health standing
                beat = Beat(time.time(), None, 0.0, None, ErrorKind.INVALID_RESPONSE, printable(error, limit=200))
            self._note(beat)
            self._stop.wait(max(self._interval_s, self._breaker.pause_s))

    def _note(self, beat: Beat) -> None:
        with self._lock:
            self._beats.append(beat)
            self._breaker = self._breaker.after(beat)
            self._asked += 1
            if beat.kind is not None:
                self._errors[str(beat.kind)] += 1


def _metrics(health: dict[str, Any], asked: int, errors: dict[str, int]) -> Iterator[str]:
    """Yield lines; see https://prometheus.io/docs/instrumenting/exposition_formats/."""
    up = None if health["status"] == "starting" else int(health["status"] == "healthy")
    yield from _gauge("lmstudio_health_up", "Whether the model server is healthy.", {"": up})
    quantiles = {f'{{quantile="0.{n}"}}': _in_s(health[f"p{n}_ms"]) for n in (50, 95, 99)}
    yield from _gauge("lmstudio_health_latency_seconds", "Latency of a one-token generation, newest ones.", quantiles)
    rate = {"": health["error_rate"]}
    yield from _gauge("lmstudio_health_error_rate", "Share of the newest generations that failed.", rate)
    is_open = {"": int(health["breaker"] == "open")}
    yield from _gauge("lmstudio_health_breaker_open", "Whether the server is asked less often.", is_open)
    yield from _family("lmstudio_health_probes_total", "Generations so far.", "counter", {"": asked})
    kinds = {f'{{kind="{kind}"}}': count for kind, count in sorted(errors.items())}
    yield from _family("lmstudio_health_errors_total", "Generations that failed so far.", "counter", kinds)


def _gauge(name: str, text: str, samples: dict[str, Any]) -> Iterator[str]:
    return _family(name, text, "gauge", samples)


def _family(name: str, text: str, kind: str, samples: dict[str, Any]) -> Iterator[str]:
    """Yield one metric; what is not known is left out, which is how Prometheus tells that."""
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    yield from (f"{name}{labels} {value}\n" for labels, value in samples.items() if value is not None)


def _in_s(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms / 1000, 6)


class _Page(NamedTuple):
    status: HTTPStatus
    content_type: str
    text: str


class HealthServer(ThreadingHTTPServer):
    """Answers from what a monitor knows.

    Args:
        host: the address to listen on.
        port: the TCP port, 0 for a free one.
        monitor: knows the health.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """

    daemon_threads = True
    # On Windows the option would let two servers have one port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, host: str, port: int, monitor: Monitor) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._pages: dict[str, Callable[[], _Page]] = {
            HEALTH: lambda: _health_page(monitor),
            METRICS: lambda: _Page(HTTPStatus.OK, _TEXT, monitor.metrics()),
        }
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Return where it listens."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def server_bind(self) -> None:
        """Bind without a look-up of the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # of TCP, so both

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that went away be no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def page(self, path: str) -> _Page | None:
        """Return what is at a path."""
        found = self._pages.get(path.partition("?")[0])
        return found() if found else None


def _health_page(monitor: Monitor) -> _Page:
    health = monitor.health()
    status = HTTPStatus.OK if health["status"] == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE
    return _Page(status, _JSON, _dumped(health))


def _dumped(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=True, indent=2) + "\n"


class _Handler(BaseHTTPRequestHandler):
    """One connection, one answer; nothing that a client sends comes back."""

    server: HealthServer
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """Answer."""
        page = self.server.page(self.path)
        text = f"there is {HEALTH} and {METRICS}"
        self._send(page or _Page(HTTPStatus.NOT_FOUND, _JSON, _dumped({"error": text})))

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def _refuse(self) -> None:
        if self.server.page(self.path) is None:
            self.do_GET()
        else:
            self._send(_Page(HTTPStatus.METHOD_NOT_ALLOWED, _JSON, _dumped({"error": "GET and HEAD only"})))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  # the base's
        """Answer a request that is none, or has a method of its own; the base would quote it."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse()
            return
        self._send(_Page(HTTPStatus(code), _JSON, _dumped({"error": HTTPStatus(code).phrase})))

    def _send(self, page: _Page) -> None:
        body = page.text.encode("ascii")
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Return what the header Server says; the base tells Python's version."""
        return "pytest-lmstudio"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Write no line a request."""
