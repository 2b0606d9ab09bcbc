"""How the tests of `doctor`, `health` and `verify` ask: in this process, against a stand-in."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio.cli.command import main
from tests.standin import Model, StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

TOKEN = "sk-lm-abcdefgh:0123456789abcdefghij"  # a made-up one


class Said(NamedTuple):
    """How a subcommand ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """What its output says as JSON."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """Its output with all white space as one blank, as it is wrapped."""
        return " ".join(self.out.split())


def ask(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> Said:
    """Run a subcommand."""
    capsys.readouterr()
    status = main([command, *arguments])
    return Said(status, *capsys.readouterr())


@contextmanager
def standin(*models: Model, **keywords: Any) -> Iterator[StandIn]:
    """Yield a server that takes requests to any route, as LM Studio does."""
    with StandIn(models=models or None, **keywords) as server:
        server.strict = False
        yield server


@contextmanager
def taken_port() -> Iterator[int]:
    """Yield a port that is bound, so that nobody else listens to it; it refuses connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
