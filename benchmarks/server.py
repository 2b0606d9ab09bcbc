"""``python -m benchmarks.server``: answers at once, each answer in one packet; it ends when its standard input does."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "bench-model"
#: An answer as short as evals ask for, one event a token, as LM Studio streams it.
TOKENS = tuple(f"word{n} " for n in range(16))
_HEAD: dict[str, Any] = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": MODEL}
_USAGE = {"prompt_tokens": 12, "completion_tokens": len(TOKENS), "total_tokens": 12 + len(TOKENS)}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(TOKENS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _answer(json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode())


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


def _answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_WHOLE, _STREAMED = _whole(), _streamed()
_MODELS = _answer(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
_NOTHING = _answer(b'{"error": "not found"}', "404 Not Found")


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while request := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.connection.sendall(_reply_to(request, self.rfile.read(length)))


def _reply_to(request: bytes, body: bytes) -> bytes:
    if request.startswith(b"POST "):
        return _STREAMED if json.loads(body).get("stream") else _WHOLE
    return _MODELS if request.startswith(b"GET /v1/models ") else _NOTHING


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def running() -> Iterator[str]:
    """Run the server in a process of its own, so that its CPU time is not the client's; yield its URL."""
    command = [sys.executable, "-m", "benchmarks.server"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main() -> None:
    """Serve until standard input is closed."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        sys.stdin.buffer.read()
        server.shutdown()


if __name__ == "__main__":
    main()
