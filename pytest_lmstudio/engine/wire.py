"""Bodies on the wire: what is sent, what an answer holds, and how an event stream adds up to one."""

from __future__ import annotations

import json
from typing import Any

_DONE = b"[DONE]"
_MOST_TOKENS = 2**53
_NUMBER = int | float
#: Answers are nested a dozen levels deep; far deeper ones could be read, but not shown or stored.
_MOST_DEPTH = 200
#: Made once: `json.loads` looks at its arguments for each text, and a stream has one for each token.
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
#: What may stand around JSON (RFC 8259, section 2); `decode` looks for it with two patterns, which takes longer.
_SPACE = " \t\r\n"
#: What every event of a stream says of the whole, and what one of its last may.
_HEAD = ("id", "created", "model", "system_fingerprint")
_EXTRA = ("usage", "timings", "stats")


class StreamError(Exception):
    """The stream carried an error; `body` is the event's JSON."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(error_message(body))
        self.body = body


class BadAnswer(ValueError):
    """A body that is no completion; the text says why."""


def encode(body: dict[str, Any], *, stream: bool | None) -> bytes:
    """Return a request body as JSON; ``stream`` is said where the endpoint knows it; a stream asks for token counts."""
    sent = dict(body)
    if stream is not None:
        sent["stream"] = stream
    if stream:
        sent["stream_options"] = {"include_usage": True}
    return _ENCODER.encode(sent).encode("ascii")


def parsed(text: str) -> Any:
    """Return what a text from outside says as JSON.

    Raises:
        BadAnswer: it is none, or none that Python can do anything with.
    """
    value, problem, text = None, "", text.strip(_SPACE)
    try:
        value, end = _DECODER.raw_decode(text)
        if end < len(text):
            problem = "is no JSON"
        # Each level has two brackets, and most texts are an event of a stream, with a token.
        elif end > 2 * _MOST_DEPTH and text.count("[") + text.count("{") > _MOST_DEPTH and _is_deep(value):
            problem = "is nested too deeply"
    except json.JSONDecodeError:
        problem = "is no JSON"
    except ValueError:
        problem = "holds a number with too many digits"
    except RecursionError:
        problem = "is nested too deeply"
    if problem:
        msg = f"the answer {problem}"
        raise BadAnswer(msg)
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_DEPTH):
        inner = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def is_error(body: object) -> bool:
    """Tell whether a body reports an error: LM Studio sends some with status 200, and some proxies do (vLLM's form)."""
    return isinstance(body, dict) and bool(body.get("error") or body.get("object") == "error")


def error_message(body: object) -> str:
    """Return the text of either error shape, ``{"error": "text"}`` or ``{"error": {"message": "text"}}``."""
    error = body.get("error") or body if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error
    try:
        return error if isinstance(error, str) else json.dumps(error)[:1000]
    except RecursionError:
        return "an error that is nested too deeply to be shown"


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, a list of parts, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def message_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice's message.

    Raises:
        BadAnswer: the body is no chat completion.
    """
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        msg = "the answer holds no message"
        raise BadAnswer(msg)
    return message


def finish_reason_of(body: dict[str, Any]) -> str | None:
    """Return the first choice's finish reason."""
    reason = body["choices"][0].get("finish_reason")
    return reason if reason and isinstance(reason, str) else None


def reasoning_of(message: dict[str, Any]) -> str:
    """Return the thinking that a message or delta carries; its field's name changed over the versions."""
    return text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))


def tool_calls_of(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the tool calls of a message."""
    calls = message.get("tool_calls")
    return tuple(call for call in calls if isinstance(call, dict)) if isinstance(calls, list) else ()


def usage_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts, empty where the server sent none."""
    usage = body.get("usage")
    return usage if isinstance(usage, dict) else {}


def token_count(usage: dict[str, Any], name: str) -> int | None:
    """Return one token count, or None."""
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= _MOST_TOKENS else None


def check_completion(body: object) -> dict[str, Any]:
    """Return a chat completion that holds an answer.

    Raises:
        BadAnswer: it is none, or has neither text nor reasoning nor tool calls (unless cut by ``length``).
    """
    if not isinstance(body, dict):
        msg = "the answer is no JSON object"
        raise BadAnswer(msg)
    message = message_of(body)
    said = text_of(message.get("content")) or reasoning_of(message) or tool_calls_of(message)
    if not said and finish_reason_of(body) != "length":
        msg = "the answer is empty: neither text nor reasoning nor tool calls"
        raise BadAnswer(msg)
    return body


def check_embeddings(body: object, count: int) -> dict[str, Any]:
    """Return an embeddings body that holds `count` vectors.

    Raises:
        BadAnswer: it does not.
    """
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        msg = f"the answer does not hold {count} embeddings"
        raise BadAnswer(msg)
    for row in rows:
        vector = row.get("embedding") if isinstance(row, dict) else None
        if not isinstance(vector, list) or not vector or not all(isinstance(x, _NUMBER) for x in vector):
            msg = "the answer holds an embedding that is no list of numbers"
            raise BadAnswer(msg)
    return body  # type: ignore[return-value]  # only a dict has rows


class EventStream:
    """Adds the events of a chat stream up to the body that the server would have sent whole.

    Feed it bytes as they come; each feed returns the new pieces of text, and `tokens` counts the events with text,
    reasoning or a tool call. Events may be cut anywhere, and take any form of WHATWG HTML, section 9.2.
    """

    def __init__(self) -> None:
        self.done = False
        self.tokens = 0
        self.finish_reason: str | None = None
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._event = ""
        self._head: dict[str, Any] = {}
        self._unsaid: tuple[str, ...] = _HEAD
        self._extra: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tools: dict[int, dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        """Tell whether the server said that the answer is whole."""
        return self.done or self.finish_reason is not None

    @property
    def calls_tool(self) -> bool:
        """Tell whether the answer calls a tool."""
        return bool(self._tools)

    def feed(self, chunk: bytes) -> list[str]:
        """Take bytes; return the pieces of text that they complete.

        Raises:
            StreamError: the stream carries an error.
            BadAnswer: an event is no JSON object, or no UTF-8.
        """
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:  # put together when the line's end comes: each time would take quadratic time
            self._rest.append(chunk)
            return []
        lines = b"".join((*self._rest, whole)).split(b"\n")
        self._rest = [rest] if rest else []
        pieces: list[str] = []
        for line in lines:
            if not line or line == b"\r":
                self._dispatch(pieces)
            elif line.startswith(b"data:"):
                self._data.append(line[5:])
            elif line.startswith(b"event:"):
                self._event = line[6:].decode("ascii", "replace").strip()
        return pieces

    def close(self) -> list[str]:
        """Take the end of the stream, which may come without a last blank line; an event cut in two is left out."""
        try:
            return self.feed(b"\n\n") if self._rest or self._data else []
        except BadAnswer:
            return []

    def _dispatch(self, pieces: list[str]) -> None:
        lines, event, self._data, self._event = self._data, self._event, [], ""
        sent = b"\n".join(lines).strip() if lines else b""
        self.done = self.done or sent == _DONE
        if not sent or self.done:
            return
        try:
            data = sent.decode()
        except UnicodeDecodeError:
            msg = "the stream holds bytes that are no UTF-8"
            raise BadAnswer(msg) from None
        try:
            body = parsed(data)
        except BadAnswer:
            body = data
        if event == "error" and not isinstance(body, dict):
            body = {"error": body}
        if not isinstance(body, dict):
            msg = "the stream holds an event that is no JSON object"
            raise BadAnswer(msg)
        if event == "error" or is_error(body):
            raise StreamError(body)
        self._chunk(body, pieces)

    def _chunk(self, body: dict[str, Any], pieces: list[str]) -> None:
        for name in self._unsaid:
            if name in body:
                self._head[name] = body[name]
                self._unsaid = tuple([other for other in self._unsaid if other != name])
        for name in _EXTRA:
            if body.get(name):
                self._extra[name] = body[name]
        choices = body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict):
            return
        if first.get("finish_reason"):
            self.finish_reason = finish_reason_of(body) or self.finish_reason
        delta = first.get("delta") or first.get("message")
        if delta and isinstance(delta, dict):
            self._delta(delta, pieces)

    def _delta(self, delta: dict[str, Any], pieces: list[str]) -> None:
        text = text_of(delta.get("content"))
        if text:
            self._text.append(text)
            pieces.append(text)
        reasoning = reasoning_of(delta) if "reasoning_content" in delta or "reasoning" in delta else ""
        if reasoning:
            self._reasoning.append(reasoning)
        calls = tool_calls_of(delta) if "tool_calls" in delta else ()
        for call in calls:
            self._tool(call)
        self.tokens += bool(text or reasoning or calls)

    def _tool(self, fragment: dict[str, Any]) -> None:
        index = fragment.get("index")
        if not isinstance(index, int):  # some servers number no calls; one with an id begins a new one
            index = len(self._tools) if fragment.get("id") else max(len(self._tools) - 1, 0)
        whole = self._tools.setdefault(
            index,
            {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
        )
        whole["id"] = fragment.get("id") or whole["id"]
        function = fragment.get("function")
        if isinstance(function, dict):
            whole["function"]["name"] = text_of(function.get("name")) or whole["function"]["name"]
            whole["function"]["arguments"] += text_of(function.get("arguments"))

    def body(self) -> dict[str, Any]:
        """Return the chat completion that the events add up to.

        Raises:
            BadAnswer: the stream ended before the server said that the answer is whole.
        """
        if not self.complete:
            msg = "the stream ended before the answer was whole"
            raise BadAnswer(msg)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text)}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        message["tool_calls"] = [self._tools[index] for index in sorted(self._tools)]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], **self._extra}
