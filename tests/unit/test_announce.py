"""A line on the terminal from another thread: whole, past capture, and without breaking pytest's own line."""

from __future__ import annotations

import io
import itertools
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import announce
from pytest_lmstudio.announce import Announcer, Line
from pytest_lmstudio.record.events import EventWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


class Reporter:
    """What is used of pytest's reporter."""

    def __init__(self, begun: str = "") -> None:
        self.currentfspath: str | None = "test_suite.py"
        self._tw = SimpleNamespace(_current_line=begun, width_of_current_line=len(begun))


class Terminal:
    """A pipe that standard output leads into."""

    def __init__(self) -> None:
        self.end, begin = os.pipe()
        self.file = os.fdopen(begin, "w", encoding="utf-8")

    def shown(self) -> str:
        """Return what was written, once nobody can write any more."""
        self.file.close()
        with os.fdopen(self.end, encoding="utf-8", newline="") as end:
            return end.read().replace(os.linesep, "\n")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.file.close()


def test_a_line_stands_alone(terminal: Terminal) -> None:
    begun, fresh = Reporter("test_suite.py .."), Reporter()
    for reporter in (begun, fresh):
        line = Line(reporter, terminal.file)
        line.say("LM Studio: one")
        line.say("LM Studio: two") if reporter is fresh else None
        line.close()
        # So that pytest begins a line of its own, and counts its columns from there.
        assert (reporter.currentfspath, reporter._tw._current_line) == (None, "")
    assert terminal.shown() == "\nLM Studio: one\nLM Studio: one\nLM Studio: two\n"


def test_what_captures_the_descriptor_later_gets_nothing(terminal: Terminal, tmp_path: Path) -> None:
    line = Line(Reporter(), terminal.file)
    kept = os.dup(terminal.file.fileno())
    with (tmp_path / "captured").open("wb") as captured:
        os.dup2(captured.fileno(), terminal.file.fileno())
        terminal.file.write("of the test\n")
        line.say("LM Studio: one")
        terminal.file.flush()
        os.dup2(kept, terminal.file.fileno())
    os.close(kept)
    line.close()
    assert (tmp_path / "captured").read_bytes().split() == [b"of", b"the", b"test"]
    assert terminal.shown() == "LM Studio: one\n"


def test_a_file_in_memory_is_written_to_as_it_is() -> None:
    file = io.StringIO()
    line = Line(Reporter("x"), file)
    line.say("LM Studio: one")
    line.close()
    assert file.getvalue() == "\nLM Studio: one\n"


def test_a_terminal_that_is_gone_is_no_trouble(terminal: Terminal) -> None:
    line = Line(Reporter(), terminal.file)
    os.close(terminal.end)
    line.say("LM Studio: one")
    line.close()
    closed = io.StringIO()
    closed.close()
    Line(Reporter(), closed).say("LM Studio: two")
    assert closed.closed


def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w", encoding="ascii") as file:
        line = Line(SimpleNamespace(), file)  # some other reporter
        line.say("LM Studio: loading mod\xe8le ...")
        line.close()
    assert (tmp_path / "terminal").read_bytes().strip() == b"LM Studio: loading mod\\xe8le ..."


# -- following the log -----------------------------------------------------------------------------

OPENED = {"failures": 5, "pauses": 1, "pause_s": 30.0, "gave_up": False, "error_kind": "timeout", "most_pauses": 3}
SAID = "LM Studio: 5 network errors in a row, the last one timeout: pausing 30 s (pause 1 of 3) ...\n"


class Told:
    """A file in memory that tells when something was written."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""
        self.written = threading.Event()

    def write(self, text: str) -> None:
        self.text += text
        self.written.set()

    def flush(self) -> None:
        """Do nothing."""


def session(reporter: object | None, *, dist: str = "no", collectonly: bool = False) -> Any:
    manager = SimpleNamespace(get_plugin=lambda name: reporter if name == "terminalreporter" else None)
    option = SimpleNamespace(collectonly=collectonly)
    config = SimpleNamespace(pluginmanager=manager, option=option, getoption=lambda _, __: dist)
    return SimpleNamespace(config=config)


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(announce, "sys", SimpleNamespace(stdout=told))
    return told


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventWriter]:
    with EventWriter(tmp_path / "events.jsonl") as log:
        yield log


def end(loop: Generator[None, object, object]) -> None:
    """Let the hook go on, now that the tests are done."""
    with pytest.raises(StopIteration):
        loop.send(None)


def followers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "lmstudio-tell"]


def test_what_comes_while_tests_run_is_told_soon_and_the_rest_at_the_end(stdout: Told, log: EventWriter) -> None:
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(session(Reporter()))
    next(loop)
    assert followers() == []  # nobody has made a call
    it.start()
    it.start()
    assert followers() == ["lmstudio-tell"]
    log.write("breaker_open", **OPENED)
    assert stdout.written.wait(30)
    log.write("breaker_closed", paused_s=30.5)
    end(loop)
    assert stdout.text == f"{SAID}LM Studio: it answers again, going on after 30.5 s\n"
    assert followers() == []
    it.start()  # a call in a session's last teardown
    assert followers() == []


def test_what_is_due_by_time_is_told_without_a_further_event(
    monkeypatch: pytest.MonkeyPatch, stdout: Told, log: EventWriter
) -> None:
    monkeypatch.setattr(announce, "time", SimpleNamespace(monotonic=itertools.count(0, 10).__next__))
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(session(Reporter(), dist="load"))
    next(loop)
    log.write("model_load_start", model="qwen")
    assert stdout.written.wait(30)
    end(loop)
    assert stdout.text == "LM Studio: loading qwen ...\n"


def test_a_first_call_after_the_tests_starts_nothing(stdout: Told, log: EventWriter) -> None:
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(session(Reporter()))
    next(loop)
    end(loop)
    it.start()
    assert (followers(), stdout.text) == ([], "")


def test_a_log_that_goes_on_elsewhere_is_followed(stdout: Told, log: EventWriter, tmp_path: Path) -> None:
    path = tmp_path / "nothing yet"
    it = Announcer(lambda: path)
    loop = it.pytest_runtestloop(session(Reporter(), dist="load"))
    next(loop)
    assert followers() == ["lmstudio-tell"]
    log.write("breaker_open", **OPENED)
    path = log.path
    end(loop)
    assert stdout.text == SAID


@pytest.mark.parametrize(
    "quiet",
    [session(None, dist="load"), session(Reporter(), dist="load", collectonly=True)],
    ids=["no terminal", "collect"],
)
def test_where_nothing_is_to_be_told_no_thread_is_started(stdout: Told, log: EventWriter, quiet: Any) -> None:
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(quiet)
    next(loop)
    it.start()
    assert followers() == []
    end(loop)
    assert stdout.text == ""


def test_a_terminal_that_takes_nothing_does_not_hold_the_end_of_the_run(
    monkeypatch: pytest.MonkeyPatch, stdout: Told, log: EventWriter
) -> None:
    monkeypatch.setattr(announce, "_PATIENCE_S", 0.1)
    released = threading.Event()
    monkeypatch.setattr(stdout, "write", lambda _: released.wait(60))
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(session(Reporter(), dist="load"))
    next(loop)
    log.write("breaker_open", **OPENED)
    end(loop)
    assert followers() == ["lmstudio-tell"]
    released.set()
    for thread in threading.enumerate():
        if thread.name == "lmstudio-tell":
            thread.join(30)
    assert followers() == []


# -- a line that comes and goes --------------------------------------------------------------------


class Writer:
    """What is used of the writer behind pytest's reporter."""

    fullwidth = 80

    def __init__(self, file: Any) -> None:
        self._file = file
        self._current_line = ""

    @property
    def width_of_current_line(self) -> int:
        return len(self._current_line)

    def write(self, text: str, *, flush: bool = False) -> None:
        self._current_line = (self._current_line + text).rpartition("\n")[2]
        self._file.write(text)
        if flush:
            self._file.flush()


def line_on(file: Any) -> tuple[Line, Writer]:
    writer = Writer(file)
    reporter = SimpleNamespace(_tw=writer, currentfspath="test_suite.py")
    return Line(reporter, file), writer


def test_a_line_that_comes_and_goes_leaves_the_cursor_where_it_was() -> None:
    line, writer = line_on(file := io.StringIO())
    line.show("LM Studio: one")
    line.show("LM Studio: one")
    line.show("LM Studio: two")
    writer.write("test_suite.py .", flush=True)
    line.show("LM Studio: three")
    line.erase()
    line.erase()
    writer.write(".")
    line.close()
    begun = len("test_suite.py .") + 1
    assert file.getvalue() == (
        "\r\x1b[KLM Studio: one\r\x1b[KLM Studio: two\r\x1b[Ktest_suite.py ."
        f"\nLM Studio: three\r\x1b[K\x1b[A\x1b[{begun}G."
    )


def test_behind_a_full_row_nothing_can_be_taken_back_so_the_line_stays() -> None:
    line, writer = line_on(file := io.StringIO())
    writer.write("x" * 160)
    line.show("LM Studio: one")
    assert file.getvalue() == "x" * 160 + "\nLM Studio: one\n"
    writer.write("y" * 85)
    line.show("LM Studio: two")
    line.close()
    assert file.getvalue().endswith("\nLM Studio: two\r\x1b[K\x1b[A\x1b[6G")


def test_what_is_to_stay_takes_the_place_of_what_comes_and_goes() -> None:
    line, _ = line_on(file := io.StringIO())
    line.show("LM Studio: 1 in flight")
    line.say("LM Studio: loading qwen ...")
    line.close()
    assert file.getvalue() == "\r\x1b[KLM Studio: 1 in flight\r\x1b[KLM Studio: loading qwen ...\n"


def test_silence_is_since_pytest_or_a_line_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(announce, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    line, writer = line_on(io.StringIO())
    silences = []
    acts: list[Callable[[], None]] = [
        *(lambda: writer.write("."), lambda: line.show("one"), lambda: line.say("two"), line.erase)
    ]
    for act in acts:
        now_s[0] += 10
        act()
        silences.append(line.silent_s())
    line.close()
    assert silences == [0, 10, 0, 10]


def test_pytest_writes_as_before_when_the_line_is_closed() -> None:
    line, writer = line_on(io.StringIO())
    assert "write" in vars(writer)
    line.close()
    assert "write" not in vars(writer)
    # Somebody else's hand on it stays.
    line, writer = line_on(io.StringIO())
    writer.write = other = lambda *_, **__: None  # type: ignore[method-assign]  # as another plugin may
    line.close()
    assert vars(writer)["write"] is other


def test_a_file_and_a_terminal_that_is_none_get_no_line_that_comes_and_goes(terminal: Terminal) -> None:
    assert not Line(Reporter(), terminal.file, in_place=True).in_place
    assert not Line(Reporter(), io.StringIO(), in_place=True).in_place


def beating(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Return a session that was silent for long."""
    monkeypatch.setattr(announce, "_SILENCE_S", 0.0)
    found = session(Reporter(), dist="load")
    found.config.getoption = lambda name, _: options.get(name, {"dist": "load", "verbose": 0}[name])
    found.testscollected = 8
    return found


def test_a_silent_run_with_a_call_in_flight_is_told_to_be_alive(
    monkeypatch: pytest.MonkeyPatch, stdout: Told, log: EventWriter
) -> None:
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(beating(monkeypatch))
    log.write("gen_request", call_id="a", nodeid="t.py::test", worker="gw0")
    next(loop)
    assert stdout.written.wait(30)
    end(loop)
    assert stdout.text.startswith("LM Studio: 1 in flight, 0 done, 0 lost\n")


def test_while_the_debugger_has_the_terminal_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, stdout: Told, log: EventWriter
) -> None:
    monkeypatch.setattr(announce, "_LOOK_S", 0.01)
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(beating(monkeypatch))
    it.pytest_enter_pdb()
    log.write("gen_request", call_id="a", nodeid="t.py::test", worker="gw0")
    next(loop)
    log.write("breaker_open", **OPENED)
    assert stdout.written.wait(30)
    it._line.say("the debugger's") if it._line else None
    assert "in flight" not in stdout.text
    stdout.written.clear()
    it.pytest_leave_pdb()
    assert stdout.written.wait(30)
    end(loop)
    assert "LM Studio: 1 in flight" in stdout.text


def test_whoever_asked_for_silence_gets_it(monkeypatch: pytest.MonkeyPatch, stdout: Told, log: EventWriter) -> None:
    monkeypatch.setattr(announce, "_LOOK_S", 0.01)
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(beating(monkeypatch, verbose=-2))
    log.write("gen_request", call_id="a", nodeid="t.py::test", worker="gw0")
    next(loop)
    log.write("breaker_open", **OPENED)
    assert stdout.written.wait(30)
    end(loop)
    assert stdout.text == SAID


# -- an interrupt ----------------------------------------------------------------------------------


def interrupted(log: EventWriter, *, dist: str = "load") -> None:
    it = Announcer(lambda: log.path)
    loop = it.pytest_runtestloop(session(Reporter(), dist=dist))
    next(loop)
    it.interrupted(5.0)
    with pytest.raises(KeyboardInterrupt):
        loop.throw(KeyboardInterrupt())
    assert followers() == []


def test_an_interrupt_tells_of_the_requests_in_flight(stdout: Told, log: EventWriter) -> None:
    log.write("gen_request", call_id="a", nodeid="t.py::test", worker="gw0")
    log.write("gen_request", call_id="b", nodeid="t.py::test", worker="gw1")
    log.write("gen_request", call_id="c", nodeid="t.py::test", worker="gw1")
    log.write("gen_success", call_id="b", latency_ms=3.0)
    log.write("gen_error", call_id="d", attempt=0, error_kind="cancelled")
    interrupted(log)
    assert stdout.text == "LM Studio: interrupted, 2 calls in flight have 5 s to end; Ctrl-C ends them now\n"


def test_an_interrupt_that_nothing_waits_for_is_not_told(stdout: Told, log: EventWriter) -> None:
    log.write("gen_request", call_id="a", nodeid="t.py::test", worker="gw0")
    log.write("gen_error", call_id="a", attempt=1, error_kind="timeout", retry_in_ms=5000)
    interrupted(log)
    interrupted(log, dist="no")  # nobody has made a call
    assert stdout.text == ""
