"""What makes two requests the same: the cache key."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> Any:
    """Return JSON data in one spelling: a float that is a whole number becomes an int, as in RFC 8785."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: part if type(part) is str else canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [part if type(part) is str else canonical(part) for part in value]
    return value


def question(pipeline_version: str, endpoint: str, body: dict[str, Any], sample: int) -> dict[str, Any]:
    """Return all that can change the answer: pipeline version, endpoint, body with its model, the sample's index."""
    return {"pipeline_version": pipeline_version, "endpoint": endpoint, "body": canonical(body), "sample": sample}


def cache_key(asked: dict[str, Any]) -> str:
    """Return the hex SHA-256 of a question's canonical JSON; transport settings and the URL are no part of it.

    Raises:
        TypeError, ValueError: the body holds something that JSON cannot carry.
    """
    return hashlib.sha256(_ENCODER.encode(asked).encode("ascii")).hexdigest()
