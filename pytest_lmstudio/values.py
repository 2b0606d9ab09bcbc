"""How single values are read and checked: text of a command line, of the environment, of an ini file."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.settings import BreakerLimits

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPES: dict[str, dict[str, Any]] = {
    "slow-model": {"timeout": 90.0, "concurrency": 2},
    "fast-feedback": {"params": (("max_tokens", 256), ("temperature", 0.4))},
    "stress": {"concurrency": 16, "timeout": 20.0},
    "noisy-network": {"retries": 5, "backoff": 0.8},
}

_LOOPBACK = re.compile(r"localhost\.?|127(?:\.\d{1,3}){1,3}|::1")
#: No more requests in flight, and no more xdist workers.
MOST_CONCURRENCY = 256
_MOST_SECONDS = 86_400.0
_MOST_COUNT = 1_000_000
_LAST_PORT = 65_535
#: Characters between two dots of a host's name (RFC 1035).
_LONGEST_LABEL = 63


def quoted(value: object) -> str:
    """Return a value as an error line shows it: printable, short, and without the password of a URL.

    A URL that holds a password is often no URL: an unescaped slash or @ in the password, or no scheme.
    """
    from pytest_lmstudio.text import printable

    shown = re.sub(r"(?s)//.*@|^[^/]*:(?!//).*@", _without_password, value if isinstance(value, str) else repr(value))
    return f"'{printable(shown, limit=120)}'" if isinstance(value, str) else printable(shown, limit=120)


def _without_password(found: re.Match[str]) -> str:
    return "//***@" if found[0].startswith("//") else "***@"


def shown(name: str, value: object) -> str:
    """Return a resolved value as the header shows it."""
    if name == "max_error_rate" and isinstance(value, float):
        return f"{value:.4g}" if value > 1 else f"{value * 100:.4g}%"
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None and name in {"breaker", "latency_threshold", "first_token_timeout", "inter_token_timeout"}:
        return "off"
    if isinstance(value, float):
        return f"{value:g}s"
    from pytest_lmstudio.text import printable

    return printable(str(value), limit=200)


def _number(text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(expected) from None
    # Python reads 1_0 and other scripts' digits too.
    if not math.isfinite(value) or "_" in text or not text.isascii():
        raise ValueError(expected)
    return value


def _seconds(text: str, expected: str, *, scale: float = 1.0, zero: bool) -> float:
    value = _number(text, expected) / scale
    if value < 0 or value > _MOST_SECONDS or (value == 0 and not zero):
        raise ValueError(expected)
    return value


def timeout(text: str) -> Any:
    """Read seconds above 0, or ``auto``."""
    return text if text == "auto" else _seconds(text, "expected seconds above 0 and up to 86400, or 'auto'", zero=False)


def timeout_ms(text: str) -> Any:
    """Read milliseconds above 0, or ``auto``, as seconds."""
    expected = "expected milliseconds above 0 and up to 86400000, or 'auto'"
    return text if text == "auto" else _seconds(text, expected, scale=1000, zero=False)


def backoff(text: str) -> float:
    """Read seconds, 0 included."""
    return _seconds(text, "expected seconds from 0 to 86400", zero=True)


def backoff_ms(text: str) -> float:
    """Read milliseconds, 0 included, as seconds."""
    return _seconds(text, "expected milliseconds from 0 to 86400000", scale=1000, zero=True)


def wait(text: str) -> float:
    """Read seconds, 0 included."""
    return backoff(text)


def interval(text: str) -> float:
    """Read seconds above 0."""
    return _seconds(text, "expected seconds above 0 and up to 86400", zero=False)


def threshold(text: str) -> float | None:
    """Read seconds above 0, or ``off`` as None."""
    return None if text == "off" else _seconds(text, "expected seconds above 0, or 'off'", zero=False)


def threshold_ms(text: str) -> float | None:
    """Read milliseconds above 0 as seconds, or ``off`` as None."""
    return None if text == "off" else _seconds(text, "expected milliseconds above 0, or 'off'", scale=1000, zero=False)


def _whole(text: str, least: int) -> int:
    expected = f"expected a whole number from {least} to {_MOST_COUNT}"
    if not re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII) or not least <= int(text) <= _MOST_COUNT:
        raise ValueError(expected)
    return int(text)


def retries(text: str) -> int:
    """Read a count, 0 included."""
    return _whole(text, 0)


def concurrency(text: str) -> int:
    """Read a number of requests in flight; capped, since as many xdist workers may be started."""
    if (count := _whole(text, 1)) > MOST_CONCURRENCY:
        msg = f"expected a whole number from 1 to {MOST_CONCURRENCY}"
        raise ValueError(msg)
    return count


def port(text: str) -> int:
    """Read a TCP port; 0 is any that is free."""
    expected = f"expected a port from 0 to {_LAST_PORT}"
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > _LAST_PORT:
        raise ValueError(expected)
    return int(text)


def positive(text: str) -> int:
    """Read a count from 1."""
    return _whole(text, 1)


def rate(text: str) -> float:
    """Read a share, as a percentage or as a number from 0 to 1."""
    expected = "expected a share such as 5% or 0.05, from 0 to 100%"
    value = _number(text.removesuffix("%"), expected) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise ValueError(expected)
    return value


def breaker(text: str) -> BreakerLimits | None:
    """Read ``N:SECONDS``, or ``off`` as None."""
    if text == "off":
        return None
    expected = "expected errors in a row and seconds, such as 5:30, or 'off'"
    failures, colon, pause = text.partition(":")
    try:
        if not colon:
            raise ValueError  # noqa: TRY301  # one message for every way to be wrong
        return BreakerLimits(positive(failures), _seconds(pause, expected, zero=True))
    except ValueError:
        raise ValueError(expected) from None


def switch(text: str) -> bool:
    """Read on or off, in the usual spellings."""
    words = {"on": True, "1": True, "true": True, "yes": True, "off": False, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        msg = "expected 'on' or 'off'"
        raise ValueError(msg)
    return words[text.lower()]


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a reader of one of a few words."""

    def read(text: str) -> str:
        if text not in choices:
            msg = f"expected {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
            raise ValueError(msg)
        return text

    return read


recipe = one_of(*RECIPES)


def text(raw: str) -> str:
    """Read any text without control characters."""
    from pytest_lmstudio.text import printable

    if printable(raw) != raw:
        msg = "expected text without control characters"
        raise ValueError(msg)
    return raw


def name(raw: str) -> str:
    """Read a name: not empty, without control characters."""
    if not raw:
        msg = "expected a name"
        raise ValueError(msg)
    return text(raw)


def folder(raw: str) -> str:
    """Read a path."""
    return name(raw)


def file(raw: str) -> str:
    """Read a path that can be a file."""
    if raw.endswith(("/", "\\")):
        msg = "expected a file, not a folder"
        raise ValueError(msg)
    return name(raw)


def url(raw: str) -> str:
    """Read a server's base URL; ``/v1`` at its end, a trailing and a double slash are mended."""
    if raw == "embedded":
        return raw
    from urllib.parse import urlsplit

    expected = "expected a base URL such as http://127.0.0.1:1234, or 'embedded'"
    try:
        parts = urlsplit(text(raw))
        port = parts.port
        host = parts.hostname or ""
        if not (host.isascii() and all(0 < len(label) <= _LONGEST_LABEL for label in host.split("."))):
            # An empty or endless label is no host that can be asked for. A plain name does without the codec, whose
            # tables take a millisecond to load.
            host.encode("idna")
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or re.search(r"[\s\\]", raw):
        raise ValueError(expected)
    if parts.username is not None or parts.password is not None:
        msg = "a URL may not hold a password; put the token into LM_API_TOKEN"
        raise ValueError(msg)
    if parts.query or parts.fragment:
        raise ValueError(expected)
    path = re.sub(r"/+", "/", parts.path).rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}".rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Tell whether a URL stays on this machine; such traffic never goes through a proxy of the environment."""
    from urllib.parse import urlsplit

    return _LOOPBACK.fullmatch(urlsplit(base_url).hostname or "") is not None


class Parser(NamedTuple):
    """How one setting is read; each turns text into the value, or raises `ValueError` with what was expected.

    Attributes:
        text: reads it from the command line or an ini file.
        env: reads it from the environment, where the unit differs; else None.
    """

    text: Callable[[str], Any]
    env: Callable[[str], Any] | None = None


#: By the field of `Settings`.
PARSERS: dict[str, Parser] = {
    "url": Parser(url),
    "model": Parser(name),
    "timeout": Parser(timeout, timeout_ms),
    "first_token_timeout": Parser(threshold, threshold_ms),
    "inter_token_timeout": Parser(threshold, threshold_ms),
    "retries": Parser(retries),
    "backoff": Parser(backoff, backoff_ms),
    "retry_strategy": Parser(name),
    "concurrency": Parser(concurrency),
    "latency_threshold": Parser(threshold, threshold_ms),
    "breaker": Parser(breaker),
    "cache": Parser(one_of("readwrite", "refresh", "off", "offline")),
    "cache_size": Parser(positive),
    "pipeline_version": Parser(text),
    "max_error_rate": Parser(rate),
    "on_error": Parser(one_of("gate", "fail")),
    "stream": Parser(switch),
    "order": Parser(one_of("affinity", "as-written")),
    "recipe": Parser(recipe),
    "wait": Parser(wait),
    "dir": Parser(folder),
    "report": Parser(file),
    "html": Parser(file),
    "html_texts": Parser(switch),
    "metrics_port": Parser(port),
    "metrics_file": Parser(file),
}
