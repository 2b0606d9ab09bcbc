"""A disk without room costs the files that would lie there, and nothing else: not a test, not an event, no verdict."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.disks import mounted
from tests.plugin.suite import ALONE, WORKERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.suite import Ran, Suite

pytestmark = pytest.mark.usefixtures("temporary")
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
TWELVE = """
    import pytest

    @pytest.mark.parametrize("n", range(12))
    def test_it(lm, n):
        assert lm(f"prompt {n}").text == f"echo: prompt {n}"
"""


def run_folder(ran: Ran, suite: Suite) -> Path:
    """Return the folder that the section names."""
    found = re.search(r"^report +(\S+)/report\.json$", ran.out, re.MULTILINE)
    assert found, ran.out
    return suite.pytester.path / found[1]


def events_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]


def check_whole(ran: Ran, suite: Suite, calls: int = 12) -> list[dict[str, Any]]:
    """Check that tests, section and log are whole; return the events."""
    assert "Traceback" not in ran.out + ran.err
    assert "INTERNALERROR" not in ran.out + ran.err
    assert (ran.ret, ran.summary) == (0, f"{calls} passed"), ran.out + ran.err
    assert any(re.match(rf"calls +{calls} sent \({calls} ok, 0 failed\)", line) for line in ran.section), ran.section
    events = events_in(run_folder(ran, suite))
    names = [event["event"] for event in events]
    assert {name: names.count(name) for name in ("run_start", "gen_request", "gen_success", "run_end")} == {
        "run_start": 1, "gen_request": calls, "gen_success": calls, "run_end": 1,
    }  # fmt: skip
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    return events


@WAYS
@pytest.mark.parametrize("room_kib", [0, 12, 16, 120])
def test_a_full_disk_costs_no_test_and_no_event(suite: Suite, way: tuple[str, ...], room_kib: int) -> None:
    suite.write(TWELVE)
    with mounted(suite.pytester.path / "small", "512k") as disk:
        disk.fill(leave_bytes=room_kib * 1024)
        ran = suite.run_apart(*way, "--lmstudio-dir=small/evals")
        check_whole(ran, suite)
        assert any("No space left on device" in line or "disk is full" in line for line in ran.section), ran.section


@WAYS
def test_room_that_comes_back_takes_all_of_the_run(suite: Suite, way: tuple[str, ...], temporary: Path) -> None:
    suite.write(
        f"{TWELVE}        if n == 8: (__import__('pathlib').Path('small') / 'filler').unlink(missing_ok=True)\n"
    )
    with mounted(suite.pytester.path / "small", "512k") as disk:
        disk.fill(leave_bytes=8192)
        ran = suite.run_apart(*way, "--lmstudio-dir=small/evals")
        check_whole(ran, suite)
        folder = run_folder(ran, suite)
        assert folder.parent == disk.folder / "evals" / "runs"
        assert sorted(path.name for path in folder.iterdir()) == ["events.jsonl", "report.json"]
    assert [path.name for path in temporary.iterdir() if path.name.startswith("lmstudio-")] == []


#: Lets writes of some events fail, as `refused` says; works on every system.
FULL = """
    import errno, os
    from pytest_lmstudio.record import events

    paths = {{}}

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def open(self, path, *args):
            descriptor = os.open(path, *args)
            paths[descriptor] = str(path)
            return descriptor

        def write(self, fd, data):
            if {refused}:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(fd, data)

    events.os = Full()
"""


@WAYS
def test_a_log_that_takes_nothing_is_kept_elsewhere_and_put_together(
    suite: Suite, way: tuple[str, ...], temporary: Path
) -> None:
    suite.write(TWELVE)
    suite.conftest(FULL.format(refused="os.sep + 'runs' + os.sep in paths[fd] and b'gen_' in data"))
    ran = suite.run_apart(*way)
    events = check_whole(ran, suite)
    assert run_folder(ran, suite) == ran.folder
    notes = {event["message"] for event in events if event["event"] == "note"}
    why = "could not be written to (No space left on device); the events after that were kept"
    assert notes == {f"{ran.folder / 'events.jsonl'} {why}"}
    assert ran.report["notes"] == [*notes]
    assert [path.name for path in temporary.iterdir() if path.name.startswith("lmstudio-")] == []


@WAYS
def test_events_that_no_disk_takes_fail_the_gate(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(TWELVE)
    suite.conftest(FULL.format(refused='b\'"gen_success"\' in data and b\'"worker":"gw1"\' not in data'))
    ran = suite.run_apart(*way)
    assert (ran.ret, ran.summary) == (1, "12 passed")
    lost = "events are missing from the log: [Errno 28] No space left on device"
    assert ran.report["gate"]["failed"] is True
    assert f"{lost}, so nobody knows how many calls were lost" in ran.report["gate"]["reason"]
    assert lost in ran.report["notes"]
    assert "Traceback" not in ran.out


def test_a_report_without_room_is_told_and_shown(suite: Suite) -> None:
    suite.write(TWELVE)
    suite.conftest("""
        import errno
        from pytest_lmstudio.report import files

        def replace_file(path, parts):
            raise OSError(errno.ENOSPC, "No space left on device")

        files.replace_file = replace_file
    """)
    ran = suite.run_apart("-n0", "--lmstudio-report=copy.json", "--lmstudio-html=page.html")
    assert (ran.ret, ran.summary) == (0, "12 passed")
    full = "cannot be written: No space left on device"
    assert [line for line in ran.section if full in line] == [
        f"{path} {full}"
        for path in (ran.folder / "report.json", suite.pytester.path / "copy.json", suite.pytester.path / "page.html")
    ]
    assert "gate passed: 0% of 12 calls lost" in ran.section[0]


@pytest.mark.parametrize("way", [*ALONE, *WORKERS])
def test_nothing_at_all_can_be_written(suite: Suite, way: str, temporary: Path) -> None:
    """No folder in .lmstudio, none for temporary files: one line for each test, that says what to do."""
    suite.write(TWELVE)
    suite.conftest("""
        import errno, pathlib
        make = pathlib.Path.mkdir

        def mkdir(self, *args, **kwargs):
            if ".lmstudio" in str(self) or self.name.startswith("lmstudio-"):
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
            return make(self, *args, **kwargs)

        pathlib.Path.mkdir = mkdir
    """)
    ran = suite.run_apart(way, "-q")
    assert (ran.ret, ran.summary) == (1, "12 failed")
    said = re.findall(r"^E  +(.+)$", ran.out, re.MULTILINE)
    spare = re.escape(str(temporary / "lmstudio-")) + r"\S+"
    home = re.escape(str(suite.pytester.path / ".lmstudio"))
    line = (
        rf"pytest_lmstudio\.errors\.LMRequestError: neither {home} nor the folder for temporary files can be "
        r"written to "
        rf"\(\[Errno 28\] No space left on device: '{spare}'\): name a folder with room with --lmstudio-dir"
    )
    assert len(said) == 12
    assert all(re.fullmatch(line, text) for text in said), said
    assert "INTERNALERROR" not in ran.out


def test_workers_without_a_folder_for_temporary_files_are_not_started(suite: Suite) -> None:
    suite.write(TWELVE)
    suite.conftest("""
        import errno, tempfile
        make = tempfile.mkdtemp

        def mkdtemp(*args, **named):
            if (named.get("prefix") or "").startswith("pytest-lmstudio"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return make(*args, **named)

        tempfile.mkdtemp = mkdtemp
    """)
    ran = suite.run_apart("-n2")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    said = "ERROR: the folder for temporary files cannot be used ([Errno 28] No space left on device)"
    assert [line for line in ran.err.splitlines() if line.strip()] == [f"{said}: set TMPDIR to one with room"]
    assert "INTERNALERROR" not in ran.out
