"""The routes that generate nothing: greeting, model lists, load and unload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tests.standin import catalog, loading
from tests.standin.worded import unknown_route

if TYPE_CHECKING:
    from tests.standin.exchange import Exchange
    from tests.standin.server import StandIn

Api = Literal["v1", "v0", "openai"]
GREETING = "/lmstudio-greeting"
GENERATING = frozenset(
    prefix + route for prefix in ("/v1", "/api/v0") for route in ("/chat/completions", "/completions", "/embeddings")
)
HIDDEN: dict[Api, tuple[str, ...]] = {"v1": (), "v0": ("/api/v1/",), "openai": ("/api/", GREETING)}


def hidden(api: Api, path: str) -> bool:
    """Tell whether a server of this age does not have the route, though LM Studio does."""
    return path.startswith(HIDDEN[api])


def generates(api: Api, method: str, path: str) -> bool:
    """Tell whether the route makes text or vectors."""
    return method == "POST" and path in GENERATING and not hidden(api, path)


async def serve(exchange: Exchange) -> None:
    """Answer a request of any other route, the unknown ones as LM Studio does: 200 and an error."""
    server, received = exchange.server, exchange.received
    if received.method == "GET" and not hidden(server.api, received.path) and await _get(exchange):
        return
    if received.method == "POST" and not hidden(server.api, received.path) and await _post(exchange):
        return
    if not hidden(server.api, received.path) and f"{received.method} {received.path}" not in server.expected:
        server.journal.complain(server.journal.unexpected, f"{received.method} {received.path}")
    await _unknown(exchange)


async def _get(exchange: Exchange) -> bool:
    path = exchange.received.path
    with exchange.server.lock:
        value = _listing(exchange.server, path)
    if value is None:
        return False
    known = value or catalog.error_object(f"Model '{path.rpartition('/')[2]}' not found", code="model_not_found")
    await exchange.respond_json(200 if value else 404, known, indent=None if path == GREETING or not value else 2)
    return True


def _listing(server: StandIn, path: str) -> dict[str, Any] | None:
    """Return a list's body; None for an unknown route, empty for an unknown model."""
    if path == GREETING:
        return {"lmstudio": True}
    if path == "/v1/models":
        return catalog.openai_list(server.models, jit=server.jit)
    if path == "/api/v0/models":
        return catalog.v0_list(server.models)
    if path == "/api/v1/models":
        return catalog.v1_list(server.models)
    if path.startswith("/api/v0/models/"):
        wanted = path.removeprefix("/api/v0/models/")
        return next((catalog.v0_row(model) for model in server.models if model.id == wanted), {})
    return None


async def _post(exchange: Exchange) -> bool:
    path = exchange.received.path
    if path == "/api/v1/models/load":
        await _load(exchange)
    elif path == "/api/v1/models/unload":
        await _unload(exchange)
    else:
        return False
    return True


async def _load(exchange: Exchange) -> None:
    model = loading.find(exchange.server, exchange.body.get("model"))
    if model is None:
        return await _no_such_model(exchange, exchange.body.get("model"))
    name = await loading.load(exchange, model, jit=False)
    exchange.check()
    body = {
        "type": "embedding" if model.embeds else "llm",
        "instance_id": name,
        "load_time_seconds": model.load_s,
        "status": "loaded",
    }
    return await exchange.respond_json(200, body, indent=2)


async def _unload(exchange: Exchange) -> None:
    wanted = str(exchange.body.get("instance_id"))
    model = loading.find(exchange.server, wanted) or loading.find(exchange.server, wanted.rpartition(":")[0])
    if model is None or not model.loaded:
        return await _no_such_model(exchange, wanted)
    with exchange.server.lock:
        model.note_unload()
    return await exchange.respond_json(200, {"instance_id": wanted}, indent=2)


async def _no_such_model(exchange: Exchange, wanted: Any) -> None:
    text = f"Model '{wanted}' not found"
    await exchange.respond_json(404, {"error": {"type": "model_not_found", "message": text}})


async def _unknown(exchange: Exchange) -> None:
    if exchange.server.api == "openai":
        await exchange.respond_json(404, catalog.error_object("Not Found"))
    else:
        await unknown_route(exchange)
