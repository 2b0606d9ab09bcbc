"""What `doctor` looks at first: is the server there, what is it, and may we ask it."""

from __future__ import annotations

import html
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_lmstudio.cli.findings import Finding
from pytest_lmstudio.cli.target import RESTART
from pytest_lmstudio.engine.attempt import Page
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.names import TOKEN_VARIABLES
from pytest_lmstudio.server.logs import lmstudio_ports
from pytest_lmstudio.server.probe import Probe, greets
from pytest_lmstudio.settings import Settings
from pytest_lmstudio.text import printable
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.records import ServerInfo
    from pytest_lmstudio.server.probe import Features

_START = "start the server with `lms server start`, or in the app's Developer tab"
_NAME_URL = "give its address with --url or LMSTUDIO_URL"
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
#: Since which version, and before which, by what it has; https://lmstudio.ai/docs/developer/api-changelog.
_AGES = {"api_v1": ("0.4.0", None), "capabilities": ("0.3.16", "0.4.0"), "api_v0": ("0.3.6", "0.4.0")}


class Presence:
    """Looks whether a server is there.

    Args:
        probe: asks it.
        api_token: the API token, or None.

    Attributes:
        info: what is known of the server, None before it was looked at.
        features: what it has, None where it may not be asked.
        age: the version of LM Studio as a range, None for another server.
        better_url: where the server is, should it be elsewhere than it was asked for.
    """

    def __init__(self, probe: Probe, api_token: str | None) -> None:
        self._probe = probe
        self._api_token = api_token
        self.info: ServerInfo | None = None
        self.features: Features | None = None
        self.age: str | None = None
        self.better_url: str | None = None

    @property
    def is_older_lmstudio(self) -> bool:
        """Tell whether it is an LM Studio before 0.4.0, which answers one request at a time."""
        return self.age is not None and "<" in self.age

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to find; one to mend is the last."""
        info = self.info = self._probe.look()
        found = self._server(info)
        yield found
        if found.mark != "mend":
            yield self._token(info)

    def _server(self, info: ServerInfo) -> Finding:
        if not info.reachable:
            return Finding("mend", "server", f"nothing answers at {info.url} ({info.problem})", self._where_else())
        if info.problem_kind is ErrorKind.WRONG_URL:
            return self._stranger(info)
        if info.problem_kind is ErrorKind.AUTH:
            return Finding("ok", "server", "LM Studio" if self._probe.greets() else "it is there, and asks for a token")
        if info.problem_kind is not None:
            return Finding("mend", "server", f"it is there, but {info.problem}", _mute(info.problem or ""))
        return self._known(info)

    def _known(self, info: ServerInfo) -> Finding:
        features = self.features = self._probe.features()
        if not (features.greets or info.kind == "lmstudio"):
            build = f", build {info.version}" if info.version else ""
            known = f"a llama.cpp server{build}" if info.kind == "llama.cpp" else "an OpenAI-compatible server"
            return Finding("ok", "server", f"{known}, not LM Studio")
        name = next((name for name in _AGES if getattr(features, name)), None)
        since, before = _AGES[name] if name else (None, "0.3.6")
        self.age = ",".join([*([f">={since}"] if since else []), *([f"<{before}"] if before else [])])
        spelled = f"{since} or newer" if not before else f"{since} to below {before}" if since else f"before {before}"
        return Finding("ok", "server", f"LM Studio, {spelled} by the routes that it has")

    def _where_else(self) -> str:
        """Return what to do where nothing answers; LM Studio may be on another port of this machine."""
        parts = urlsplit(self._probe.url)
        if not is_loopback(self._probe.url):
            return f"{_START} and let it serve on the network, or {_NAME_URL}"
        asked = parts.port or (443 if parts.scheme == "https" else 80)
        default = urlsplit(Settings().url).port or 0
        for port in dict.fromkeys([*lmstudio_ports(Path.home()), default]):
            if port != asked and greets(f"http://127.0.0.1:{port}"):
                return self._go_to(f"http://127.0.0.1:{port}")
        return f"{_START}, or {_NAME_URL}"

    def _go_to(self, url: str) -> str:
        self.better_url = url
        return f"LM Studio answers at {url}: `export LMSTUDIO_URL={shlex.quote(url)}`"

    def _stranger(self, info: ServerInfo) -> Finding:
        """Return what to make of a server that knows no list of models at this path."""
        parts = urlsplit(info.url)
        path = parts.path
        while path:
            path = path.rpartition("/")[0]
            url = f"{parts.scheme}://{parts.netloc}{path}"
            with Probe(url, self._api_token) as probe:
                if probe.look().problem_kind in {None, ErrorKind.AUTH}:
                    self.better_url = url
                    remedy = f"leave the path out: `export LMSTUDIO_URL={shlex.quote(url)}`"
                    return Finding("mend", "server", f"wrong path: {info.url} lists no models, {url} does", remedy)
        if self._probe.greets():
            return Finding("mend", "server", f"LM Studio answers, but {info.problem}", "update LM Studio")
        said = _who(self._probe.page("/"))
        remedy = (
            f"mend the port: {_NAME_URL}; should a reverse proxy be in between, the path that it forwards belongs to "
            "the address"
        )
        return Finding("mend", "server", f"something else answers at {info.url}: {said}", remedy)

    def _token(self, info: ServerInfo) -> Finding:
        name = next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)
        if self._api_token is None or name is None:
            name = None
        if info.problem_kind is ErrorKind.AUTH:
            make = f"make a token in LM Studio's server settings, then `export {name or TOKEN_VARIABLES[0]}=...`"
            text = f"that in {name} was refused: {info.problem}" if name else "one is asked for, and none is set"
            return Finding("mend", "token", text, make)
        if name is None:
            return Finding("ok", "token", "none is asked for")
        with Probe(info.url, None) as anonymous:
            asked = anonymous.refuses()
        return Finding("ok", "token", f"that in {name} is accepted" if asked else f"none is asked for; {name} is sent")


def _who(page: Page | Failure) -> str:
    """Return what can be told of a server that is none of a model."""
    if not isinstance(page, Page):
        return page.message
    title = _TITLE.search(page.text[:10_000])
    name = page.headers.get("server")
    facts = [f"HTTP {page.status}", page.headers.get("content-type", "").partition(";")[0], name and f"from {name}"]
    if title:
        facts.append(f"titled '{html.unescape(title[1]).strip()}'")
    elif page.text.strip() and "<" not in page.text[:200]:
        facts.append(f"saying '{page.text.strip()[:60]}'")
    return printable(", ".join(fact for fact in facts if fact), limit=200)


def _mute(problem: str) -> str:
    """Return what to do with a server that takes a connection, and then does not talk as one should."""
    if "RemoteProtocolError" in problem:
        return f"what listens there does not speak HTTP: {_NAME_URL}"
    return RESTART
