"""From what a test says to a request: keywords sorted into body and transport, prompts made into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio import values
from pytest_lmstudio.keywords import MARK_KEYWORDS, TRANSPORT
from pytest_lmstudio.records import CallOptions

if TYPE_CHECKING:
    from pytest_lmstudio.settings import CacheMode, Settings

#: pytest leaves these frames out of a traceback: what a test did wrong stands in the test.
__tracebackhide__ = True

#: Parameters of a chat completion that LM Studio documents, or that its engines take; others go through ``extra_body``.
BODY = frozenset({
    "draft_model", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "min_p",
    "parallel_tool_calls", "presence_penalty", "reasoning_effort", "repeat_penalty", "response_format", "seed", "stop",
    "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p", "ttl",
})  # fmt: skip
#: Keywords whose values are checked here, since a wrong one would be a puzzle in the server's answer.
_CHECKED = {name: MARK_KEYWORDS[name] for name in ("max_tokens", "temperature", "seed")}
_OWN = frozenset({"messages", "model", "stream", "stream_options", "input", "n"})


class Asked(NamedTuple):
    """What a call's keywords say.

    Attributes:
        model: the model named, or None.
        options: how the call travels.
        params: what goes into the body beside model and messages.
    """

    model: str | None
    options: CallOptions
    params: dict[str, Any]


def effective(settings: Settings, marker: Mapping[str, Any]) -> Settings:
    """Return the settings as a test's marker changes them."""
    if not marker:
        return settings
    changed: dict[str, Any] = {name: marker[name] for name in TRANSPORT if name in marker and name != "cache"}
    if "cache" in marker:
        changed["cache"] = _cache_mode(settings, wanted=marker["cache"])
    return settings._replace(**changed) if changed else settings


def sorted_out(settings: Settings, marker: Mapping[str, Any], keywords: dict[str, Any]) -> Asked:
    """Sort a call's keywords, which beat the marker's, which beat the settings.

    Args:
        settings: the run's.
        marker: keywords of the test's marker.
        keywords: keywords of the call.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: a value is wrong.
    """
    params = dict(settings.params) | {name: marker[name] for name in _CHECKED if name in marker}
    transport: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in TRANSPORT:
            transport[name] = _checked(TRANSPORT[name], name, value)
        elif name == "extra_body":
            extra = _extra(value)
        elif name in BODY:
            params[name] = _checked(_CHECKED[name], name, value) if name in _CHECKED and value is not None else value
        else:
            raise TypeError(_unknown(name))
    travel = {**marker, **transport}
    said = {name: value for name, value in params.items() if value is not None}
    return Asked(travel.get("model"), _options(settings, travel), said | extra)


def _options(settings: Settings, transport: Mapping[str, Any]) -> CallOptions:
    timeout = transport.get("timeout", settings.timeout)
    return CallOptions(
        timeout_s=None if timeout == "auto" else timeout,
        first_token_s=transport.get("first_token_timeout", settings.first_token_timeout),
        inter_token_s=transport.get("inter_token_timeout", settings.inter_token_timeout),
        retries=transport.get("retries", settings.retries),
        backoff_s=transport.get("backoff", settings.backoff),
        cache=_cache_mode(settings, wanted=transport.get("cache", True)),
        stream=transport.get("stream", settings.stream),
    )


def _cache_mode(settings: Settings, *, wanted: bool) -> CacheMode:
    """Return the mode of a call; a run that is offline stays so, whatever a test says."""
    return settings.cache if wanted or settings.cache == "offline" else "off"


def _checked(check: Any, name: str, value: object) -> Any:
    try:
        return check(value)
    except ValueError as error:
        msg = f"{name}={values.quoted(value)}: {error}"
        raise ValueError(msg) from None


def _extra(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        msg = f"extra_body={values.quoted(value)}: expected a dict with names of request parameters"
        raise TypeError(msg)
    if own := sorted(_OWN & value.keys()):
        msg = f"extra_body: {', '.join(own)} cannot be set there; use the call's own arguments"
        raise TypeError(msg)
    return dict(value)


def _unknown(name: str) -> str:
    import difflib

    known = sorted(BODY | TRANSPORT.keys() | {"system", "extra_body"})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    rest = f"a parameter that only your server knows goes into extra_body={{{name!r}: ...}}"
    return f"unknown keyword {name!r}{hint} ({rest})"


def messages_for(prompt: object, system: str | None) -> list[dict[str, Any]]:
    """Return a prompt, or a whole conversation, as messages; `system` goes first where the conversation has none.

    Raises:
        TypeError: the prompt is neither.
    """
    if isinstance(prompt, str):
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    elif isinstance(prompt, Sequence) and prompt and all(isinstance(part, Mapping) for part in prompt):
        messages = [dict(part) for part in prompt]
    else:
        msg = f"a prompt is a str, a conversation a list of message dicts; got {values.quoted(prompt)}"
        raise TypeError(msg)
    if any(not isinstance(message.get("role"), str) for message in messages):
        msg = "each message needs a 'role', such as 'user'"
        raise TypeError(msg)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def texts_for(texts: object) -> list[str]:
    """Return the texts to embed.

    Raises:
        TypeError: they are no texts.
    """
    found = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Sequence) else []
    if not found or not all(isinstance(text, str) for text in found):
        msg = f"embed takes a str or a list of str that is not empty; got {values.quoted(texts)}"
        raise TypeError(msg)
    return found
