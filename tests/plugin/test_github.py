"""In a job of GitHub Actions a run leaves a summary and annotations, and nothing that a model says is obeyed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.suite import Ran, Suite
    from tests.standin import StandIn

ALL_WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
LOSES = ("--lmstudio-retries=0", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%")
MIXED = """
    def test_fails(lm):
        reply = lm("question")
        assert "Paris" in str(reply)

    def test_lost(lm):
        lm("lost")

    def test_passes(lm):
        lm("fine")

    def test_plain_fails():
        assert 1 == 2
"""
COMMAND = re.compile(r"^\s*::(\w[\w-]*)(.*?)::|##(?:vso|teamcity)?\[", re.MULTILINE)


@pytest.fixture
def summary(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The step's summary, and a job that checked the suite's folder out."""
    path = suite.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.pytester.path))
    return path


@pytest.fixture(autouse=True)
def broken(server: StandIn) -> None:
    server.when(lambda r: "lost" in r.text, close_before_headers())


def annotated(ran: Ran) -> list[str]:
    return [line for line in ran.out.splitlines() if line.startswith("::")]


@ALL_WAYS
def test_lost_tests_become_warnings_and_failed_lm_tests_errors(
    suite: Suite, summary: Path, way: tuple[str, ...]
) -> None:
    suite.write(MIXED)
    ran = suite.run(*way, *LOSES)
    failed, lost = annotated(ran)
    assert failed.startswith(
        "::error file=test_suite.py,line=3,title=failed%3A test_suite.py%3A%3Atest_fails::"
        "AssertionError: assert 'Paris' in 'echo: question'"
    )
    assert lost.startswith(
        "::warning file=test_suite.py,line=5,title=lost%3A test_suite.py%3A%3Atest_lost::[disconnect] the server at "
    )
    assert ran.out.index("::error") < ran.out.index("= FAILURES =")
    shown = summary.read_text("utf-8")
    assert shown.startswith("## LM Studio: gate passed\n\n**33.3% of 3 calls lost, limit 100% (95% interval ")
    assert "### Failed LM tests (1)\n\n- `test_suite.py::test_fails`: `AssertionError: assert 'Paris' in " in shown
    assert "### Lost tests (1): neither passed nor failed\n\n- `test_suite.py::test_lost`: `[disconnect] the s" in shown
    assert shown.endswith(f"Report: `.lmstudio/runs/{ran.report['run_id']}/report.json`\n")
    assert "test_plain_fails" not in shown


@ALL_WAYS
def test_a_failed_gate_is_an_error_of_its_own(suite: Suite, summary: Path, way: tuple[str, ...]) -> None:
    suite.write("def test_lost(lm): lm('lost')")
    ran = suite.run(*way, *LOSES, "--lmstudio-max-error-rate=5%")
    assert ran.ret == 1
    gate, lost = annotated(ran)
    assert gate == (
        "::error title=LM Studio%3A gate failed::error rate 100%25 (1 of 1 call lost) is above the limit of 5%25; "
        "100%25 of the LM tests lost (1 of 1) is above the limit of 5%25"
    )
    assert lost.startswith("::warning ")
    assert summary.read_text("utf-8").startswith("## LM Studio: gate FAILED\n\n**error rate 100% (1 of 1 call lost)")


def test_without_github_there_are_no_annotations(suite: Suite) -> None:
    suite.write(MIXED)
    assert annotated(suite.run(*ALONE, *LOSES)) == []


@pytest.mark.parametrize("unset", ["GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"])
def test_summary_and_annotations_do_not_need_each_other(
    suite: Suite, summary: Path, monkeypatch: pytest.MonkeyPatch, unset: str
) -> None:
    monkeypatch.delenv(unset)
    suite.write(MIXED)
    ran = suite.run(*ALONE, *LOSES)
    assert bool(annotated(ran)) == (unset != "GITHUB_ACTIONS")
    assert summary.exists() == (unset != "GITHUB_STEP_SUMMARY")


def test_a_run_without_calls_leaves_the_summary_alone(suite: Suite, summary: Path) -> None:
    suite.write("def test_plain_fails(): assert 0")
    assert suite.run(*ALONE, *LOSES).ret == 1
    assert not summary.exists()


def test_a_summary_is_appended_to_what_other_commands_of_the_step_wrote(suite: Suite, summary: Path) -> None:
    summary.write_text("| a | b |\n|---|---|\n| 1 | 2 |", "utf-8")
    suite.write("def test_passes(lm): lm('fine')")
    suite.run(*ALONE)
    assert summary.read_text("utf-8").startswith("| a | b |\n|---|---|\n| 1 | 2 |\n\n## LM Studio: gate passed\n")
    suite.run(*ALONE)
    assert summary.read_text("utf-8").count("## LM Studio: gate passed\n") == 2


def test_a_summary_that_github_would_not_show_is_left_as_it_was(suite: Suite, summary: Path) -> None:
    summary.write_bytes(b"x" * (1024 * 1024 - 100))
    suite.write("def test_passes(lm): lm('fine')")
    ran = suite.run(*ALONE)
    assert ran.ret == 0
    [line] = [line for line in ran.section if "cannot be written" in line]
    why = "with this run's summary it would be larger than GitHub shows, 1 MiB"
    assert line.endswith(f"summary.md cannot be written: {why}")
    assert summary.stat().st_size == 1024 * 1024 - 100


@pytest.mark.parametrize("what", ["folder", "nowhere", "pipe"])
def test_a_summary_that_cannot_be_written_is_one_line_and_no_failure(suite: Suite, summary: Path, what: str) -> None:
    suite.write("def test_passes(lm): lm('fine')")
    if what == "folder":
        summary.mkdir()
    elif what == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes here")
        os.mkfifo(summary)
    else:
        suite.pytester.path.joinpath("conftest.py").write_text(
            f"import os\nos.environ['GITHUB_STEP_SUMMARY'] = {str(summary / 'no' / 'file')!r}\n"
        )
    ran = suite.run_apart(*ALONE)
    assert ran.ret == 0
    assert len([line for line in ran.section if "cannot be written: " in line]) == 1


def test_files_are_named_as_the_repository_knows_them(
    suite: Suite, summary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.pytester.path.parent))
    suite.write(MIXED)
    [failed, lost] = annotated(suite.run(*ALONE, *LOSES))
    name = suite.pytester.path.name
    assert failed.startswith(f"::error file={name}/test_suite.py,line=3,")
    assert lost.startswith(f"::warning file={name}/test_suite.py,line=5,")


def test_a_failure_in_a_helper_is_annotated_at_its_test(suite: Suite, summary: Path) -> None:
    suite.write("def check(reply): assert 'Paris' in reply", "helper")
    suite.write("""
        import helper

        def test_fails(lm):
            helper.check(lm("question"))
    """)
    [failed] = annotated(suite.run(*ALONE))
    assert failed.startswith("::error file=test_suite.py,line=3,")


def test_tests_that_pass_at_last_and_tests_that_fail_in_another_phase(suite: Suite, summary: Path) -> None:
    suite.write("""
        import pytest
        tried = []

        def test_passes_at_last(lm):
            tried.append(lm("question"))
            assert len(tried) > 1

        @pytest.fixture
        def fails_after():
            yield
            raise RuntimeError("in teardown")

        def test_lost_then_failed(lm, fails_after):
            lm("lost")
    """)
    ran = suite.run(*ALONE, *LOSES, "-p", "rerunfailures", "--reruns=1", "--only-rerun=AssertionError")
    [failed] = annotated(ran)
    assert "title=failed%3A test_suite.py%3A%3Atest_lost_then_failed::RuntimeError: in teardown" in failed
    assert "### Failed LM tests (1)" in summary.read_text("utf-8")
    assert "### Lost tests" not in summary.read_text("utf-8")


def test_a_test_whose_worker_crashed_is_annotated(suite: Suite, summary: Path) -> None:
    suite.write("""
        import os
        def test_dies(lm):
            lm("question")
            os._exit(3)
        def test_passes(lm):
            lm("fine")
    """)
    [failed] = [line for line in annotated(suite.run("-n1", *LOSES)) if "test_dies" in line]
    title = "failed%3A test_suite.py%3A%3Atest_dies"
    assert failed.startswith(f"::error file=test_suite.py,title={title}::worker 'gw0' crashed while running ")


@ALL_WAYS
def test_an_interrupted_run_is_summarised_too(suite: Suite, summary: Path, way: tuple[str, ...]) -> None:
    suite.write("""
        import pytest
        def test_a_lost(lm): lm("lost")
        def test_b_stops(lm):
            lm("fine")
            pytest.exit("enough")
    """)
    ran = suite.run_apart(*way, *LOSES)
    assert ran.ret == 2 or way == WORKERS
    assert summary.read_text("utf-8").count("## LM Studio: gate ") == 1


def test_no_more_are_annotated_than_github_shows_and_all_are_in_the_summary(suite: Suite, summary: Path) -> None:
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(13))
        def test_fails(lm, n): assert lm("question", cache=False) == n
        @pytest.mark.parametrize("n", range(12))
        def test_lost(lm, n): lm(f"lost {n}")
    """)
    ran = suite.run(*ALONE, *LOSES)
    levels = [line.split()[0] for line in annotated(ran)]
    assert (levels.count("::error"), levels.count("::warning")) == (10, 10)
    assert summary.read_text("utf-8").count("- `test_suite.py::test_fails[") == 13
    assert summary.read_text("utf-8").count("- `test_suite.py::test_lost[") == 12


def test_secrets_of_the_job_are_in_neither(suite: Suite, summary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "hunter2-hunter2")
    suite.write("def test_fails(lm): assert 'hunter2-hunter2' in str(lm('question'))")
    ran = suite.run(*ALONE)
    [failed] = annotated(ran)
    assert "assert '***' in 'echo: question'" in failed
    assert "hunter2" not in summary.read_text("utf-8")


HOSTILE = (
    "::error::forged\n  ::stop-commands::x\n##[error]forged\n##vso[task.complete]x\n"
    "| a | b |\n|---|---|\n</code></details><img src=x> `` @team [x](http://x.example) \x1b[31m\u202e"
)
REPEATS = """
    import pytest

    def test_asserts(lm):
        reply = lm("question")
        assert str(reply) == "no", f"wrong:\\n{reply}"

    def test_prints(lm):
        print(lm("question"))
        pytest.fail("see above")

    def test_tells(lm):
        pytest.fail("wrong:\\n" + str(lm("question")), pytrace=False)

    def test_skips(lm):
        pytest.skip(str(lm("question")))

    def test_passes(lm):
        print(lm("question"))
"""


@pytest.mark.parametrize("style", ["long", "short", "line", "native"])
def test_nothing_that_a_model_says_is_obeyed(suite: Suite, summary: Path, style: str) -> None:
    suite.server.default = reply(HOSTILE)
    suite.write(REPEATS)
    ran = suite.run(*ALONE, *LOSES, f"--tb={style}", "-rA", "--showlocals")
    obeyed = [found for found in COMMAND.findall(ran.out) if found[0] not in {"error", "warning"}]
    assert obeyed == []
    assert len(annotated(ran)) == 3
    assert all("title=failed%3A" in line.split("::")[1] for line in annotated(ran))
    shown = summary.read_text("utf-8")
    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        "## LM Studio: gate passed",
        "### Notes",
        "### Failed LM tests (3)",
    ]
    assert "\x1b" not in shown
    assert len([line for line in shown.splitlines() if line.startswith("- `test_suite.py::")]) == 3
