"""A stand-in for an LM Studio server: loopback, on a thread of its own, scripted by the test."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Self

from tests.standin.catalog import Model
from tests.standin.host import Host
from tests.standin.journal import Journal, Received
from tests.standin.slots import Slots
from tests.standin.steps import Step, echo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from tests.standin.connection import Connection
    from tests.standin.exchange import Exchange
    from tests.standin.routes import Api


class StandIn:
    """A server on 127.0.0.1 that behaves like LM Studio and fails as the test says.

    Args:
        port: 0 for a free one.
        models: what it has downloaded; one loaded ``test-model`` by default. Change them under `lock`.
        capacity: predictions at once; more wait in order.
        token: when given, every route but the greeting wants it.
        api: ``v1`` is a current server, ``v0`` one before 0.4, ``openai`` no LM Studio at all.
        keep_alive_s: idle connections are closed after it; the header tells it.
        jit: whether a request loads its model.
        early_headers: whether a stream's head goes out before `prefill_s`.
        log_prompts: whether bodies are written to the log.
        log_benign_closes: whether a close after a finished stream writes the disconnect line too, as LM Studio does.
        keep: whether requests are kept for `requests`; benchmarks turn it off.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        models: Sequence[Model] | None = None,
        capacity: int = 4,
        token: str | None = None,
        api: Api = "v1",
        keep_alive_s: float = 5.0,
        jit: bool = True,
        early_headers: bool = False,
        log_prompts: bool = False,
        log_benign_closes: bool = False,
        keep: bool = True,
    ) -> None:
        self.journal = Journal(keep)
        self.lock = self.journal.lock
        self.models = [Model("test-model")] if models is None else list(models)
        self.token, self.api, self.jit = token, api, jit
        self.keep_alive_s = keep_alive_s
        self.early_headers, self.log_prompts, self.log_benign_closes = early_headers, log_prompts, log_benign_closes
        self.default: Step = echo()
        self.strict = True
        self.expected: set[str] = set()
        self.loads: Counter[str] = Counter()
        self.slots = Slots(capacity, self.journal)
        self.active: dict[Exchange, None] = {}
        self._script: deque[Step] = deque()
        self._rules: list[tuple[Callable[[Received], object], Step]] = []
        self._host = Host(self, port)

    # -- what tests say ----------------------------------------------------------------------------

    def script(self, *steps: Step) -> None:
        """Append what the next generating requests get, in the order of their arrival; then comes `default`."""
        self._script.extend(steps)

    def when(self, predicate: Callable[[Received], object], step: Step) -> None:
        """Give every generating request that fits this step; looked at before the script, first rule first."""
        self._rules.append((predicate, step))

    def start(self) -> None:
        """Listen, on the port of last time."""
        self._host.start()
        self.journal.log(f"Success! HTTP server listening on port {self.port}")
        if self.jit:
            self.journal.log("Just-in-time model loading active.")

    def stop(self) -> None:
        """Go away: reset what is open and refuse connections, while keeping the port."""
        self.journal.log("Stopping server..")
        self._host.stop()
        self.journal.log("Server stopped")

    def close(self) -> None:
        """End it all, thread and sockets."""
        self._host.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None and self.journal.errors:
            raise AssertionError("the stand-in failed:\n" + "\n".join(self.journal.errors))
        if kind is None and self.strict and self.unexpected:
            raise AssertionError("requests to routes that nobody expects: " + ", ".join(self.unexpected))

    # -- what tests read ---------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port, known after the first start."""
        return self._host.port

    @property
    def connections(self) -> set[Connection]:
        """The connections that are open; to be changed by them alone."""
        return self._host.connections

    @property
    def listening(self) -> bool:
        """Whether it accepts connections."""
        return self._host.listening

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """Every request to a generating route, in order of arrival."""
        with self.lock:
            return list(self.journal.requests)

    @property
    def all_requests(self) -> list[Received]:
        """Every request."""
        with self.lock:
            return list(self.journal.all_requests)

    @property
    def in_flight(self) -> int:
        """Generating requests that arrived and have no end yet, those that wait for a slot included."""
        return self.journal.in_flight

    @property
    def peak_in_flight(self) -> int:
        """The most `in_flight` there were."""
        return self.journal.peak_in_flight

    @property
    def busy(self) -> int:
        """Slots in use, those of prompts that are processed for clients gone included."""
        return self.journal.busy

    @property
    def peak_busy(self) -> int:
        """The most `busy` there were."""
        return self.journal.peak_busy

    @property
    def unexpected(self) -> list[str]:
        """``METHOD /path`` of each request to a route that is neither LM Studio's nor in `expected`."""
        with self.lock:
            return list(self.journal.unexpected)

    @property
    def log(self) -> str:
        """The server log."""
        with self.lock:
            return "\n".join(self.journal.lines)

    def write_log(self, folder: Path) -> Path:
        """Write the log where LM Studio would below its home, and return the file."""
        return self.journal.write(folder)

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Return once `condition` holds.

        Raises:
            AssertionError: it did not within `timeout_s`; the message tells the last requests.
        """
        self.journal.wait_for(condition, timeout_s)

    # -- for exchanges, on the loop ----------------------------------------------------------------

    def next_step(self, received: Received) -> Step:
        """Return what a request gets: by rule, by script, by default."""
        for predicate, step in self._rules:
            if predicate(received):
                return step
        return self._script.popleft() if self._script else self.default

    def interrupt_others(self, exchange: Exchange, reason: Exception) -> None:
        """End what every other generating request waits for."""
        for other in self.active:
            if other is not exchange and other.generating:
                other.interrupt(reason)
