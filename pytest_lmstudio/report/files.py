"""Files that are whole or not there, and data that any JSON parser takes."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONE_SURROGATES = "[\ud800-\udfff]"


def write_whole(path: str | Path, parts: Iterable[bytes]) -> Path:
    """Write a file at once, so that a reader sees the old one or the new one; return its path.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    # A link is followed, not replaced, and what is no file (a pipe, /dev/stdout) is written to.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(b"".join(parts))
        return Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, parts)
    return Path(path)


def plain(value: Any) -> Any:
    """Return data as strict JSON takes it: what is not finite is null, lone surrogates are U+FFFD, keys are text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isascii() else re.sub(_LONE_SURROGATES, "\ufffd", value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, int) else plain(str(value))
