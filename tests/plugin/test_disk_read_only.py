"""Where nothing can be written, the tests run all the same, with what can be read there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.disks import mounted
from tests.plugin.suite import ALONE, WORKERS
from tests.plugin.test_disk_full import run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.suite import Ran, Suite

pytestmark = pytest.mark.usefixtures("temporary")
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
THREE = """
    import pytest

    @pytest.mark.parametrize("n", range(3))
    def test_it(lm, n):
        assert lm(f"prompt {n}").text == f"echo: prompt {n}"
"""


def notes_of(ran: Ran) -> str:
    """Return the notes of the section, unwrapped."""
    text = " ".join(line.removeprefix("note").strip() for line in ran.section if line.startswith(("note", " " * 14)))
    return text.replace("- ", "-")


def squeezed(text: str) -> str:
    """Return text without blanks, since long paths are broken anywhere."""
    return "".join(text.split())


@WAYS
def test_a_read_only_checkout_keeps_the_run_elsewhere(suite: Suite, way: tuple[str, ...], temporary: Path) -> None:
    suite.write(THREE)
    home = suite.pytester.path / ".lmstudio"
    with mounted(home, "1m") as disk:
        disk.make_read_only()
        ran = suite.run_apart(*way)
        assert list(home.iterdir()) == []
    assert (ran.ret, ran.summary) == (0, "3 passed")
    folder = run_folder(ran, suite)
    assert folder.parent == temporary
    assert sorted(path.name for path in folder.iterdir()) == ["events.jsonl", "report.json"]
    if hasattr(folder, "owner"):
        assert folder.stat().st_mode & 0o777 == 0o700
    said = f"{home} cannot be written to (Read-only file system): this run is in {folder}"
    assert squeezed(said) in squeezed(notes_of(ran))
    assert squeezed("nothing is cached") in squeezed(notes_of(ran))


@WAYS
@pytest.mark.parametrize("place", [".lmstudio", ".lmstudio/runs"])
def test_a_file_in_the_way_keeps_the_run_elsewhere(
    suite: Suite, way: tuple[str, ...], temporary: Path, place: str
) -> None:
    suite.write(THREE)
    (suite.pytester.path / place).parent.mkdir(exist_ok=True)
    (suite.pytester.path / place).write_text("of the user", encoding="ascii")
    ran = suite.run_apart(*way)
    assert (ran.ret, ran.summary) == (0, "3 passed")
    assert run_folder(ran, suite).parent == temporary
    assert (suite.pytester.path / place).read_text(encoding="ascii") == "of the user"
    assert squeezed("cannot be written to") in squeezed(notes_of(ran))


@pytest.mark.parametrize("way", [*ALONE, *WORKERS])
@pytest.mark.parametrize("where", ["small", "small/deep/er"])
def test_a_folder_that_the_user_named_must_be_writable(suite: Suite, way: str, where: str) -> None:
    suite.write(THREE)
    small = suite.pytester.path / "small"
    with mounted(small, "1m") as disk:
        disk.make_read_only()
        ran = suite.run_apart(way, f"--lmstudio-dir={where}")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    said = f"ERROR: --lmstudio-dir='{where}' (command line): nothing can be written in {small}; name another folder"
    assert [line for line in ran.err.splitlines() if line.strip()] == [said]
    assert suite.server.requests == []


@WAYS
@pytest.mark.parametrize("mode", ["offline", "readwrite", "refresh"])
def test_a_cache_that_is_read_only_still_answers(
    suite: Suite, way: tuple[str, ...], temporary: Path, mode: str
) -> None:
    suite.write(THREE)
    with mounted(suite.pytester.path / ".lmstudio", "1m") as disk:
        suite.run_apart("-n0")
        disk.make_read_only()
        asked = len(suite.server.requests)
        ran = suite.run_apart(*way, f"--lmstudio-cache={mode}")
    assert (ran.ret, ran.summary) == (0, "3 passed")
    assert len(suite.server.requests) - asked == (3 if mode == "refresh" else 0)
    assert ("3 cached" in ran.section[1]) is (mode != "refresh"), ran.section
    assert run_folder(ran, suite).parent == temporary
    said = f"the cache in {suite.pytester.path / '.lmstudio' / 'cache'} cannot be written to (OperationalError: "
    assert squeezed("): its answers are used, and none is stored") in squeezed(notes_of(ran))
    assert squeezed(said) in squeezed(notes_of(ran)), notes_of(ran)


def test_a_named_folder_that_is_read_only_serves_an_offline_run(suite: Suite) -> None:
    suite.write(THREE)
    with mounted(suite.pytester.path / "shared", "1m") as disk:
        suite.run_apart("-n0", "--lmstudio-dir=shared")
        disk.make_read_only()
        suite.server.stop()
        ran = suite.run_apart("-n2", "--lmstudio-dir=shared", "--lmstudio-cache=offline")
    assert (ran.ret, ran.summary) == (0, "3 passed")
