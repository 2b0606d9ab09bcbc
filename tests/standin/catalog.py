"""The models of the stand-in: how they are listed, and which one answers a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Model:
    """One downloaded model; change it under the server's lock.

    Attributes:
        id: its name on every route.
        type: ``llm``, ``vlm`` or ``embedding``.
        loaded: whether it is in memory; a request loads it otherwise.
        quantization: such as ``Q4_K_M``, or None.
        context_length: tokens that the loaded instance holds.
        parallel: what the lists tell of requests served at once; the server's `capacity` is what counts.
        load_s: seconds that loading takes.
        instances: copies in memory while loaded; parallel first requests make several.
        jit: whether a request, rather than a load, brought it in.
    """

    id: str
    type: Literal["llm", "vlm", "embedding"] = "llm"
    loaded: bool = True
    quantization: str | None = "Q4_K_M"
    context_length: int = 8192
    parallel: int = 4
    load_s: float = 0.0
    instances: int = 1
    jit: bool = False

    @property
    def embeds(self) -> bool:
        """Whether it makes vectors rather than text."""
        return self.type == "embedding"

    @property
    def max_context_length(self) -> int:
        """Tokens that it could hold, usually more than it was loaded with."""
        return max(32768, self.context_length)

    def note_load(self, *, jit: bool) -> str:
        """Note one finished load and return the instance's name: loading twice makes a second copy, ``id:2``."""
        self.instances = self.instances + 1 if self.loaded else 1
        self.loaded, self.jit = True, jit
        return self.id if self.instances == 1 else f"{self.id}:{self.instances}"

    def note_unload(self) -> None:
        """Note that one copy was unloaded."""
        self.loaded = self.instances > 1
        self.instances = max(1, self.instances - 1)


class Refusal(NamedTuple):
    """Why no model answers: HTTP status and body."""

    status: int
    body: dict[str, Any]


def resolve(models: Sequence[Model], wanted: Any, *, embeds: bool, jit: bool = True) -> Model | Refusal:
    """Return the model that answers a request for `wanted`, as LM Studio 0.4 decides.

    An unknown name is served by the one loaded model when exactly one is loaded; so is no name at all. Without `jit` a
    model that is not loaded is as good as unknown.
    """
    for model in models:
        if model.id == wanted and (model.loaded or jit):
            return model
    loaded = [model for model in models if model.loaded and model.embeds == embeds]
    if len(loaded) == 1:
        return loaded[0]
    if not loaded:
        text = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
        return Refusal(400, error_object(text, param="model"))
    if not wanted:
        text = "Multiple models are loaded. Please specify a model by providing a 'model' field."
        return Refusal(400, error_object(text, param="model", code="model_not_found"))
    names = "\n".join(model.id for model in models)
    text = f'Model "{wanted}" not found. Please specify a valid model.\n\nYour models:\n\n{names}'
    return Refusal(404, error_object(text, param="model", code="model_not_found"))


def error_object(
    message: str,
    *,
    type: str = "invalid_request_error",  # noqa: A002  # the wire's name
    param: str | None = None,
    code: Any = None,
) -> dict[str, Any]:
    """Return the object form of an error body."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def openai_list(models: Sequence[Model], *, jit: bool) -> dict[str, Any]:
    """Return ``GET /v1/models``: every downloaded model where loading is just in time, else those that are loaded."""
    usable = [model for model in models if model.loaded or jit]
    rows = [{"id": model.id, "object": "model", "owned_by": "organization_owner"} for model in usable]
    return {"data": rows, "object": "list"}


def v0_list(models: Sequence[Model]) -> dict[str, Any]:
    """Return ``GET /api/v0/models``."""
    return {"data": [v0_row(model) for model in models], "object": "list"}


def v0_row(model: Model) -> dict[str, Any]:
    """Return one row of ``GET /api/v0/models``; only a loaded model has ``loaded_context_length``."""
    row = {
        "id": model.id,
        "object": "model",
        "type": "embeddings" if model.embeds else model.type,
        "publisher": "test-publisher",
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": model.quantization,
        "state": "loaded" if model.loaded else "not-loaded",
        "max_context_length": model.max_context_length,
    }
    return row | ({"loaded_context_length": model.context_length} if model.loaded else {})


def v1_list(models: Sequence[Model]) -> dict[str, Any]:
    """Return ``GET /api/v1/models``."""
    return {"models": [_v1_row(model) for model in models]}


def _v1_row(model: Model) -> dict[str, Any]:
    row: dict[str, Any] = {
        "type": "embedding" if model.embeds else "llm",
        "publisher": "test-publisher",
        "key": model.id,
        "display_name": model.id,
        "architecture": "llama",
        "quantization": {"name": model.quantization, "bits_per_weight": 4} if model.quantization else None,
        "size_bytes": 98362432,
        "params_string": "135M",
        "loaded_instances": _instances(model),
        "max_context_length": model.max_context_length,
        "format": "gguf",
    }
    if not model.embeds:
        row["capabilities"] = {"vision": model.type == "vlm", "trained_for_tool_use": True}
    return row | {"description": None}


def _instances(model: Model) -> list[dict[str, Any]]:
    count = model.instances if model.loaded else 0
    names = [model.id if n == 1 else f"{model.id}:{n}" for n in range(1, count + 1)]
    config = {"context_length": model.context_length, "parallel": model.parallel}
    left = {"remaining_ttl_seconds": 3600} if model.jit else {}
    return [{"id": name, "config": config, **left} for name in names]
