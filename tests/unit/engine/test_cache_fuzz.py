"""Database files that are cut, overwritten or swapped anywhere cost answers: never a crash or a hang."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.engine import cache, opening
from pytest_lmstudio.engine.vetting import count
from tests.unit.engine.caches import Run, a_run, query, suite

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

KEYS = suite("a", 40)
#: Rounds of one test; a longer search sets the variable.
ROUNDS = int(os.environ.get("LMSTUDIO_TESTS_ROUNDS", "25"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of forty entries, all in the database file; some take several pages."""
    folder = tmp_path_factory.mktemp("whole")
    with a_run(folder, 50) as run:
        run.ask(KEYS[:30])
        for number, key in enumerate(KEYS[30:]):
            run.cache.put(key, {"answer": key, "text": "long " * 300 * number})
    query(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.fixture(scope="module")
def journalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as a run that was killed leaves it: most of it in the log beside the file."""
    folder, copy = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("copies") / "journalled"
    run = Run(folder, 50)
    run.ask(KEYS)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("live"))
    run.cache.close()
    assert (copy / "cache.db-wal").stat().st_size > 20_000
    return copy


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def check_use(folder: Path, *, intact: bool = False) -> None:
    """Use a cache in every way, twice."""
    for _ in range(2):
        with a_run(folder, 50) as run:
            assert all(isinstance(entry, dict) for entry in run.cache.entries())
            assert isinstance(run.cache.get("a-0"), dict | None)
            run.ask(["new", "a-1"])
            run.cache.put("a-2", {"answer": "a-2"})
        assert all("Traceback" not in line and len(line) < 1000 for line in run.problems)
        if intact:
            assert run.problems == []
    asides = [path for path in folder.iterdir() if path.name.startswith("damaged") and path.suffix == ".db"]
    assert len(asides) <= 1 - intact
    assert count(folder) is not None


def pages_of(path: Path) -> int:
    return path.stat().st_size // 4096


def test_what_is_not_damaged_is_used(whole: Path, journalled: Path, tmp_path: Path) -> None:
    for number, source in enumerate((whole, journalled)):
        folder = copied(source, tmp_path / str(number))
        with a_run(folder, 50) as run:
            assert run.ask(KEYS[:30]) == KEYS[:30]
        check_use(folder, intact=True)


def test_a_file_cut_at_any_page_or_beside_it(whole: Path, tmp_path: Path) -> None:
    for page in range(pages_of(whole / "cache.db") + 1):
        for offset in (0, 100):
            size = max(page * 4096 + offset, 0)
            folder = copied(whole, tmp_path / f"{page} {offset}")
            os.truncate(folder / "cache.db", min(size, (whole / "cache.db").stat().st_size))
            check_use(folder)
            shutil.rmtree(folder)


def test_a_log_cut_anywhere_is_a_run_that_was_killed_earlier(journalled: Path, tmp_path: Path) -> None:
    size = (journalled / "cache.db-wal").stat().st_size
    dice = random.Random(1)
    for number in range(ROUNDS):
        folder = copied(journalled, tmp_path / str(number))
        os.truncate(folder / "cache.db-wal", dice.randrange(size))
        check_use(folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm"])
@pytest.mark.parametrize("how", ["bytes", "garbage", "zeros", "pages swapped", "a page of its own", "other lengths"])
def test_damage_anywhere(whole: Path, journalled: Path, tmp_path: Path, name: str, how: str) -> None:
    for seed in range(ROUNDS):
        dice = random.Random(f"{name} {how} {seed}")
        source = whole if name == "cache.db" and seed % 2 else journalled
        folder = copied(source, tmp_path / str(seed))
        data = bytearray((folder / name).read_bytes())
        damage(data, how, dice)
        (folder / name).write_bytes(data)
        check_use(folder)
        shutil.rmtree(folder)


def damage(data: bytearray, how: str, dice: random.Random) -> None:
    """Change a file's bytes."""
    at, length = dice.randrange(len(data)), dice.choice([1, 16, 4096, 20_000])
    pages = range(0, len(data) - 4095, 4096)
    if how == "bytes":
        for _ in range(dice.choice([1, 8, 64])):
            data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
    elif how == "garbage":
        data[at : at + length] = dice.randbytes(length)
    elif how == "zeros":
        data[at : at + length] = bytes(length)
    elif how == "pages swapped" and len(pages) > 1:
        one, other = dice.sample(pages, 2)
        data[one : one + 4096], data[other : other + 4096] = data[other : other + 4096], data[one : one + 4096]
    elif how == "a page of its own":
        one, other = dice.choice(pages), dice.choice(pages)
        data[one : one + 4096] = data[other : other + 4096]
    else:
        del data[at : at + length]


@pytest.mark.parametrize("seed", range(4))
def test_damage_while_a_run_uses_it(
    journalled: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (cache, opening):
        monkeypatch.setattr(room, "TRIES", 2)
    dice, folder = random.Random(seed), copied(journalled, tmp_path / "cache")
    run = Run(folder, 50)
    for number in range(ROUNDS):
        path = folder / dice.choice(["cache.db", "cache.db-wal"])
        if dice.random() < 0.5 and path.exists() and path.stat().st_size:  # half of the time
            with path.open("r+b") as file:
                file.seek(dice.randrange(path.stat().st_size))
                file.write(dice.randbytes(dice.choice([1, 100, 5000])))
        assert isinstance(run.cache.get(dice.choice(KEYS)), dict | None)
        run.cache.put(f"b-{number}", {"answer": f"b-{number}"})
        list(run.cache.entries())
    run.cache.close()
    check_use(folder)
