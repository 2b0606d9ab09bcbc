"""What `doctor` looks at next: which model answers, and is it in memory."""

from __future__ import annotations

import difflib
import shlex
from typing import TYPE_CHECKING

from pytest_lmstudio.cli.findings import Finding
from pytest_lmstudio.report.figures import amount, counted
from pytest_lmstudio.server import models as dialects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.records import ModelInfo

_SHOWN_MODELS = 10
_NAME_ONE = "--model or LMSTUDIO_MODEL"


class Choice:
    """Looks for the model to ask.

    Args:
        models: what the server lists.
        usable: the models that a request can name, None when that is not known. Without just-in-time loading LM Studio
            leaves out those that are not loaded (https://lmstudio.ai/docs/developer/openai-compat/models).
        wanted: the model named, or None.

    Attributes:
        model: the model to ask, None when there is none.
    """

    def __init__(self, models: tuple[ModelInfo, ...], usable: frozenset[str] | None, wanted: str | None) -> None:
        self._models = models
        self._usable = usable
        self._wanted = wanted
        self.model: ModelInfo | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to find; one to mend is the last."""
        if self._models:
            yield self._listed()
        yield self._named(self._wanted) if self._wanted else self._only()

    def _listed(self) -> Finding:
        count = len(self._models)
        rows = [_row(model) for model in self._models[:_SHOWN_MODELS]]
        more = [f"and {count - _SHOWN_MODELS} more"] if count > _SHOWN_MODELS else []
        loaded = sum(model.loaded is True for model in self._models)
        told = f", {loaded} loaded" if any(model.loaded is not None for model in self._models) else ""
        return Finding("ok", "models", f"{counted(count, 'model')} listed{told}", details=(*rows, *more))

    def _named(self, wanted: str) -> Finding:
        model = dialects.find(self._models, wanted)
        if model is None:
            near = difflib.get_close_matches(wanted, [known.id for known in self._models], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? name it" if near else "name one that is"
            return Finding("mend", "model", f"{wanted} is not listed", f"{hint} with {_NAME_ONE}")
        if model.type == "embedding":
            return Finding("mend", "model", f"{model.id} makes embeddings, no text", f"name an LLM with {_NAME_ONE}")
        if model.loaded is not False:
            self.model = model
            return Finding("ok", "model", f"{model.id}, as named")
        if not self._loads_on_request(model):
            text = f"{model.id} is not loaded, and just-in-time loading is off"
            return Finding("mend", "model", text, f"{_load(model)}, or turn just-in-time loading on in LM Studio")
        self.model = model
        text = f"{model.id} is not loaded; the first request loads it"
        return Finding("note", "model", text, f"load it before a run, with the context that it needs: {_load(model)}")

    def _only(self) -> Finding:
        found = list(dialects.answering(self._models, "llm"))
        if len(found) == 1:
            self.model = found[0]
            return Finding("ok", "model", f"{found[0].id}, the only one that {_state(found)}")
        if found:
            text = f"{len(found)} models: none is named, and each {_state(found)}"
            return Finding("mend", "model", text, f"name one with --model, or {_export(found[0])}")
        asleep = next((model for model in self._models if model.type != "embedding"), None)
        embeds = any(model.loaded is not False for model in self._models)
        text = "only embedding models are loaded, and they make no text" if embeds else "no model is loaded"
        if asleep is None:
            return Finding("mend", "model", text, "download an LLM with `lms get`, then load it with `lms load`")
        instead = f"; or name it, and a request loads it: {_export(asleep)}" if self._loads_on_request(asleep) else ""
        return Finding("mend", "model", text, f"load one, such as {_load(asleep)}{instead}")

    def _loads_on_request(self, model: ModelInfo) -> bool:
        return self._usable is None or model.id in self._usable


def _state(models: list[ModelInfo]) -> str:
    return "is loaded" if any(model.loaded for model in models) else "is listed"


def _load(model: ModelInfo) -> str:
    return f"`lms load {shlex.quote(model.id)}`"


def _export(model: ModelInfo) -> str:
    return f"`export LMSTUDIO_MODEL={shlex.quote(model.id)}`"


def _row(model: ModelInfo) -> str:
    state = {True: "loaded", False: "not loaded", None: None}[model.loaded]
    kind = "embeddings" if model.type == "embedding" else None
    context = f"context {amount(model.context_length)}" if model.context_length else None
    parallel = f"{model.parallel} at once" if model.parallel else None
    known = [fact for fact in (state, kind, model.quantization, context, parallel) if fact]
    return f"{model.id}: {', '.join(known)}" if known else model.id
