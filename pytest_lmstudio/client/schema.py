"""Answers that follow a JSON schema. The only module that knows jsonschema."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from pytest_lmstudio.errors import LMSchemaError
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from pytest_lmstudio.reply import Reply

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
_MESSAGE_CHARS = 300


def check_schema(schema: object) -> None:
    """Look a schema over before it is sent.

    Raises:
        ValueError: it is no JSON schema.
    """
    if not isinstance(schema, dict):
        msg = f"a schema is a dict, got {type(schema).__name__}"
        raise ValueError(msg)  # noqa: TRY004  # one kind of error for every wrong schema
    if not isinstance(schema.get("$schema", ""), str):
        msg = "this is no JSON schema: its $schema is no text"
        raise ValueError(msg)  # noqa: TRY004  # one kind of error for every wrong schema
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        msg = f"this is no JSON schema: {error.message} (at {_place(error)})"
        raise ValueError(msg) from None


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the request parameter that asks for a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def parse(reply: Reply, schema: dict[str, Any]) -> Any:
    """Return the object that a reply's text holds.

    Raises:
        LMSchemaError: the text is no JSON, or breaks the schema; it names place and rule.
    """
    text = _FENCE.sub(r"\1", reply.text.strip())
    try:
        found = json.loads(text, parse_constant=_no_constant, parse_int=_integer)
    except ValueError as error:
        msg = f"the answer is no JSON: {printable(str(error), limit=_MESSAGE_CHARS)}{_cut(reply)}"
        raise LMSchemaError(msg, reply) from None
    except RecursionError:
        msg = "the answer is nested too deeply to be read"
        raise LMSchemaError(msg, reply) from None
    # An empty registry: a schema with a reference to the network must not fetch it.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        broken = best_match(validator.iter_errors(found))
    except Unresolvable as missing:
        ref = missing.ref or f"#{getattr(missing, 'anchor', '')}"
        msg = f"the schema refers to {printable(ref, limit=100)}, which it does not hold"
        raise ValueError(msg) from None
    except (RecursionError, OverflowError) as beyond:
        msg = f"the answer cannot be checked against its schema: {printable(str(beyond), limit=_MESSAGE_CHARS)}"
        raise LMSchemaError(msg, reply) from None
    if broken is not None:
        raise LMSchemaError(_broken(broken) + _cut(reply), reply)
    return found


def _no_constant(name: str) -> None:
    msg = f"{name} is no JSON"  # Python's parser takes it, the standard does not
    raise ValueError(msg)


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        msg = "it holds a number with too many digits"  # Python's own advice is to change the interpreter
        raise ValueError(msg) from None


def _broken(error: ValidationError) -> str:
    rule = printable("/".join(map(str, error.absolute_schema_path)), limit=_MESSAGE_CHARS)
    said = printable(error.message, limit=_MESSAGE_CHARS)
    return f"the answer breaks its schema at {_place(error)}: {said} (rule {rule})"


def _place(error: ValidationError | SchemaError) -> str:
    return printable(error.json_path, limit=200)


def _cut(reply: Reply) -> str:
    return (
        "; the answer was cut by max_tokens (finish_reason length): raise it" if reply.finish_reason == "length" else ""
    )
