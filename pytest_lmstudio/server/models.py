"""What a server says of its models, in each of the three dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pytest_lmstudio.engine.answers import same_model
from pytest_lmstudio.records import ModelInfo
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAME_CHARS = 200


def from_v1(body: Any) -> tuple[ModelInfo, ...] | None:
    """Read LM Studio's ``/api/v1/models`` (0.4.0 and newer); None when it is none."""
    rows = _rows(body, "models")
    if rows is None or any("key" not in row for row in rows):
        return None
    return _sorted(_v1_model(row) for row in rows)


def _v1_model(row: dict[str, Any]) -> ModelInfo:
    instances = [i for i in row.get("loaded_instances") or () if isinstance(i, dict)]
    key, quantization = _text(row["key"]), row.get("quantization")
    name = quantization.get("name") if isinstance(quantization, dict) else quantization
    if not instances:
        return ModelInfo(key, _type(row.get("type")), loaded=False, quantization=_optional(name))
    config = instances[0].get("config")
    config = config if isinstance(config, dict) else {}
    instance = _text(instances[0].get("id") or key)
    return ModelInfo(
        key if same_model(key, instance) else instance,
        _type(row.get("type")),
        loaded=True,
        quantization=_optional(name),
        context_length=_count(config.get("context_length")),
        parallel=_count(config.get("parallel")),
    )


def from_v0(body: Any) -> tuple[ModelInfo, ...] | None:
    """Read LM Studio's ``/api/v0/models`` (0.3.6 and newer); None when it is none."""
    rows = _rows(body, "data")
    if rows is None or any("state" not in row for row in rows):
        return None
    return _sorted(
        ModelInfo(
            _text(row.get("id")),
            _type(row.get("type")),
            loaded=row["state"] == "loaded",
            quantization=_optional(row.get("quantization")),
            context_length=_count(row.get("loaded_context_length")),
        )
        for row in rows
    )


def from_openai(body: Any) -> tuple[ModelInfo, ...] | None:
    """Read ``/v1/models``, which every compatible server has; None when it is none."""
    rows = _rows(body, "data")
    return None if rows is None else _sorted(_openai_model(row) for row in rows)


def _openai_model(row: dict[str, Any]) -> ModelInfo:
    meta, status = row.get("meta"), row.get("status")
    name = _text(row.get("id"))
    state = status.get("value") if isinstance(status, dict) else None
    return ModelInfo(
        name,
        "embedding" if name.casefold().startswith("text-embedding") else None,
        loaded=None if state is None else state == "loaded",
        context_length=_count(meta.get("n_ctx")) if isinstance(meta, dict) else None,
    )


def is_llama_cpp(body: Any) -> bool:
    """Tell whether a ``/v1/models`` body is llama.cpp's."""
    return any(row.get("owned_by") == "llamacpp" for row in _rows(body, "data") or ())


def find(models: Iterable[ModelInfo], name: str) -> ModelInfo | None:
    """Return the model of a name, copies and variants being the same; an exact match goes first."""
    known = list(models)
    exact = next((model for model in known if model.id == name), None)
    return exact or next((model for model in known if same_model(model.id, name)), None)


def answering(models: Iterable[ModelInfo], kind: Literal["llm", "embedding"]) -> Iterator[ModelInfo]:
    """Yield the models that are loaded, or may be, and are not known to be of the other kind."""
    for model in models:
        if model.loaded is not False and model.type in {kind, None}:
            yield model


def _rows(body: Any, name: str) -> list[dict[str, Any]] | None:
    rows = body.get(name) if isinstance(body, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _sorted(models: Iterable[ModelInfo]) -> tuple[ModelInfo, ...]:
    return tuple(sorted(models, key=lambda model: not model.loaded))


def _type(value: object) -> Literal["llm", "embedding"] | None:
    kinds: dict[object, Literal["llm", "embedding"]] = {
        "llm": "llm", "vlm": "llm", "embedding": "embedding", "embeddings": "embedding"
    }  # fmt: skip
    return kinds.get(value) if isinstance(value, str) else None


def _text(value: object) -> str:
    return printable(str(value), limit=_NAME_CHARS)


def _optional(value: object) -> str | None:
    return _text(value) if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
