"""The answer to one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer; ``str(reply)`` is its text, and ``"x" in reply`` looks in the text.

    Attributes:
        text: the answer, without the reasoning.
        model: the model that answered, as the server names it.
        finish_reason: ``stop``, ``length`` (cut by ``max_tokens`` or by the context), ``tool_calls``, or another word
            of the server's.
        usage: token counts as the server sent them (``prompt_tokens``, ``completion_tokens``, ``total_tokens``); empty
            when it sent none.
        latency_ms: from sending the request to the last byte, of the attempt that succeeded.
        ttft_ms: from sending the request to the first piece of text, reasoning or tool call; None when the answer did
            not travel as a stream.
        tokens_per_second: completion tokens by the time it took to generate them; None when either is not known.
        attempts: attempts made, 0 for a cached reply.
        cached: whether it came from the cache, with the times of the original.
        reasoning: the model's thinking, where the server sends it apart; else empty.
        tool_calls: OpenAI-shaped tool calls, arguments as the JSON text that the model wrote.
        parsed: the object that the text holds, for calls with a schema; else None.
        raw: the server's body; for a stream, the body it adds up to.
    """

    text: str
    model: str
    finish_reason: str | None
    usage: dict[str, Any] = field(default_factory=dict)
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    attempts: int = 1
    cached: bool = False
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    parsed: Any = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def __contains__(self, part: object) -> bool:
        """Tell whether the text holds `part`, as ``part in reply.text`` would."""
        if not isinstance(part, str):
            msg = f"'in' needs a str to look for in a reply's text, got {type(part).__name__}"
            raise TypeError(msg)
        return part in self.text
