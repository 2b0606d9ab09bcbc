"""``pytest-lmstudio cache``: what is typed, said and returned, and what becomes of the answers."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio.cli.command import main
from pytest_lmstudio.engine.archive import Entry, entry_line, header_line
from pytest_lmstudio.engine.cache import AnswerCache
from pytest_lmstudio.engine.opening import prepare
from pytest_lmstudio.engine.upkeep import rows
from pytest_lmstudio.home import Home
from tests.unit.engine.test_archive import entry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return the folder `.lmstudio` of the current folder, on a screen of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("EVAL_CACHE_SIZE", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Home(".lmstudio")


def used(home: Home, *entries: Entry, size: int = 500) -> None:
    """Let a run use entries, and store those that are not there."""
    number, way = prepare(home.cache, pytest.fail)
    cache = AnswerCache(home.cache, size=size, run=number, on_problem=pytest.fail, way=way)
    for one in entries:
        if cache.get(one.key) is None:
            cache.put(one.key, one.value)
    cache.close()


def keys(home: Home) -> set[str]:
    return {row.key for row in rows(home.cache)}


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main(["cache", *arguments]) == status
    out, err = capsys.readouterr()
    return out, err


def write(path: Path, lines: Sequence[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


ONE, TWO, OLD = entry("one"), entry("two", nodeid="test_a.py::test_a"), entry("old", version="v0", temperature=0.5)


# Stats.


def test_a_cache_that_was_cleared_has_nothing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    used(home, ONE)
    told(capsys, "clear", "--yes")
    assert told(capsys, "stats")[0].splitlines()[1] == "entries           0, 0 bytes"
    assert told(capsys, "clear", "--yes")[0] == "0 entries are deleted\n"
    assert told(capsys, "prune", "--model=m")[0] == "0 of 0 entries are deleted\n"


def test_answers_are_counted(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    used(home, OLD)
    used(home)
    used(home, ONE)
    used(home, ONE, TWO)
    home.remember_model("http://127.0.0.1:1234", "chat", "qwen")
    found: dict[str, Any] = json.loads(told(capsys, "stats", "--json")[0])
    size = sum(len(json.dumps(one.value, separators=(",", ":"))) for one in (ONE, TWO, OLD))
    assert found == {
        "folder": str(home.cache),
        "entries": 3,
        "bytes": size,
        "unreadable": 0,
        "newest_run": 4,
        "oldest_use": 1,
        "newest_use": 4,
        "last_used_by": {"newest": 2, "one_before": 0, "earlier": 1},
        "by_model": {"qwen": 3},
        "by_pipeline_version": {"v1": 2, "v0": 1},
        "by_endpoint": {"chat": 3},
        "remembered_models": [{"url": "http://127.0.0.1:1234", "endpoint": "chat", "model": "qwen"}],
    }
    text = told(capsys, "stats")[0].splitlines()
    assert text[2:6] == [
        "used by           the newest run 2, the one before 0, earlier 1",
        "runs              4 so far; the oldest use was by run 1",
        "model             qwen: 3",
        "pipeline version  v1: 2",
    ]
    assert "remembered        qwen for chat at http://127.0.0.1:1234" in text


# Export.


def test_an_export_is_the_same_however_the_answers_came_in(home: Home, tmp_path: Path) -> None:
    used(home, ONE, TWO, OLD)
    assert main(["cache", "export", "one.jsonl"]) == 0
    assert main(["cache", "clear", "--yes"]) == 0
    used(home, OLD)
    used(home, TWO, ONE)
    assert main(["cache", "export", "two.jsonl"]) == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_an_export_has_its_format_the_models_and_the_answers_by_their_tests(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used(home, ONE, TWO)
    home.remember_model("http://127.0.0.1:1234", "chat", "qwen")
    assert told(capsys, "export", "out.jsonl") == ("", "pytest-lmstudio: 2 answers are written to out.jsonl\n")
    assert (tmp_path / "out.jsonl").read_text("ascii").splitlines() == [
        header_line(),
        '{"endpoint":"chat","model":"qwen","url":"http://127.0.0.1:1234"}',
        entry_line(TWO),
        entry_line(ONE),
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--last-run"], [ONE]), (["--version", "v0"], [OLD]), (["--model", "qwen"], [ONE, TWO, OLD]),
        (["--last-run", "--version", "v1"], [ONE]),
    ],
    ids=["last run", "version", "model", "both"],
)  # fmt: skip
def test_an_export_can_be_of_some(
    home: Home, capsys: pytest.CaptureFixture[str], options: list[str], kept: list[Entry]
) -> None:
    used(home, ONE, TWO, OLD)
    used(home, ONE)
    lines = told(capsys, "export", "-", *options)[0].splitlines()
    assert sorted(lines[1:]) == sorted(map(entry_line, kept))


@pytest.mark.parametrize("options", [["--version", "v9"], ["--model", "other"]])
def test_an_export_of_nothing_leaves_the_file_alone(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    used(home, ONE)
    (tmp_path / "out.jsonl").write_text("committed", encoding="ascii")
    _, err = told(capsys, "export", "out.jsonl", *options, status=2)
    assert err == f"pytest-lmstudio: {home.cache} holds no such answer: nothing is written\n"
    assert (tmp_path / "out.jsonl").read_text("ascii") == "committed"


def test_an_answer_with_the_token_is_left_out(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LM_API_TOKEN", "correct-horse-battery")
    used(home, ONE, entry("say correct-horse-battery"))
    out, err = told(capsys, "export", "-", status=2)
    assert "correct-horse" not in out + err
    assert err.splitlines() == [
        "pytest-lmstudio: 1 answer is written to standard output",
        "pytest-lmstudio: an entry of test_a.py::test_b holds what looks like an API token: it is left out",
    ]


@pytest.mark.parametrize(
    "action",
    [["stats"], ["stats", "--json"], ["export", "-"], ["clear", "--yes"], ["clear"], ["prune", "--model", "m"]],
    ids=" ".join,
)
def test_without_a_cache_every_action_says_so_and_makes_none(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    err = f"pytest-lmstudio: {home.cache} holds no cache: name the folder that pytest had with --dir\n"
    assert told(capsys, *action, status=2) == ("", err)
    assert list(tmp_path.iterdir()) == []


# Import.


def test_an_import_makes_the_cache_that_was_exported(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used(home, ONE, TWO)
    home.remember_model("http://127.0.0.1:1234", "chat", "qwen")
    told(capsys, "export", "out.jsonl")
    assert told(capsys, "--dir", "ci", "import", "out.jsonl")[0] == "2 answers are imported\n"
    assert told(capsys, "import", "--dir", "ci", "out.jsonl")[0] == "0 answers are imported, 2 were there already\n"
    there = Home(str(tmp_path / "ci"))
    assert keys(there) == {ONE.key, TWO.key}
    assert there.remembered_model("http://127.0.0.1:1234", "chat") == "qwen"
    told(capsys, "export", "--dir", "ci", "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_a_bad_line_is_told_with_its_number_and_the_others_are_imported(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = json.dumps({**json.loads(entry_line(OLD)), "key": "0" * 64})
    write(tmp_path / "in.jsonl", [header_line(), entry_line(ONE), "<<<<<<< HEAD", "", forged, entry_line(TWO)])
    out, err = told(capsys, "import", "in.jsonl", status=2)
    assert out == "2 answers are imported\n"
    assert err.splitlines() == [
        "pytest-lmstudio: in.jsonl:3 is no JSON",
        "pytest-lmstudio: in.jsonl:5 has a key that is not that of its question",
    ]
    assert keys(home) == {ONE.key, TWO.key}


def test_a_strict_import_takes_all_or_nothing(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.jsonl", [entry_line(ONE), "[]"])
    out, err = told(capsys, "import", "--strict", "in.jsonl", status=2)
    assert out == ""
    assert err.splitlines() == [
        "pytest-lmstudio: in.jsonl:2 is no object",
        "pytest-lmstudio: in.jsonl has bad lines: nothing is imported",
    ]
    assert not home.cache.exists()
    write(tmp_path / "in.jsonl", [entry_line(ONE)])
    assert told(capsys, "import", "--strict", "in.jsonl")[0] == "1 answer is imported\n"
    assert told(capsys, "import", "in.jsonl")[0] == "0 answers are imported, 1 was there already\n"


def test_many_bad_lines_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.jsonl", ["x"] * 30)
    _, err = told(capsys, "import", "in.jsonl", status=2)
    assert err.splitlines()[9:] == ["pytest-lmstudio: in.jsonl:10 is no JSON", "pytest-lmstudio: and 20 more"]


@pytest.mark.parametrize(
    "data",
    [
        f"\ufeff{entry_line(ONE)}\r\n{entry_line(TWO)}\r\n".encode(),
        f"{entry_line(ONE)}\n{entry_line(TWO)}".encode(),
        f"\n\n{entry_line(TWO)}\n  \n{entry_line(ONE)}\n{entry_line(ONE)}\n".encode(),
    ],
    ids=["Windows", "no line end", "blank lines, and one twice"],
)
def test_a_file_that_an_editor_saved_is_read(home: Home, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(data)
    assert main(["cache", "import", "in.jsonl"]) == 0
    assert keys(home) == {ONE.key, TWO.key}


def test_a_line_that_is_no_utf_8_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\xff\n" + entry_line(ONE).encode() + b"\n")
    assert told(capsys, "import", "in.jsonl", status=2)[1] == "pytest-lmstudio: in.jsonl:1 is no UTF-8\n"


def test_a_line_of_endless_length_is_one_bad_line(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_lmstudio.engine import archive, vetting

    for module in (archive, vetting):
        monkeypatch.setattr(module, "LARGEST_VALUE", 2000)
    write(tmp_path / "in.jsonl", ["x" * 9000, entry_line(ONE)])
    assert told(capsys, "import", "in.jsonl", status=2)[1] == "pytest-lmstudio: in.jsonl:1 is too long\n"
    assert keys(home) == {ONE.key}


@pytest.mark.parametrize("how", ["option", "environment", "empty"])
def test_the_cache_is_not_filled_beyond_its_size(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write(tmp_path / "in.jsonl", [entry_line(ONE), entry_line(TWO), entry_line(OLD)])
    monkeypatch.setenv("EVAL_CACHE_SIZE", {"option": "1", "environment": "2", "empty": ""}[how])
    option = ["--size=2"] if how == "option" else []
    expected = ("3 answers are imported\n", "") if how == "empty" else (
        "2 answers are imported\n",
        "pytest-lmstudio: 1 answer did not fit: the cache may hold 2 entries, see --size\n",
    )  # fmt: skip
    assert told(capsys, "import", "in.jsonl", *option, status=0 if how == "empty" else 2) == expected
    assert len(keys(home)) == (3 if how == "empty" else 2)


@pytest.mark.parametrize(("option", "name"), [(["--size=0"], "--size"), ([], "EVAL_CACHE_SIZE")])
def test_a_size_that_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: list[str], name: str
) -> None:
    monkeypatch.setenv("EVAL_CACHE_SIZE", "many")
    _, err = told(capsys, "import", "in.jsonl", *option, status=2)
    assert err.startswith(f"pytest-lmstudio: {name} ")
    assert "expected a whole number from 1" in err


def test_a_model_that_is_remembered_already_stays_unless_told(home: Home, tmp_path: Path) -> None:
    home.cache.mkdir(parents=True)
    home.remember_model("http://127.0.0.1:1234", "chat", "mine")
    write(
        tmp_path / "in.jsonl",
        ['{"endpoint":"chat","model":"theirs","url":"http://127.0.0.1:1234/v1/"}', entry_line(ONE)],
    )
    main(["cache", "import", "in.jsonl"])
    assert home.remembered_model("http://127.0.0.1:1234", "chat") == "mine"
    main(["cache", "import", "in.jsonl", "--overwrite"])
    assert home.remembered_model("http://127.0.0.1:1234", "chat") == "theirs"


def test_an_import_tells_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.jsonl", [entry_line(ONE), "x"])
    assert json.loads(told(capsys, "import", "in.jsonl", "--json", status=2)[0]) == {
        "stored": 1, "kept": 0, "left_out": 0, "bad_lines": [{"line": 2, "fault": "is no JSON"}],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gone.jsonl", "."])
def test_a_file_that_cannot_be_read_is_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    out, err = told(capsys, "import", name, status=2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("pytest-lmstudio: ")


def test_a_file_without_answers_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.jsonl", [header_line()])
    assert told(capsys, "import", "in.jsonl", status=2) == ("", "pytest-lmstudio: in.jsonl holds no answer\n")


# A damaged cache.


@pytest.mark.parametrize("action", [["stats"], ["export", "-"], ["prune", "--model=m"], ["clear", "--yes"]])
def test_a_damaged_cache_is_set_aside_with_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    used(home, ONE)
    (home.cache / "cache.db").write_bytes(b"no database, but long enough to be one" * 200)
    out, err = told(capsys, *action, status=2)
    assert (out, err.count("\n")) == ("", 1)
    assert "and was set aside as damaged-" in err
    assert [path.name[:8] for path in home.cache.glob("*.db")] == ["damaged-"]


def test_an_import_goes_on_after_a_damaged_cache_was_set_aside(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.cache.mkdir(parents=True)
    (home.cache / "cache.db").write_bytes(b"no database, but long enough to be one" * 200)
    write(tmp_path / "in.jsonl", [entry_line(ONE)])
    out, err = told(capsys, "import", "in.jsonl")
    assert out == "1 answer is imported\n"
    assert "was set aside as damaged-" in err


# Prune and clear.


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--keep-version=v1"], [OLD]),
        (["--keep-version=v0", "--keep-version=v1"], []),
        (["--keep-version=v9"], [ONE, TWO, OLD]),
        (["--unused-runs=1"], [TWO, OLD]),
        (["--unused-runs=2"], [OLD]),
        (["--unused-runs=3"], []),
        (["--model=qwen"], [ONE, TWO, OLD]),
        (["--model=other"], []),
        (["--unused-runs=1", "--keep-version=v1"], [OLD]),
    ],
)
def test_what_all_that_is_said_applies_to_goes(
    home: Home, capsys: pytest.CaptureFixture[str], options: list[str], gone: list[Entry]
) -> None:
    used(home, ONE, TWO, OLD)
    used(home, ONE, TWO)
    used(home, ONE)
    assert told(capsys, "prune", *options, "--dry-run")[0] == f"{len(gone)} of 3 entries would go\n"
    assert len(keys(home)) == 3
    verb = "is" if len(gone) == 1 else "are"
    assert told(capsys, "prune", *options)[0] == f"{len(gone)} of 3 entries {verb} deleted\n"
    assert keys(home) == {one.key for one in (ONE, TWO, OLD)} - {one.key for one in gone}


def test_a_prune_tells_json(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    used(home, ONE, OLD)
    found = json.loads(told(capsys, "prune", "--keep-version=v1", "--json")[0])
    assert found == {"entries": 2, "deleted": 1, "dry_run": False}


@pytest.mark.parametrize("options", [[], ["--unused-runs=0"], ["--unused-runs=x"]])
def test_a_prune_of_nothing_in_particular_is_refused(
    home: Home, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    used(home, ONE)
    out, err = told(capsys, "prune", *options, status=2)
    assert (out, err.count("\n")) == ("", 1)
    assert keys(home) == {ONE.key}


def test_clear_takes_a_yes_where_nobody_can_be_asked(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used(home, ONE)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert told(capsys, "clear", status=2)[1] == (
        "pytest-lmstudio: nobody can be asked here whether all entries may go: --yes says so\n"
    )
    assert keys(home) == {ONE.key}
    assert told(capsys, "clear", "--yes")[0] == "1 entry is deleted\n"
    assert keys(home) == set()


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1), ("yep\n", 1)])
def test_clear_asks_on_a_terminal(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    used(home, ONE)
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    out, _ = told(capsys, "clear")
    assert out.startswith(f"delete 1 entry, all of {home.cache}? [y/N] ")
    assert len(keys(home)) == left


@pytest.mark.parametrize("action", ["stats", "export", "import", "prune", "clear"])
def test_each_action_has_help_with_an_example(capsys: pytest.CaptureFixture[str], action: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["cache", action, "--help"])
    assert f"\n  pytest-lmstudio cache {action} " in capsys.readouterr().out
