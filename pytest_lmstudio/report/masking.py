"""What must not leave the machine: secrets that the environment names, and what looks like one wherever it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.text import MASK, redact, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Names of secrets, whoever's they are: ``OPENAI_API_KEY``, ``GH_TOKEN``; but not ``TOKENIZERS_PARALLELISM``.
_SECRET_NAME = re.compile(
    r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|PAT|COOKIE)S?(?:_|$)", re.IGNORECASE
)
# What is shorter could as well be a word of the report.
_SHORTEST_SECRET = 6
_HEADER = re.compile(
    r"""(?ix) \b (?P<name> (?:proxy-)?authorization | (?:x-)?api[-_]?key | (?:set-)?cookie | x-auth-token )
    (?P<between> ["']? \s* [:=] \s* ["']? ) [^"'\r\n]+"""
)
_IN_QUERY = re.compile(
    r"(?i)(?<=[?&])((?:api[-_]?key|key|(?:access_|id_)?token|secret|password|sig|signature)=)[^&#\s\"']+"
)
#: How vendors' keys begin: OpenAI, Anthropic, Hugging Face, GitHub, GitLab, Slack, AWS, Google; and JSON web tokens.
_BY_FORM = re.compile(
    r"\b(?:(?:sk|pk|rk|hf|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs])[-_][\w-]{16,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_LONGEST_TEXT = 4000
_CUT = "...[cut]"


def is_secret(name: str) -> bool:
    """Tell whether a variable of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the environment that may stand nowhere, whichever program they are for."""
    return tuple(value for name, value in environ.items() if is_secret(name) and len(value) >= _SHORTEST_SECRET)


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Return text without secrets: those named, and what stands where secrets stand or has the form of one."""
    text = redact(without_userinfo(text), secrets)
    text = _HEADER.sub(rf"\g<name>\g<between>{MASK}", text)
    return _BY_FORM.sub(MASK, _IN_QUERY.sub(rf"\g<1>{MASK}", text))


def masked_data(value: Any, secrets: tuple[str, ...]) -> Any:
    """Return data without secrets and with no text of more than 4,000 characters.

    It goes value by value, so that a secret that is a word can hit no name of a field.
    """
    if isinstance(value, str):
        return masked(value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + _CUT, secrets)
    if isinstance(value, dict):
        return {key: masked_data(item, secrets) for key, item in value.items()}
    return [masked_data(item, secrets) for item in value] if isinstance(value, (list, tuple)) else value
