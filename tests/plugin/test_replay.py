"""Answers recorded with a server, exported, imported elsewhere and replayed without one; shards made one run."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.cli.command import main
from tests.plugin.suite import ALONE, WORKERS, Ran
from tests.valid import checked

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

DOCS = Path(__file__).parents[2] / "docs"
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
CALLS = """
    import pytest

    @pytest.mark.parametrize("n", range(3))
    def test_text(lm, n): assert f"echo: number {n}" in lm(f"number {n}", temperature=0)
    def test_unicode(lm): assert "\\u00e4\\U0001f600" in lm("\\u00e4\\U0001f600")
    def test_system(lm): assert lm("hi", system="be brief", max_tokens=7, stop=["x"])
    def test_stream(lm): assert "".join(lm.stream("streamed")) == "echo: streamed"
    def test_map(lm): assert len(lm.map(["a", "b", "a"])) == 3
    def test_chat(lm): assert lm.chat([{"role": "user", "content": [{"type": "text", "text": "part"}]}])
"""
CALLS_MADE = 10


def commands(page: str, name: str) -> list[str]:
    """Return the command lines of a page that follow ``<!-- commands: NAME -->``."""
    found = re.search(rf"<!-- commands: {name} -->\n```console\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def cache(*arguments: str) -> int:
    return main(["cache", *arguments])


def offline(suite: Suite, *args: str) -> Ran:
    return suite.run("--lmstudio-cache=offline", *args)


@WAYS
def test_a_recorded_suite_replays_elsewhere_without_a_server(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(CALLS)
    recorded = suite.run(*way, "--lmstudio-pipeline-version=v1")
    assert recorded.report["calls"]["sent"] == CALLS_MADE
    assert cache("export", "answers.jsonl") == 0
    suite.server.stop()
    asked = len(suite.server.all_requests)

    assert cache("import", "answers.jsonl", "--strict", "--dir=elsewhere") == 0
    ran = offline(suite, *way, "--lmstudio-pipeline-version=v1", "--lmstudio-dir=elsewhere")
    ran = Ran(ran.ret, ran.out, ran.err, suite.pytester.path / "elsewhere")
    assert (ran.ret, ran.summary) == (0, "8 passed")
    assert ran.report["calls"] | {"total": CALLS_MADE, "cached": CALLS_MADE, "sent": 0} == ran.report["calls"]
    assert list(ran.report["by_model"]) == list(recorded.report["by_model"])
    assert len(suite.server.all_requests) == asked


def test_an_export_of_the_replay_is_the_same_file(suite: Suite) -> None:
    suite.write(CALLS)
    suite.run("-n0")
    cache("export", "one.jsonl")
    cache("import", "one.jsonl", "--dir=elsewhere")
    offline(suite, "-n0", "--lmstudio-dir=elsewhere")
    assert cache("export", "two.jsonl", "--last-run", "--dir=elsewhere") == 0
    folder = suite.pytester.path
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()


def test_without_the_import_every_call_is_a_miss(suite: Suite) -> None:
    suite.write(CALLS)
    suite.run("-n0")
    ran = offline(suite, "-n0", "--lmstudio-dir=elsewhere", "--lmstudio-model=test-model")
    assert ran.summary == "8 failed"


def test_a_forged_answer_changes_an_answer_and_nothing_else(suite: Suite) -> None:
    suite.write("def test_it(lm): assert 'echo: hi' in lm('hi')")
    suite.run("-n0")
    cache("export", "answers.jsonl")
    path = suite.pytester.path / "answers.jsonl"
    path.write_text(path.read_text("ascii").replace("echo: hi", "\\u001b[31mforged"), encoding="ascii")
    cache("import", "answers.jsonl", "--overwrite")
    ran = offline(suite, "-n0")
    assert ran.summary == "1 failed"
    assert "\x1b" not in ran.out


def test_a_cache_is_looked_after_while_a_run_uses_it(suite: Suite) -> None:
    suite.write("""
        import subprocess, sys

        def cache(*arguments):
            command = [sys.executable, "-m", "pytest_lmstudio", "cache", *arguments]
            assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0

        def test_it(lm):
            for n in range(3): lm(f"number {n}")
            cache("export", "answers.jsonl")
            cache("clear", "--yes")
            assert not lm("number 0").cached
            cache("import", "answers.jsonl")
            assert lm("number 2").cached
            cache("prune", "--model", "test-model")
            assert not lm("number 2").cached
            cache("stats")
    """)
    ran = suite.run("-n0")
    assert ran.summary == "1 passed"
    assert ran.report["notes"] == []
    assert ran.report["cache"]["entries"] == 1


# The pages.


def typed(suite: Suite, line: str) -> int:
    """Run a command line of a page."""
    words = shlex.split(line)
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        os.environ[name] = value
        return 0
    if words[0] == "pytest":
        return suite.run("-n0", *words[1:]).ret
    folder = suite.pytester.path
    places = [sorted(map(str, folder.glob(word))) if "*" in word else [word] for word in words[1:]]
    return main([name for names in places for name in names])


def test_the_page_on_ci_without_a_model_does_what_it_says(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVAL_PIPELINE_VERSION", "")
    tests = suite.pytester.mkdir("tests")
    (tests / "test_it.py").write_text("def test_it(lm): assert 'echo: hi' in lm('hi')\n", encoding="ascii")
    assert [typed(suite, line) for line in commands("ci-without-a-model.md", "record")] == [0, 0, 0]
    suite.server.stop()
    (suite.pytester.path / ".lmstudio").rename(suite.pytester.path / "recorded")
    assert [typed(suite, line) for line in commands("ci-without-a-model.md", "replay")] == [0, 0, 0]


def test_the_page_on_sharded_ci_does_what_it_says(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    folder = suite.pytester.path
    (folder / "shards").mkdir()
    for number in range(3):
        suite.write(f"def test_{number}(lm): assert lm('number {number}')\ndef test_plain(): pass")
        assert suite.run("-n0", "--lmstudio-max-error-rate=100%", "--lmstudio-cache=off").ret == 0
        (folder / ".lmstudio" / "runs").rename(folder / "shards" / str(number))
    capsys.readouterr()
    [line] = commands("sharded-ci.md", "merge")
    assert typed(suite, line) == 0
    assert "gate passed: 0% of 3 calls lost, limit 5%" in capsys.readouterr().out
    report = checked(json.loads((folder / "report.json").read_text("utf-8")))
    assert (report["calls"]["ok"], report["tests"]["passed"], len(report["shards"])) == (3, 6, 3)
    assert report["exit_status"] == 0


def test_the_comparison_of_the_page_fails_on_a_regression(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    folder = suite.pytester.path
    for name, answer in (("main", "echo: hi"), ("feature", "other")):
        suite.write(f"def test_it(lm): assert {answer!r} in lm('hi')")
        suite.run("-n0", "--lmstudio-cache=off")
        (folder / ".lmstudio").rename(folder / name)
    capsys.readouterr()
    [line] = commands("sharded-ci.md", "compare")
    assert typed(suite, line) == 1
    out = capsys.readouterr().out
    assert "REGRESSION: more tests fail\n" in out
    assert "test_suite.py::test_it (passed -> failed)" in out
