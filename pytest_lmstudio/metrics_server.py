"""Metrics of a run for Prometheus: served while it goes on, over all its processes, and written at its end."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import names, options
from pytest_lmstudio.record.events import LOG, read_events
from pytest_lmstudio.record.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lmstudio.report.metrics import RunMetrics
    from pytest_lmstudio.session import Run

_HOST = "127.0.0.1"
_PATH = "/metrics"
#: How long a client may take with its request, seconds.
_PATIENCE_S = 5.0
#: How often the server looks whether it is to end, seconds.
_LOOK_S = 0.1
_INSTALL = "prometheus-client is not installed: pip install 'pytest-lmstudio[metrics]'"


class Metrics:
    """Hooks of the process that sees all reports, when metrics were asked for; it reads the log that all write.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._known: tuple[Tail, RunMetrics] | None = None
        self._gate_failed: bool | None = None
        self._server: _Server | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Serve from now on; before workers are started, since a port that is taken ends the run.

        Raises:
            pytest.UsageError: the library is missing, or the port is taken.
        """
        settings = self._run.settings
        if session.config.option.collectonly:
            return
        try:
            import_module("pytest_lmstudio.report.metrics")
        except ImportError:
            missing = self._refused("metrics_port" if settings.metrics_port is not None else "metrics_file", _INSTALL)
            raise missing from None
        if settings.metrics_port is not None:
            try:
                self._server = _Server(settings.metrics_port, self._page)
            except OSError as error:
                why = f"it cannot be served on {_HOST} ({error.strerror}); name another port, or 0 for any that is free"
                taken = self._refused("metrics_port", why)
                raise taken from None

    def pytest_report_header(self) -> str | None:
        """Say where the metrics are."""
        if self._server is None:
            return None
        return f"lmstudio: metrics at http://{_HOST}:{self._server.server_address[1]}{_PATH}"

    def pytest_unconfigure(self) -> None:
        """End the server; until then the last numbers can be had."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def files(self, report: dict[str, Any]) -> Iterator[tuple[Path, Callable[[Path], object]]]:
        """Yield the file that is wanted at the end of the run."""
        from pytest_lmstudio.report.metrics import write_metrics

        self._gate_failed = report["gate"]["failed"]
        if self._run.settings.metrics_file:
            metrics = self._fresh()
            for event in read_events(self._run.folder / LOG).events:
                metrics.take(event)
            yield Path(self._run.settings.metrics_file), lambda path: write_metrics(metrics, path)

    def _page(self, accept: str) -> tuple[str, bytes]:
        """Return type and text of the metrics as of now; the log is read on, by one thread at a time."""
        from pytest_lmstudio.report.metrics import exposition

        log = self._run.folder / LOG
        with self._lock:
            if self._known is None or self._known[0].path != log:  # it moved, and its events with it
                metrics = self._fresh()
                self._known = Tail(log, metrics.events), metrics
            tail, metrics = self._known
            while events := tail.new():
                for event in events:
                    metrics.take(event)
            metrics.judged(gate_failed=self._gate_failed)
            return exposition(metrics, accept)

    def _fresh(self) -> RunMetrics:
        from pytest_lmstudio.report.metrics import RunMetrics

        settings = self._run.settings
        metrics = RunMetrics(settings.concurrency, settings.cache_size, self._run.started_s)
        metrics.judged(gate_failed=self._gate_failed)
        return metrics

    def _refused(self, setting: str, why: str) -> pytest.UsageError:
        run = self._run
        flag = next(flag for flag in names.FLAGS if flag.name == setting)
        value, source = str(getattr(run.settings, setting)), run.resolved.sources.get(setting, "default")
        return options.wrong_value(flag, value, source, run.config, why)


class _Server(ThreadingHTTPServer):
    """Answers on a thread of its own, which ends with the process at the latest.

    Args:
        port: the TCP port, 0 for any that is free.
        page: returns type and text for an ``Accept`` header.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    #: Elsewhere it lets two servers have one port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, port: int, page: Callable[[str], tuple[str, bytes]]) -> None:
        super().__init__((_HOST, port), _Handler)
        self.page = page
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_LOOK_S,), name="lmstudio-metrics", daemon=True
        )
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, without the look-up of the machine's name that `http.server` does, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection; a test that forbids sockets in its process must not end the server."""
        try:
            return super().get_request()
        except OSError:
            raise
        except Exception as error:
            raise OSError(str(error)) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that left is no business of the test under way."""

    def stop(self) -> None:
        """End, and give the port back."""
        self.shutdown()
        self.server_close()
        self._thread.join(_PATIENCE_S)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "pytest-lmstudio", ""
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != _PATH:
            self.send_error(404, explain=f"Metrics are at {_PATH}")
            return
        content_type, body = self.server.page(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the class above
        """Say nothing."""
