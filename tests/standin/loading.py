"""Models coming into memory and leaving it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.standin import catalog

if TYPE_CHECKING:
    from tests.standin.catalog import Model
    from tests.standin.exchange import Exchange
    from tests.standin.server import StandIn


def find(server: StandIn, name: Any) -> Model | None:
    """Return the model of this id."""
    with server.lock:
        return next((model for model in server.models if model.id == name), None)


async def admit(exchange: Exchange) -> catalog.Refusal | None:
    """Choose the model that answers and load it, or return why there is none."""
    server = exchange.server
    with server.lock:
        found = catalog.resolve(server.models, exchange.body.get("model"), embeds=exchange.embeds, jit=server.jit)
    if isinstance(found, catalog.Refusal):
        return found
    exchange.model = found.id
    if not found.loaded:
        await load(exchange, found, jit=True)
        exchange.check()
    return None


async def load(exchange: Exchange, model: Model, *, jit: bool) -> str:
    """Load a model, to the end even when the client leaves, and return the instance's name."""
    server = exchange.server
    with server.lock:
        server.loads[model.id] += 1
    await exchange.outlast(model.load_s)
    with server.lock:
        server.lock.notify_all()
        return model.note_load(jit=jit)


def lose(server: StandIn, name: str, away_s: float | None) -> None:
    """Take a model out of memory for that many seconds; None: until something loads it."""
    model = find(server, name)
    if model is None or away_s == 0:
        return
    with server.lock:
        model.loaded, model.instances = False, 1
    if away_s is not None:
        asyncio.get_running_loop().call_later(away_s, _bring_back, server, model)


def _bring_back(server: StandIn, model: Model) -> None:
    with server.lock:
        model.loaded = True
        server.lock.notify_all()
