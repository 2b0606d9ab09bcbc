"""A client for the tests of the stand-in itself."""

from __future__ import annotations

import json
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from tests.standin.server import StandIn

CHAT = "/v1/chat/completions"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one that took no time to load certificates
get = partial(httpx.get, verify=NO_TLS, trust_env=False)
post = partial(httpx.post, verify=NO_TLS, trust_env=False)
stream_of = partial(httpx.stream, verify=NO_TLS, trust_env=False)


def ask(server: StandIn, text: str = "hi", path: str = CHAT, **more: Any) -> httpx.Response:
    body = {"model": "test-model", "messages": [{"role": "user", "content": text}], **more}
    return post(server.url + path, json=body)


def events(response: httpx.Response) -> list[Any]:
    """Return what a stream's ``data:`` lines hold, ``[DONE]`` as a str."""
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def choices(response: httpx.Response) -> list[tuple[Any, Any]]:
    found = [event["choices"] for event in events(response)[:-1]]
    return [(choice[0]["delta"], choice[0]["finish_reason"]) for choice in found if choice]


def leave(server: StandIn, body: dict[str, Any] | None = None) -> socket.socket:
    """Send a chat request on a socket of its own and return it, for the caller to close."""
    data = json.dumps(body or {"model": "test-model"}).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data))
    return client
