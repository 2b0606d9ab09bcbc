"""One request being answered: what a step can do to it, and how it ends when the client leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.standin import bodies, http1

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.standin.connection import Connection
    from tests.standin.journal import Outcome, Received
    from tests.standin.server import StandIn
    from tests.standin.slots import Slots

RESET_AFTER_S = 0.02  # a reset may overtake bytes that the client has not read yet
LAST_BYTES = 65536


class ClientLeftError(Exception):
    """The client closed its connection before the answer was whole."""


class CrashedError(Exception):
    """The engine died under the request; the message is what the client is told."""


class Captured:
    """A response that was not sent: a step wraps another one and sends its answer in its own way."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.stream = False


class Exchange:
    """One request and the means to answer it.

    Attributes:
        received: the request.
        body: its JSON object, empty where there was none.
        stream: whether an event stream was asked for.
        model: the model that answers, known once the request was admitted.
    """

    def __init__(self, server: StandIn, connection: Connection, received: Received, *, generating: bool) -> None:
        self.server = server
        self.received = received
        self.body: dict[str, Any] = received.body if isinstance(received.body, dict) else {}
        self.stream = received.stream
        self.model = str(self.body.get("model", ""))
        self.generating = generating
        self.connection = connection
        self.over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.complete = False
        self.begun = False
        self.captured: Captured | None = None
        self.outlasting = False
        self._slots: Slots | None = None

    # -- waiting ----------------------------------------------------------------------------------

    def interrupt(self, reason: Exception) -> None:
        """End whatever the step waits for."""
        if not self.over.done():
            self.over.set_result(reason)

    def check(self) -> None:
        """Raise what ended the exchange, if something did."""
        if self.over.done():
            raise self.over.result()

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        if seconds > 0:
            await asyncio.wait([self.over], timeout=seconds)
        self.check()

    async def outlast(self, seconds: float) -> None:
        """Wait the whole time even when the client leaves: prompts and loads run to their end. Raises nothing."""
        if seconds <= 0:
            return
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        self.outlasting = True
        await asyncio.wait([self.over], timeout=seconds)
        if self.over.done() and isinstance(self.over.result(), ClientLeftError):
            await asyncio.sleep(max(0.0, until - clock()))
        self.outlasting = False

    async def forever(self) -> None:
        """Wait until the client leaves."""
        await asyncio.wait([self.over])
        self.check()

    # -- answering --------------------------------------------------------------------------------

    async def respond(
        self, status: int, body: bytes, content_type: str = http1.JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole response with its length."""
        merged = http1.body_headers(body, content_type) | dict(headers or {})
        if self.captured is not None:
            self.captured.status, self.captured.headers = status, merged
            self.captured.body += body
            return
        data = self.head(status, merged) + body
        if len(data) > LAST_BYTES:  # an end is booked when all but nothing is out
            await self.write(data[:-1])
            data = data[-1:]
        await self.last(data)

    async def respond_json(self, status: int, value: Any, *, indent: int | None = None) -> None:
        """Send a JSON response, compact unless indented."""
        await self.respond(status, http1.dump(value, indent=indent))

    async def begin(self, headers: Mapping[str, str] | None = None) -> None:
        """Send the head of an event stream, once."""
        if self.begun:
            return
        self.begun = True
        merged = http1.stream_headers() | dict(headers or {})
        if self.captured is not None:
            self.captured.headers, self.captured.stream = merged, True
            return
        await self.write(self.head(200, merged))

    async def send(self, data: bytes) -> None:
        """Send one piece of a stream, as a chunk of its own."""
        if self.captured is not None:
            self.captured.body += data
            return
        await self.write(http1.chunk(data))

    async def finish(self, data: bytes = b"") -> None:
        """End a stream, `data` being its last piece."""
        if self.captured is not None:
            self.captured.body += data
            return
        await self.last((http1.chunk(data) if data else b"") + http1.LAST_CHUNK)

    def head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Return a response's head, with the connection's own headers."""
        return http1.head(status, headers, keep_alive_s=self.connection.announced_keep_alive_s)

    async def write(self, data: bytes) -> None:
        """Send raw bytes."""
        self.check()
        self.begun = True
        self.connection.write(data)
        if not self.connection.writable.is_set():
            await self.connection.writable.wait()  # set when the client leaves, too
        self.check()

    async def last(self, data: bytes) -> None:
        """Send the last bytes. The end is booked first, since the client may act on them before we run again."""
        self.check()
        self.complete = True
        self.end("answered")
        await self.write(data)

    async def cut(self, *, reset: bool = False) -> None:
        """Break the connection off, with FIN or with RST."""
        if reset and self.begun:
            await self.sleep(RESET_AFTER_S)
        self.end("fault")
        self.connection.close(reset=reset)

    async def fail(self, message: str) -> None:
        """Tell of an engine's failure: an error event in a stream, status 400 and a bare string otherwise."""
        if self.captured is not None:
            self.captured, self.begun = None, False
        if self.stream:
            await self.begin()
            await self.finish(http1.event({"error": {"message": message}, "message": message}, "error"))
        elif self.begun:
            await self.cut()
        else:
            await self.respond_json(400, {"error": message})

    async def take(self, slots: Slots) -> None:
        """Wait for a slot and hold it until the end."""
        await slots.acquire(self)
        self._slots = slots

    def free(self) -> None:
        """Give the slot back, if one is held."""
        if self._slots is not None:
            self._slots.release()
            self._slots = None

    def end(self, outcome: Outcome) -> None:
        """Book the end of the request, and free its slot unless a prompt is still processed; later ends do nothing."""
        if not self.outlasting:
            self.free()
        self.server.journal.ended(self.received, outcome, generating=self.generating)

    # -- what the model would do -------------------------------------------------------------------

    @property
    def embeds(self) -> bool:
        """Whether vectors were asked for."""
        return self.received.path.endswith("/embeddings")

    @property
    def n_messages(self) -> int:
        """How many messages the conversation has."""
        messages = self.body.get("messages")
        return len(messages) if isinstance(messages, list) else 0

    @property
    def plain(self) -> bool:
        """Whether a text completion rather than a chat was asked for."""
        return self.received.path.endswith("/completions") and not self.received.path.endswith("/chat/completions")

    def events(self, answer: bodies.Answer) -> bodies.Events:
        """Return the stream events of an answer."""
        make = bodies.text_events if self.plain else bodies.chat_events
        return make(self.body, answer, self.model)

    def deltas(self, n: int) -> list[dict[str, Any]]:
        """Return n deltas of a text, whatever ``max_tokens`` says: ``word1 word2 ...``."""
        make = bodies.text_events if self.plain else bodies.chat_events
        text = " ".join(f"word{number}" for number in range(1, n + 1))
        return make({}, bodies.Answer(text), self.model).deltas

    def whole(self, answer: bodies.Answer) -> dict[str, Any]:
        """Return the body of an answer."""
        if self.embeds:
            return bodies.embeddings_body(self.body, answer.model or self.model)
        make = bodies.text_body if self.plain else bodies.chat_body
        body = make(self.body, answer, self.model)
        if not self.received.path.startswith("/api/v0/"):
            return body
        model = next((m for m in self.server.models if m.id == self.model), None)
        quantization, length = (model.quantization, model.context_length) if model else (None, 0)
        return body | bodies.v0_extras(body["usage"], quantization, length)

    def log(self, message: str, level: str = "INFO") -> None:
        """Write a line of the model's to the server's log."""
        self.server.journal.log(message, level, self.model or "LM STUDIO SERVER")
