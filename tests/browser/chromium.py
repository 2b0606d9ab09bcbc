"""A headless Chromium, driven by its own protocol over two pipes, and gone when it is let go.

The protocol is described at https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_DEADLINE_S = 120.0
#: The browser reads from descriptor 3 and writes to 4, whatever stands there by then.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, end in zip((3, 4), ends):
    os.dup2(end, fd)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--force-color-profile=srgb"),
    # Whatever a page asks for, nothing but this machine is asked.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def find() -> str | None:
    """Return where a Chromium is, None when there is none that can be driven here."""
    named = os.environ.get("LMSTUDIO_TESTS_CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else _NAMES))
    return None if os.name == "nt" else next((path for path in found if path), None)


class Look(NamedTuple):
    """How a page is looked at."""

    width: int = 1280
    scheme: Literal["light", "dark"] = "light"
    media: Literal["screen", "print"] = "screen"


class Chromium:
    """A browser with one page.

    Args:
        path: the program.
        folder: where it keeps its files.

    Attributes:
        complaints: what its console said since the last page: errors, warnings, and what a policy refused.
        asked: the addresses that the last page asked for.
    """

    def __init__(self, path: str, folder: Path) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._ids = itertools.count(1)
        self._rest = b""
        self._session = ""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), path, *_FLAGS, *sandbox,
             f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        """Open the page."""
        try:
            target = self._ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                self._ask(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the browser and whatever it started; they are one group of processes."""
        with suppress(AssertionError, OSError):
            self._ask("Browser.close")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for fd in (self._to, self._from):
            os.close(fd)

    @property
    def pid(self) -> int:
        """Return its process, whose number its group has too."""
        return self._process.pid

    def show(self, page: Path, look: Look = Look()) -> None:  # noqa: B008  # frozen
        """Load a page and wait until it is whole."""
        self.complaints.clear()
        self.asked.clear()
        self._ask("Emulation.setDeviceMetricsOverride", width=look.width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": look.scheme}
        self._ask("Emulation.setEmulatedMedia", media=look.media, features=[scheme])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return what an expression comes to in the page, which may be a promise.

        Raises:
            AssertionError: it raises.
        """
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Take a picture of the whole page."""
        height = min(int(self.value("document.documentElement.scrollHeight")), 16_000)
        width = int(self.value("innerWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self._ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self._ask("Page.printToPDF", printBackground=False)["data"])

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        answer = self._read(lambda said: said.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _wait_for(self, event: str) -> None:
        self._read(lambda said: said.get("method") == event)

    def _read(self, wanted: Any) -> dict[str, Any]:
        """Return the first message that is wanted; those before it are noted."""
        until_s = time.monotonic() + _DEADLINE_S
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                said: dict[str, Any] = json.loads(line)
                self._note(said.get("method", ""), said.get("params", {}))
                if wanted(said):
                    return said
            ready, _, _ = select.select([self._from], [], [], max(until_s - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, f"the browser has ended ({self._process.poll()})"
            self._rest += data

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event == "Audits.issueAdded":
            self.complaints.append(str(params["issue"]))
        elif event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
