"""The log alone tells what the report would: of a run that ended, and of one whose first process was killed."""

from __future__ import annotations

import json
import random
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cli.command import main
from tests.process.apart import Apart
from tests.standin import StandIn, close_before_headers, hang, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugin.suite import Ran

pytestmark = pytest.mark.timeout(240)
ALONE, WORKERS = ("-n0",), ("-n2",)
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
#: Leaves a byte for each test that the first process has come to the end of, after all else was done for it.
TELLER = """
    import os, pytest
    if "PYTEST_XDIST_WORKER" not in os.environ:
        told = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_logfinish(nodeid): os.write(told, b".")
"""
MIXED = """
    import os, signal, pytest, unittest

    def test_plain(): pass
    @pytest.mark.skip
    def test_skipped(lm): pass
    @pytest.mark.parametrize("n", range(4))
    def test_ok(lm, n): assert lm(f"ok {n % 3}").text.startswith("echo")
    def test_wrong(lm): assert lm("wrong") == "right"
    def test_lost(lm): lm("gone")
    def test_lost_too(lm): lm("never", timeout=0.2)
    def test_given_up(lm):
        for piece in lm.stream("a stream"): break
    @pytest.fixture
    def broken(lm):
        yield
        lm("ok in teardown")
        raise RuntimeError
    def test_teardown(broken): pass
    @pytest.mark.xfail
    def test_xfails(lm): assert lm("x") == "y"
    @pytest.mark.xfail
    def test_xpasses(lm): lm("z")
    asked = []
    @pytest.mark.flaky(reruns=2)
    def test_rerun(lm):
        asked.append(lm("again", cache=False))
        assert len(asked) == 2
    class TestParts(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def ask(self, lm): self.lm = lm
        def test_parts(self):
            for n in range(3):
                with self.subTest(n=n): assert self.lm(f"part {n}") and n != 1
    def test_plain_too(): assert False
"""
CRASH = """
    def test_crash(lm):
        lm("ok before the end")
        if "PYTEST_XDIST_WORKER" in os.environ: os.kill(os.getpid(), signal.SIGKILL)
"""
MANY = """
    import os, pathlib, pytest

    @pytest.mark.parametrize("n", range(60))
    def test_one(lm, n):
        assert lm(f"call {n}").text
        with open("heard", "a") as heard: heard.write(f"call {n}\\n")
    def test_plain(): pass
"""


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(capacity=8) as server:
        server.when(lambda r: r.text == "gone", close_before_headers())
        server.when(lambda r: r.text == "never", hang())
        server.when(lambda r: r.text.startswith("call"), reply("heard", delay_s=0.02))
        yield server


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def rebuild(ran: Ran, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the status of the command, and the report that it wrote."""
    status = main(["report", str(ran.folder), *arguments])
    return status, json.loads((ran.folder / "report.json").read_text("utf-8"))


@WAYS
def test_the_report_of_a_run_that_ended_is_the_one_that_was_lost(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str], way: tuple[str, ...]
) -> None:
    source = MIXED if sys.platform == "win32" else MIXED + CRASH
    options = (
        "--lmstudio-retries=1",
        "--lmstudio-breaker=off",
        "--lmstudio-pipeline-version=v7",
        "-p",
        "rerunfailures",
    )
    with Apart(tmp_path, source, server.url, *way, *options) as run:
        ran = run.wait()
    original = (ran.folder / "report.json").read_bytes()
    assert ran.report["tests"]["lm_error"] == 2, ran.out
    assert ran.report["lost"]["workers_crashed"] == (way == WORKERS and sys.platform != "win32")
    (ran.folder / "report.json").unlink()
    status, _ = rebuild(ran)
    assert (ran.folder / "report.json").read_bytes() == original
    assert status == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == ran.section
    assert "and written to" in err


def test_the_report_of_an_interrupted_run_is_the_one_that_was_lost(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        import pytest
        @pytest.fixture
        def stops():
            yield
            raise KeyboardInterrupt
        def test_stopped(lm, stops): lm("once")
    """
    with Apart(tmp_path, source, server.url, "-n0") as run:
        ran = run.wait()
    original = (ran.folder / "report.json").read_bytes()
    assert ran.ret == ran.report["exit_status"] == 2, ran.out
    assert ran.outcomes == {"passed": 1}
    (ran.folder / "report.json").unlink()
    assert rebuild(ran)[0] == 0
    assert (ran.folder / "report.json").read_bytes() == original
    assert "gate not judged: the run was interrupted" in capsys.readouterr().out
    told = [event for event in ran.named("test_end") if event["outcome"] == "passed"]
    assert len(told) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@WAYS
@pytest.mark.parametrize("seed", range(2))
def test_a_run_whose_first_process_was_killed_loses_nothing_that_was_heard(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str], way: tuple[str, ...], seed: int
) -> None:
    moment = random.Random(f"{way} {seed}").randrange(2, 40)
    (tmp_path / "teller.py").write_text(textwrap.dedent(TELLER), encoding="utf-8")
    with Apart(tmp_path, MANY, server.url, "-p", "teller", *way) as run:
        server.wait_for(lambda: len(server.requests) >= moment, 60)
        run.signal(signal.SIGKILL, group=False)
        ran = run.wait()
        run.wait_until_gone()
    heard = (tmp_path / "heard").read_text("ascii").split("\n")[:-1]
    status, report = rebuild(ran)
    assert "and written to" in capsys.readouterr().err
    answered = len(ran.named("gen_success"))
    assert answered >= len(heard)
    assert report["calls"]["ok"] == answered
    assert report["attempts"]["total"] == len(ran.named("gen_request")) >= len(server.requests)
    open_requests = report["attempts"]["total"] - answered - len(ran.named("gen_error"))
    assert report["lost"] == {
        "requests_without_outcome": open_requests, "workers_crashed": 0, "damaged_lines": 0,
    }  # fmt: skip
    assert report["exit_status"] is report["cache"]["entries"] is None
    [note] = [note for note in report["notes"] if note.startswith("rebuilt from the log: the run was cut off after ")]
    assert note.endswith("; its exit status and what came later are unknown")
    assert status == report["gate"]["failed"]
    # The first process may be far behind the others when it dies, but what it had come to is in the log.
    told = len((tmp_path / "told").read_bytes())
    assert told <= report["tests"]["passed"] <= min(told + 1, len(heard))
    check_the_next_run(tmp_path, server, way)


def check_the_next_run(folder: Path, server: StandIn, way: tuple[str, ...]) -> None:
    with Apart(folder, MANY, server.url, *way) as run:
        ran = run.wait()
    assert ran.ret == 0, ran.out
    assert ran.report["calls"]["failed"] == 0
    assert ran.report["tests"]["passed"] == 61
