"""From a case to what is asked: templates, filled with the case's fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from pytest_lmstudio.cases.source import BadCases, Row
from pytest_lmstudio.client.asking import sorted_out
from pytest_lmstudio.settings import Settings
from pytest_lmstudio.text import printable

#: A text with ``{field}`` in it, or a function of the case.
Text = str | Callable[[Row], str]
_NAMES = ("prompt", "system", "messages", "schema", "params", "id")


class Question(NamedTuple):
    """What one case asks.

    Attributes:
        prompt: a text, or a whole conversation.
        system: the system prompt, or None for that of the settings.
        schema: the JSON schema of the answer, or None.
        params: keywords of the call.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    system: str | None
    schema: dict[str, Any] | None
    params: dict[str, Any]

    @property
    def instruction(self) -> str | None:
        """Return the system prompt that is sent: the conversation's own, where it begins with one."""
        first = {} if isinstance(self.prompt, str) else self.prompt[0]
        return str(first.get("content")) if first.get("role") == "system" else self.system


class Template:
    """How the cases of one test are asked.

    What the mark does not say, a case's own field of that name does: ``prompt`` or ``messages``, ``system``,
    ``schema``, and ``params``, which beats the mark's parameters.

    Args:
        given: the mark's keywords; those that are none of its own are parameters of every call.

    Raises:
        BadCases: a keyword cannot be used.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._params = {name: value for name, value in given.items() if name not in _NAMES}
        self._given = {name: given[name] for name in _NAMES if given.get(name) is not None}
        if "prompt" in self._given and "messages" in self._given:
            msg = "takes prompt or messages, not both"
            raise BadCases(msg)
        self._params |= _mapping(self._given.get("params", {}), "params")
        _check_params(self._params)
        for name in ("prompt", "system", "id"):
            _check_text(self._given.get(name, ""), name)
        _mapping(self._given.get("schema", {}), "schema")

    def question(self, row: Row) -> Question:
        """Return what a case asks.

        Raises:
            BadCases: a field is missing, or has a value that the template cannot use.
        """
        prompt = self._filled("prompt", row) or self._filled("messages", row)
        if not prompt:
            msg = "it says nothing to ask: give the mark a prompt or messages, or the case a field of that name"
            raise BadCases(msg)
        schema = self._filled("schema", row)
        own = _mapping(row["params"], "params") if "params" in row and "params" not in self._given else {}
        return Question(
            _conversation(prompt) if not isinstance(prompt, str) else prompt,
            self._system(row),
            None if schema is None else _mapping(schema, "schema"),
            self._params | own,
        )

    def id_of(self, row: Row, default: str) -> str:
        """Return how a test's id names a case: the mark's ``id``, a field ``id``, or its place.

        Raises:
            BadCases: the field that names it is missing.
        """
        given = self._given.get("id")
        if given is None:
            value = row.get("id")
            return str(value) if isinstance(value, str | int) and str(value) else default
        if isinstance(given, str) and "{" not in given:
            if given not in row:
                raise _missing(given, row)
            return str(row[given])
        return str(_fill(given, row, "id"))

    def check(self, row: Row) -> str | None:
        """Make sure that a case can be asked; functions of the user's are not called for that.

        Returns:
            Its system prompt, None where it has none or only a function knows it.

        Raises:
            BadCases: it cannot.
        """
        if "params" in row and "params" not in self._given:
            _check_params(_mapping(row["params"], "params"))
        if not any(callable(self._given.get(name)) for name in _NAMES):
            return self.question(row).instruction
        return None if callable(self._given.get("system")) else self._system(row)

    def _system(self, row: Row) -> str | None:
        system = self._filled("system", row)
        return None if system is None else _text(system, "system")

    def _filled(self, name: str, row: Row) -> Any:
        if name not in self._given:
            return row.get(name)
        return _fill(self._given[name], row, name)


def _fill(template: Any, row: Row, name: str) -> Any:
    if callable(template):
        return template(row)
    if isinstance(template, str):
        return _formatted(template, row, name)
    if name == "messages":
        return [_message(message, row) for message in template]
    return template


def _check_params(params: dict[str, Any]) -> None:
    try:
        sorted_out(Settings(), {}, params)
    except (TypeError, ValueError) as error:
        raise BadCases(str(error)) from None


def _message(message: Any, row: Row) -> Any:
    """Fill the texts of one message of a conversation."""
    if not isinstance(message, Mapping):
        return message
    content = message.get("content")
    if isinstance(content, str):
        content = _formatted(content, row, "messages")
    elif isinstance(content, Sequence):
        content = [
            {**part, "text": _formatted(part["text"], row, "messages")}
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
    return {**message, "content": content}


def _formatted(template: str, row: Row, name: str) -> str:
    try:
        return template.format_map(row)
    except KeyError as error:
        raise _missing(str(error.args[0]), row) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        msg = f"{name} cannot be filled: {printable(str(error), limit=200)} (a brace that is meant is written twice)"
        raise BadCases(msg) from None


def _missing(field: str, row: Row) -> BadCases:
    known = ", ".join(printable(name, limit=40) for name in list(row)[:10]) or "none"
    return BadCases(f"the field {printable(repr(field), limit=60)} is missing; it has: {known}")


def _check_text(template: object, name: str) -> None:
    if callable(template):
        return
    if not isinstance(template, str):
        msg = f"{name} must be a text or a function of the case, got {printable(repr(template), limit=60)}"
        raise BadCases(msg)
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template)]
    except ValueError as error:
        msg = f"{name} is no template: {error} (a brace that is meant is written twice)"
        raise BadCases(msg) from None
    if any(field is not None and (not field or field[0].isdigit()) for field in fields):
        msg = f"{name} must name its fields, as in {{text}}"
        raise BadCases(msg)


def _conversation(prompt: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(prompt, Sequence) or not all(isinstance(message, Mapping) for message in prompt):
        msg = f"messages must be a list of message objects, got {printable(repr(prompt), limit=60)}"
        raise BadCases(msg)
    return prompt


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        msg = f"{name} must be a text, got {printable(repr(value), limit=60)}"
        raise BadCases(msg)
    return value


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if callable(value):
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        msg = f"{name} must be an object with named fields, got {printable(repr(value), limit=60)}"
        raise BadCases(msg)
    return dict(value)
