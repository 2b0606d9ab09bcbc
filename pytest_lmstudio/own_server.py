"""The server that a run starts for itself, with ``--lmstudio-url=embedded``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.home import Home
from pytest_lmstudio.settings import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.server.embedded import EmbeddedModel, EmbeddedServer
    from pytest_lmstudio.settings import Settings


class OwnServer:
    """Nothing at all for any other URL; for this one, a server from the first need of it to the end of the run.

    Attributes:
        running: the server, None before it is started and where there is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: EmbeddedModel | None = None
        self.running: EmbeddedServer | None = None

    def check(self) -> None:
        """Look whether all is there that a start needs.

        Raises:
            pytest.UsageError: something is missing; one line that says what to install.
        """
        if self._settings.url != EMBEDDED or self._settings.cache == "offline":
            return
        from pytest_lmstudio.server.embedded import EmbeddedError, find_model

        try:
            self._model = find_model(os.environ)
        except EmbeddedError as error:
            raise pytest.UsageError(str(error)) from None

    def start(self, folder: Callable[[], str], say: Callable[[str], object]) -> None:
        """Start the server, if the run needs one and has not got it.

        Args:
            folder: returns where its log goes.
            say: shows a line.

        Raises:
            pytest.UsageError: it does not start.
        """
        if self._model is None or self.running is not None:
            return
        from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedServer

        start_s, log = time.monotonic(), Path(folder(), "embedded.log")
        try:
            self.running = EmbeddedServer.start(self._model, parallel=self._settings.concurrency, log_path=log)
        except EmbeddedError as error:
            raise pytest.UsageError(str(error)) from None
        took_s = time.monotonic() - start_s
        say(f"lmstudio: embedded server with {self.running.model} ready at {self.running.url} after {took_s:.1f} s")

    def settings(self) -> Settings:
        """Return the settings with the server's URL in place of its name."""
        return self._settings._replace(url=self.running.url) if self.running else self._settings

    def model(self) -> str | None:
        """Return the one model that it serves, or served when the cache was filled; None for any other URL."""
        if self._settings.url != EMBEDDED:
            return None
        if self._model is not None:
            return self._model.name
        from pytest_lmstudio.server import embedded

        named = os.environ.get(embedded.MODEL_VARIABLE)
        if named:
            return Path(named).stem
        return Home(self._settings.dir).remembered_model(EMBEDDED, "chat") or embedded.DEFAULT_MODEL

    def stop(self) -> None:
        """Stop the server, if there is one."""
        if self.running is not None:
            self.running.stop()
