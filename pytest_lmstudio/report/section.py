"""The section of a failed test: each call it made, with prompt, reply, attempts and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lmstudio.report import figures
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lmstudio.records import Attempt, Call

TITLE = "LM Studio calls"
_MOST_CALLS = 20
_TEXT_CHARS = 2000
#: So much of a prompt is shown when all that was wrong with it was its length.
_LONG_PROMPT_CHARS = 200
_MOST_INPUTS = 3


def render(calls: Iterable[Call]) -> str:
    """Return the section's text; model output in it is free of control characters."""
    known = list(calls)
    blocks = [
        "\n".join(_call(n, call)) for n, call in enumerate(known[-_MOST_CALLS:], max(1, len(known) - _MOST_CALLS + 1))
    ]
    if len(known) > _MOST_CALLS:
        blocks.insert(0, f"(the last {_MOST_CALLS} of {len(known)} calls)")
    return "\n".join(blocks)


def _call(number: int, call: Call) -> Iterator[str]:
    yield f"call {number}: {printable(call.request.model or '(no model)', limit=100)}, {_outcome(call)}"
    too_long = call.error is not None and call.error.kind == "context_overflow"
    for label, text in asked(call):
        yield from _labelled(label, text, _LONG_PROMPT_CHARS if too_long else _TEXT_CHARS)
    for attempt in call.attempts:
        yield f"  attempt {attempt.number}: {_attempt(attempt)}"
    for label, text in answered(call):
        yield from _labelled(label, text)
    if call.reply is None and call.error is not None:
        yield from _labelled("error", str(call.error))


def asked(call: Call) -> Iterator[tuple[str, str]]:
    """Yield what a call asked, a role and its text at a time."""
    for message in call.request.body.get("messages", ()):
        yield str(message.get("role")), _content(message.get("content"))
    for text in call.request.body.get("input", ())[:_MOST_INPUTS]:
        yield "input", text


def answered(call: Call) -> Iterator[tuple[str, str]]:
    """Yield what a call was answered, reasoning and tool calls apart; nothing when it was not."""
    if call.reply is None:
        return
    if call.reply.reasoning:
        yield "reasoning", call.reply.reasoning
    if call.reply.tool_calls:
        yield "tool calls", _spelled(list(call.reply.tool_calls))
    if call.request.endpoint == "chat":
        yield "reply", call.reply.text


def _outcome(call: Call) -> str:
    if call.reply is None:
        return f"failed: {call.error.kind if call.error else 'no answer'}"
    if call.reply.cached:
        return "cached"
    finish = f", finish_reason {printable(call.reply.finish_reason, limit=40)}" if call.reply.finish_reason else ""
    return f"answered in {figures.duration(call.reply.latency_ms)}{finish}"


def _attempt(attempt: Attempt) -> str:
    waited = f"waited {figures.duration(attempt.waited_ms)}, then " if attempt.waited_ms >= 1 else ""
    if attempt.kind is None:
        return f"{waited}answered in {figures.duration(attempt.latency_ms)}"
    return f"{waited}{attempt.kind} ({attempt.phase}) after {figures.duration(attempt.latency_ms)}: {attempt.message}"


def _labelled(label: str, text: str, limit: int = _TEXT_CHARS) -> Iterator[str]:
    shown = [printable(line, limit=limit) for line in text[:limit].splitlines() or [""]]
    if len(text) > limit:
        shown.append(f"... ({figures.counted(len(text) - limit, 'more character')})")
    yield f"  {printable(label, limit=20)}: {shown[0]}"
    for line in shown[1:]:
        yield f"    {line}"


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(_part(part) for part in content)
    return "" if content is None else _spelled(content)


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return _spelled(part)
    return _spelled(part.get("text", f"({_spelled(part.get('type', 'part'))})"))


def _spelled(value: Any) -> str:
    try:
        return str(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number with too many digits
        return f"({type(value).__name__} that cannot be shown)"
