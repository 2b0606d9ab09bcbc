"""What is done at its first use: attributes that several threads ask for, and what Python has for the package."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import threading

import pytest

from pytest_lmstudio.lazy import loading, once_property


class Opened:
    """Something with a part that takes a while to open."""

    def __init__(self, asked: threading.Barrier) -> None:
        self.asked = asked
        self.openings = 0
        self.others_had_their_chance = threading.Event()

    @once_property
    def part(self) -> object:
        """Open it slowly enough for every other thread to come by."""
        self.openings += 1
        self.others_had_their_chance.wait(0.2)
        return object()

    @once_property
    def whole(self) -> object:
        """Need another attribute of the same object."""
        return self.part


def test_threads_that_ask_at_once_get_the_one_that_was_opened() -> None:
    opened = Opened(threading.Barrier(8))
    got: list[object] = []

    def ask() -> None:
        opened.asked.wait()
        got.append(opened.part)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert opened.openings == 1
    assert got == [opened.part] * 8


def test_an_attribute_may_need_another_one() -> None:
    opened = Opened(threading.Barrier(1))

    assert opened.whole is opened.part
    assert opened.openings == 1


def test_it_can_be_looked_up_on_the_class() -> None:
    assert isinstance(Opened.part, once_property)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_search_for_garbage_is_as_it_was_when_modules_are_loaded(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
        with pytest.raises(ModuleNotFoundError), loading():
            importlib.import_module("no_such_module_is_there")
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(("done_by_someone", "before_the_end"), [("pass", "False"), ("sys.meta_path[:] = old", "True")])
def test_at_the_end_of_python_nothing_of_ours_is_left_that_finds_modules(
    done_by_someone: str, before_the_end: str
) -> None:
    """Python 3.11 keeps it, and with it all modules, until nearly everything else is gone."""
    program = (
        "import atexit, sys\nold = [*sys.meta_path]\natexit.register(lambda: print(sys.meta_path == old))\n"
        f"import pytest_lmstudio\n{done_by_someone}\nprint(sys.meta_path == old)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout.split(), ended.stderr) == ([before_the_end, "True"], "")
