"""The way of one request: token, route, model, slot, step."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from typing import TYPE_CHECKING, Any

from tests.standin import loading, routes, worded
from tests.standin.exchange import ClientLeftError, CrashedError, Exchange
from tests.standin.journal import Received
from tests.standin.steps import Step, perform

if TYPE_CHECKING:
    from tests.standin.connection import Connection
    from tests.standin.http1 import Request
    from tests.standin.server import StandIn


async def handle(server: StandIn, connection: Connection, request: Request) -> None:
    """Serve one request to its end, and close the connection unless a whole response was sent."""
    received = _received(connection, request)
    generating = routes.generates(server.api, request.method, request.path)
    exchange = connection.exchange = Exchange(server, connection, received, generating=generating)
    server.journal.arrived(received, generating=generating)
    _log_arrival(server, received)
    if connection.left:
        connection.abandon(exchange)
    server.active[exchange] = None
    try:
        await _guard(exchange)
    finally:
        del server.active[exchange]
        exchange.end("fault")
        if not exchange.complete:
            connection.close()


def _received(connection: Connection, request: Request) -> Received:
    return Received(
        request.method,
        request.path,
        request.headers,
        _parse(request.body),
        time.monotonic(),
        connection.number,
        connection.served > 0,
    )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def _log_arrival(server: StandIn, received: Received) -> None:
    if received.method == "POST":
        body = f" with body {json.dumps(received.body)}" if server.log_prompts else ""
        server.journal.log(f"Received request: POST to {received.path}{body}", "DEBUG")


async def _guard(exchange: Exchange) -> None:
    """Answer; the client's leaving is no error, anything that steps and predicates raise is told at the end."""
    try:
        try:
            await _answer(exchange)
        except CrashedError as crash:
            exchange.over = asyncio.get_running_loop().create_future()
            await exchange.fail(str(crash))
    except ClientLeftError:
        return
    except Exception:  # noqa: BLE001  # told when the test leaves the `with`
        exchange.server.journal.complain(exchange.server.journal.errors, traceback.format_exc())


async def _answer(exchange: Exchange) -> None:
    received = exchange.received
    refused = _refused(exchange.server.token, received)
    if refused is not None:
        await run(exchange, worded.auth_401(refused))
    elif "h2c" in received.headers.get("upgrade", ""):
        await exchange.forever()  # LM Studio hangs on it
    elif not exchange.generating:
        await routes.serve(exchange)
    elif not isinstance(received.body, dict):
        exchange.server.journal.log(f"Received request for {received.path} with invalid JSON", "ERROR")
        await run(exchange, worded.html_500())
    else:
        await run(exchange, exchange.server.next_step(received))


def _refused(token: str | None, received: Received) -> str | None:
    """Return why the token sent is not good enough, None when it is."""
    given = received.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if token is None or given == token or received.path == routes.GREETING:
        return None
    if not given:
        return worded.NO_TOKEN
    return f"Malformed LM Studio API token provided: {given[:10]}********. Ensure you are using a valid token."


async def run(exchange: Exchange, step: Step) -> None:
    """Serve a request by a step; one that generates waits for its model and for a slot first."""
    exchange.received.step = step.name
    if not step.generates:
        await perform(exchange, step)
        return
    refusal = await loading.admit(exchange)
    if refusal is not None:
        exchange.received.step = "refusal"
        await exchange.respond_json(refusal.status, refusal.body)
        return
    await exchange.take(exchange.server.slots)
    try:
        exchange.log(f"Running chat completion on conversation with {exchange.n_messages} messages.")
        await perform(exchange, step)
    finally:
        exchange.free()
