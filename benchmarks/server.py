"""``python -m benchmarks.server DELAY_MS``: answers after a while, each answer in one packet, and counts the chats.

It ends when its standard input does. ``GET /counted`` tells how many chats it answered and how many it held at once
since it was last asked that.
"""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

from benchmarks.hosted import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "bench-model"
#: An answer as short as evals ask for, one event a token, as LM Studio streams it.
TOKENS = tuple(f"word{n} " for n in range(16))
ANSWER = "".join(TOKENS)
_HEAD: dict[str, Any] = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": MODEL}
_USAGE = {"prompt_tokens": 12, "completion_tokens": len(TOKENS), "total_tokens": 12 + len(TOKENS)}


def _whole() -> bytes:
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _answer({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _streamed() -> bytes:
    head = {**_HEAD, "object": "chat.completion.chunk"}
    choices: list[list[dict[str, Any]]] = [
        [{"index": 0, "delta": {"content": token}, "finish_reason": None}] for token in TOKENS
    ]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    events = [json.dumps({**head, "choices": choice}) for choice in choices]
    events += [json.dumps({**head, "choices": [], "usage": _USAGE}), "[DONE]"]
    text = "".join(f"data: {event}\n\n" for event in events).encode()
    head_lines = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head_lines + b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)


def _answer(content: object, status: str = "200 OK") -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_WHOLE, _STREAMED = _whole(), _streamed()
_MODELS = _answer({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
_NOTHING = _answer({"error": "not found"}, "404 Not Found")


class Counted(NamedTuple):
    """What the server was asked since it was last asked this: how many chats, and how many of them at once."""

    chats: int
    at_once: int


class _Chats:
    """Answers chats after a while, and counts them."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._chats = self._now = self._most = 0

    def answer(self, body: bytes) -> bytes:
        with self._lock:
            self._chats += 1
            self._now += 1
            self._most = max(self._most, self._now)
        streamed = json.loads(body).get("stream")
        if self._delay_s:
            time.sleep(self._delay_s)
        with self._lock:
            self._now -= 1
        return _STREAMED if streamed else _WHOLE

    def counted(self) -> bytes:
        with self._lock:
            found = {"chats": self._chats, "at_once": self._most}
            self._chats, self._most = 0, self._now
        return _answer(found)


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        while request := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.connection.sendall(self._reply_to(request, self.rfile.read(length)))

    def _reply_to(self, request: bytes, body: bytes) -> bytes:
        if request.startswith(b"POST "):
            return self.server.chats.answer(body)
        if request.startswith(b"GET /counted "):
            return self.server.chats.counted()
        return _MODELS if request.startswith(b"GET /v1/models ") else _NOTHING


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay_s: float) -> None:
        self.chats = _Chats(delay_s)
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that leave without a word."""


@contextmanager
def running(delay_ms: int = 0) -> Iterator[str]:
    """Run the server in a process of its own, so that its CPU time is not the client's; yield its URL."""
    command = [sys.executable, "-m", "benchmarks.server", str(delay_ms)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def counted(url: str) -> Counted:
    """Return what a server was asked since this was last called."""
    with urlopen(f"{url}/counted", timeout=10) as answer:  # noqa: S310  # our own server, by http
        return Counted(**json.load(answer))


def main() -> None:
    """Serve until standard input is closed."""
    with _Server(int(sys.argv[1]) / 1000) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        sys.stdin.buffer.read()
        server.shutdown()


if __name__ == "__main__":
    main()
