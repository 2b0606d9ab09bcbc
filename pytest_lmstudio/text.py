"""Text from outside made safe to show: no control characters, no commands to a CI system, no secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"

# Shorter prefixes of a secret tell too little, and would hit ordinary words.
_SHORTEST_PREFIX = 8

_CUT = "..."

# C0, DEL and C1; soft hyphen; fillers that show nothing; bidirectional marks, embeddings and isolates; zero width
# space, line and paragraph separators; invisible operators; byte order mark; interlinear marks; lone surrogates; what
# is no character, and so no XML either; musical controls; tag characters and selectors, which hide text.
#
# Compiled where a text first needs them, as few runs do: that takes a millisecond, in each worker.
_UNPRINTABLE = (
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001d173-\U0001d17a\U0001fffe\U0001ffff\U000e0000-\U000e0fff]"
)

# What CI systems obey when they read it in a job's output: GitHub's ``::error::`` where a line begins (a long text may
# be wrapped at any blank), and ``##[error]``, Azure's ``##vso[...]`` and ``##teamcity[...]`` wherever it stands.
_CI_COMMAND = r"(?<!\S):(?=:[A-Za-z])|#(?=#(?:(?i:vso|teamcity))?\[)"

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_USERINFO = r"(?<=://)[^/?#\s]*@"

_LM_STUDIO_KEY = r"(?a:sk-lm-[\w:.~+/=-]*\w)"


def printable(text: object, limit: int | None = None) -> str:
    r"""Return text on one line with every control character as a visible escape such as ``\x1b`` or ``\u202e``.

    So is the first character of what a CI system would take for a command: ``\x3a:error::``.

    Args:
        text: anything; what is no str is shown by its ``str``.
        limit: longest result in characters; what is cut ends in ``...``. None is unlimited.
    """
    whole = str(text)
    # No need to escape megabytes of which a line is shown; escapes only lengthen.
    shown = whole if limit is None else whole[: limit + 1]
    if not (shown.isascii() and shown.isprintable()):
        shown = re.sub(_UNPRINTABLE, _escape, shown)
    shown = without_commands(shown)
    if limit is None or len(shown) <= limit:
        return shown
    return shown[: max(limit - len(_CUT), 0)] + _CUT[: max(limit, 0)]


def without_commands(text: str) -> str:
    """Return text, of which the line breaks stay, with the first character of each CI command as an escape."""
    return re.sub(_CI_COMMAND, _spelled, text) if "::" in text or "##" in text else text


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return text with ``***`` in place of each secret, and of each prefix of one (8 characters or more).

    LM Studio's own tokens (``sk-lm-...``) are known by their form, whether named as secrets or not.
    """
    for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
        text = mask(text, secret, _SHORTEST_PREFIX)
    return re.sub(_LM_STUDIO_KEY, MASK, text) if "sk-lm-" in text else text


def without_userinfo(text: str) -> str:
    """Return text whose URLs have lost user name and password."""
    return re.sub(_USERINFO, "", text) if "@" in text else text


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _NAMED.get(char) or char.encode("unicode_escape").decode("ascii")


def _spelled(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def mask(text: str, secret: str, shortest: int, shown: str = MASK) -> str:
    """Mask every place where the secret begins, as far as it goes on: messages quote texts cut short.

    Args:
        text: what may hold it.
        secret: what may not be shown.
        shortest: how many of its characters tell too much.
        shown: what stands there instead.
    """
    head, parts, end = secret[:shortest], [], 0
    while (start := text.find(head, end)) >= 0:
        parts += [text[end:start], shown]
        end = start + _common_length(text[start : start + len(secret)], secret)
    return "".join([*parts, text[end:]])


def _common_length(left: str, right: str) -> int:
    """Return how many characters two texts share from their beginning."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
