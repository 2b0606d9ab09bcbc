"""The server that a subcommand asks: from what was typed, from the environment as pytest reads it, and started here."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio import values
from pytest_lmstudio.cli.screen import Failure, complain
from pytest_lmstudio.errors import KINDS
from pytest_lmstudio.names import FLAGS, token, token_problem
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from pytest_lmstudio.engine.deadline import Limits
    from pytest_lmstudio.errors import ErrorKind

EMBEDDED = "embedded"
#: What helps against a server that takes a connection and says nothing.
RESTART = "restart the server, and look in its log"
#: A number instead of `auto`, which needs a run's latencies.
DEFAULT_TIMEOUT_S = 45.0
_TYPED = ("url", "model", "timeout")
_READ = frozenset({
    *_TYPED, "first_token_timeout", "inter_token_timeout", "retries", "backoff", "retry_strategy", "concurrency",
    "breaker", "pipeline_version", "max_error_rate", "stream", "recipe", "wait",
})  # fmt: skip


class Target(NamedTuple):
    """A server that can be asked.

    Attributes:
        settings: with its real URL.
        token: the API token, or None.
        fixed_model: the model of a server that was started here, else None.
    """

    settings: Settings
    token: str | None
    fixed_model: str | None = None

    @property
    def timeout_s(self) -> float:
        """Return the hard limit of one attempt."""
        return timeout_s(self.settings)

    @property
    def limits(self) -> Limits:
        """Return the limits of one attempt."""
        from pytest_lmstudio.engine.deadline import Limits

        return Limits(self.timeout_s, self.settings.first_token_timeout, self.settings.inter_token_timeout)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every subcommand that asks a server takes."""
    for flag in (flag for flag in FLAGS if flag.name in _TYPED):
        parser.add_argument(f"--{flag.name}", metavar=flag.metavar, help=f"{flag.help} ({flag.env})")


def remedy_of(kind: ErrorKind) -> str:
    """Return what to do about a kind of error, by the names that the command's own options have."""
    waits = "; --lmstudio-wait=60 waits for one that is still starting"
    return KINDS[kind].advice.replace(waits, "").replace("--lmstudio-", "--")


def count(text: str) -> int:
    """Read a count from 1, for argparse."""
    return _typed(values.positive, text)  # type: ignore[no-any-return]  # by the reader


def port(text: str) -> int:
    """Read a TCP port, for argparse."""
    return _typed(values.port, text)  # type: ignore[no-any-return]  # by the reader


def seconds(text: str) -> float:
    """Read seconds above 0, for argparse."""
    return _typed(values.interval, text)  # type: ignore[no-any-return]  # by the reader


def _typed(read: Any, text: str) -> Any:
    import argparse

    try:
        return read(text)
    except ValueError as error:
        msg = f"{values.quoted(text)}: {error}"
        raise argparse.ArgumentTypeError(msg) from None


def settings_from(chosen: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings that matter to a subcommand: what was typed, then the environment, then its recipe.

    Raises:
        Failure: a value is wrong; one line with the value and where it came from.
    """
    if (problem := token_problem(environ)) is not None:
        raise Failure(problem)
    given: dict[str, Any] = {"dir": os.path.abspath(os.path.expanduser(chosen.dir))}  # noqa: PTH100, PTH111  # see runs
    for flag in (flag for flag in FLAGS if flag.name in _READ):
        parser = values.PARSERS[flag.name]
        typed = getattr(chosen, flag.name, None) if flag.name in _TYPED else None
        text = environ.get(flag.env, "") if typed is None else typed
        if not text and typed is None:
            continue
        read, spelled = (parser.text, f"--{flag.name}") if typed is not None else (parser.env or parser.text, flag.env)
        try:
            given[flag.name] = read(text.strip())
        except ValueError as error:
            source = "command line" if typed is not None else "environment"
            msg = f"{spelled}={values.quoted(text)} ({source}): {error}"
            raise Failure(msg) from None
    return Settings(**{**values.RECIPES.get(given.get("recipe", ""), {}), **given})


def timeout_s(settings: Settings) -> float:
    """Return the hard limit of one attempt, seconds."""
    return settings.timeout if isinstance(settings.timeout, float) else DEFAULT_TIMEOUT_S


@contextmanager
def opened(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Target]:
    """Yield the server; an embedded one is started, and ended with the block.

    Raises:
        Failure: it cannot be started.
    """
    if settings.url != EMBEDDED:
        yield Target(settings, token(environ))
        return
    from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedServer, find_model

    with tempfile.TemporaryDirectory(prefix="lmstudio-") as folder:
        try:
            model = find_model(environ)
            complain(f"starting a server of its own with {model.name} ...")
            running = EmbeddedServer.start(model, parallel=settings.concurrency, log_path=Path(folder, "server.log"))
        except EmbeddedError as error:
            raise Failure(str(error)) from None
        try:
            yield Target(settings._replace(url=running.url), None, running.model)
        finally:
            running.stop()
