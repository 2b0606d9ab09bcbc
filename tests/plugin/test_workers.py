"""When a run gets workers, how many, and that a worker never starts any."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.plugin.inner import QUIET, header_of, run

INI = "lmstudio_concurrency = 3"


class Decision:
    """Stops pytest once it has decided about workers; a session is not needed to see how many there will be."""

    workers = -1

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        self.workers = len(config.getoption("tx", None) or [])
        if config.getoption("numprocesses", None) is not None and not self.workers:
            self.workers = int(config.getoption("numprocesses"))
        return 0


def workers(pytester: pytest.Pytester, *args: str) -> int:
    """Return how many workers a run would start."""
    decision = Decision()
    run(pytester, *args, plugins=[decision])
    assert decision.workers >= 0
    return decision.workers


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")


class Asked(NamedTuple):
    """What a user asked for in the three places, and how many workers that makes."""

    workers: int
    args: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ini: str = ""


@pytest.mark.parametrize(
    "asked",
    [
        Asked(0),
        Asked(3, args=("--lmstudio-concurrency=3",)),
        Asked(3, environment=(("EVAL_CONCURRENCY", "3"),)),
        Asked(3, ini=INI),
        Asked(1, args=("--lmstudio-concurrency=1",), environment=(("EVAL_CONCURRENCY", "3"),), ini=INI),
        Asked(4, args=("--lmstudio-concurrency=4",)),
        Asked(0, environment=(("EVAL_CONCURRENCY", ""),)),
        Asked(0, args=("--lmstudio-recipe=stress",)),
        Asked(0, environment=(("LLM_RECIPE", "slow-model"),)),
        Asked(3, args=("--lmstudio-recipe=stress",), environment=(("EVAL_CONCURRENCY", "3"),)),
        Asked(4, args=("--lmstudio-url=http://h:1",)),
        Asked(2, args=("--lmstudio-url=http://h:1", "--lmstudio-recipe=slow-model")),
        Asked(3, args=("--lmstudio-url=http://h:1", "--lmstudio-concurrency=3")),
        Asked(0, environment=(("LMSTUDIO_URL", "http://h:1"),)),
        Asked(0, ini="lmstudio_url = http://h:1"),
        Asked(0, args=("--lmstudio-model=m",), environment=(("LM_API_TOKEN", "t"),), ini="lmstudio_timeout = 3"),
    ],
)
def test_only_a_concurrency_or_a_url_on_the_command_line_starts_workers(
    asked: Asked, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini(f"[pytest]\n{asked.ini}")
    for name, value in asked.environment:
        monkeypatch.setenv(name, value)
    assert workers(pytester, *asked.args) == asked.workers


@pytest.mark.parametrize("ours", [("--lmstudio-concurrency=3",), ("--lmstudio-url=http://h:1",)], ids=" ".join)
@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (("-n0",), 0),
        (("-n", "2"), 2),
        (("--numprocesses=2",), 2),
        (("--dist=no",), 0),
        (("--dist=load",), 0),
        (("--dist", "loadscope"), 0),
        (("-d", "--tx=2*popen"), 1),
        (("--tx", "2*popen"), 1),
        (("--pdb",), 0),
        (("--trace",), 0),
        (("-s",), 0),
        (("--capture=no",), 0),
        (("--collect-only",), 0),
        (("--co",), 0),
        (("--fixtures",), 0),
        (("--fixtures-per-test",), 0),
        (("--setup-only",), 0),
        (("--setup-plan",), 0),
        (("--setup-show",), 0),
        (("-f",), 0),
        (("--cache-show",), 0),
        (("-p", "no:xdist"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_the_user_chose_is_left_alone(
    ours: tuple[str, ...], theirs: tuple[str, ...], expected: int, pytester: pytest.Pytester
) -> None:
    needs_cache = ("-p", "cacheprovider") if "--cache-show" in theirs else ()
    assert workers(pytester, *ours, *needs_cache, *theirs) == expected


@pytest.mark.parametrize(
    ("place", "given"),
    [
        *[("PYTEST_ADDOPTS", given) for given in ("--dist=no", "--dist load", "-n0", "-s", "--pdb")],
        *[("ini", given) for given in ("--dist=no", "--dist load", "-n0", "-s", "--pdb")],
        *[("file", given) for given in ("--dist load", "-n0", "-s", "--pdb")],
    ],
)
def test_a_choice_counts_wherever_it_stands(
    place: str, given: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--lmstudio-concurrency=3"]
    if place == "PYTEST_ADDOPTS":
        monkeypatch.setenv("PYTEST_ADDOPTS", given)
    elif place == "ini":
        pytester.makeini(f"[pytest]\naddopts = {given}")
    else:
        (pytester.path / "options.txt").write_text("\n".join(given.split()), encoding="utf-8")
        args.append("@options.txt")
    assert workers(pytester, *args) == 0


@pytest.mark.parametrize(
    "other", ["-v", "--capture=sys", "-x", "--lf", "--durations=3", "--maxprocesses=8", "--color=yes"]
)
def test_other_options_do_not_count_as_a_choice(other: str, pytester: pytest.Pytester) -> None:
    assert workers(pytester, "-p", "cacheprovider", "--lmstudio-concurrency=3", other) == 3


def test_a_pytest_inside_a_test_of_a_worker_starts_none(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("EVAL_CONCURRENCY", "3")
    assert workers(pytester, "--lmstudio-url=http://h:1") == 0


WRITES_ITS_WORKER = """
    import os, pathlib, pytest

    @pytest.mark.parametrize("n", range(12))
    def test_writes(n):
        pathlib.Path("worker-" + os.environ.get("PYTEST_XDIST_WORKER", "main")).touch()
"""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), {"worker-gw0", "worker-gw1"}),
        (("--lmstudio-concurrency=1",), {"worker-gw0"}),
        (("-p", "no:xdist"), {"worker-main"}),
        (("-n0",), {"worker-main"}),
        (("--pdb",), {"worker-main"}),
    ],
)
def test_tests_run_in_the_workers_that_were_decided_on(
    args: tuple[str, ...], expected: set[str], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVAL_CONCURRENCY", "2")
    pytester.makepyfile(WRITES_ITS_WORKER)
    result = run(pytester, *args)
    result.assert_outcomes(passed=12)
    assert {path.name for path in pytester.path.glob("worker-*")} == expected
    announced = [line for line in header_of(result) if "xdist workers" in line]
    assert len(announced) == (0 if "worker-main" in expected else 1)


COUNTS_PROCESSES = """
    import os, pathlib, pytest

    def pytest_configure(config):
        seen = pathlib.Path(os.environ["SEEN"])
        seen.joinpath(str(os.getpid())).touch()
        if len(list(seen.iterdir())) > 12:  # what would be without end ends here
            os._exit(3)
"""
STARTS_A_PYTEST = """
    import os, subprocess, sys, pytest

    @pytest.mark.parametrize("n", range(4))
    def test_starts_a_pytest(n):
        command = [sys.executable, "-m", "pytest", "-q", "inner_test.py", "-p", "no:cacheprovider", *ARGS]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("argument", ["", "--lmstudio-concurrency=2"])
def test_neither_a_worker_nor_a_pytest_inside_one_starts_workers(
    argument: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One controller, two workers, and the four pytests that the tests start."""
    monkeypatch.setenv("SEEN", str(pytester.mkdir("seen")))
    monkeypatch.setenv("EVAL_CONCURRENCY", "2")
    pytester.makeconftest(COUNTS_PROCESSES)
    pytester.makepyfile(
        inner_test="def test_inner(): pass", test_outer=STARTS_A_PYTEST.replace("*ARGS", f"*{argument.split()}")
    )
    result = pytester.runpytest_subprocess(*QUIET, "test_outer.py")
    result.assert_outcomes(passed=4)
    assert len(list((pytester.path / "seen").iterdir())) == 1 + 2 + 4
