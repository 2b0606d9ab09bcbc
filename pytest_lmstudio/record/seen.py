"""What was seen of the server, checked before it is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lmstudio.text import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_lmstudio.record.events import Event

#: What is told of a model: words, or a type.
_MODEL_FIELDS: dict[str, tuple[object, ...]] = {
    "id": (str,),
    "type": ("llm", "embedding"),
    "loaded": (bool,),
    "quantization": (str,),
    "context_length": (int,),
    "parallel": (int,),
}


def server_of(logs: Iterable[Sequence[Event]], url: str) -> dict[str, Any]:
    """Return what the preflights saw; of each log the last one that reached a server tells most.

    Args:
        logs: the events of each log, one or more.
        url: the address, should no preflight tell it.
    """
    seen = [_seen(events) for events in logs]
    server = next((found for found in reversed(seen) if found.get("reachable")), seen[-1])
    models = {repr(model): model for found in seen for model in _models(found)}
    return {
        "url": without_userinfo(str(server.get("url") or url)),
        "reachable": server.get("reachable"),
        "version": server.get("version"),
        "kind": server.get("kind"),
        "problem": server.get("problem"),
        "models": list(models.values()),
    }


def _seen(events: Iterable[Event]) -> Mapping[str, Any]:
    seen = [found for e in events if e["event"] == "preflight" and isinstance(found := e.get("server"), dict)]
    return next((found for found in reversed(seen) if found.get("reachable")), seen[-1] if seen else {})


def _models(server: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = server.get("models")
    listed = models if isinstance(models, list) else []
    return [
        {name: _of_kind(model.get(name), kinds) for name, kinds in _MODEL_FIELDS.items()}
        for model in listed
        if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]


def _of_kind(value: object, kinds: tuple[object, ...]) -> Any:
    """Return a value if it is one of those words or of that type; else it is not known."""
    fits = any(type(value) is kind if isinstance(kind, type) else value == kind for kind in kinds)
    return value if fits else None
