"""A server that fails a third of its requests: what could be answered is, and every account of the run agrees."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.suite import Ran
from tests.process.accounts import Accounts
from tests.process.apart import WITHOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: ``LMSTUDIO_TESTS_CHAOS=SEED,SEED,...`` asks for the full run with each of these seeds, see CONTRIBUTING.md.
SEEDS = os.environ.get("LMSTUDIO_TESTS_CHAOS", "")
#: Ten tests make sixteen calls.
TESTS = 200 if SEEDS else 40
WAYS = {
    "eight workers": ("-n8", "--lmstudio-concurrency=8", "--lmstudio-breaker=off"),
    "three at once": ("-n8", "--lmstudio-concurrency=3", "--lmstudio-breaker=5:0.5"),
    "one process": ("-n0", "--lmstudio-concurrency=8", "--lmstudio-breaker=off"),
}
HERE = Path(__file__).parent
_DEADLINE_S = 400.0


@contextmanager
def chaos_server(seed: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Start the server in a process of its own; yield its URL, and what ends it and returns its record."""
    command = [sys.executable, "-m", "tests.process.chaos_server", seed]
    with subprocess.Popen(
        command, cwd=HERE.parents[1], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def record() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(process.communicate(timeout=_DEADLINE_S)[0])
            return found

        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("READY ").strip(), record
        finally:
            process.kill()


def run_suite(folder: Path, url: str, *args: str) -> Ran:
    """Run the suite in a pytest of its own; it is killed when it hangs."""
    shutil.copy(HERE / "chaos_suite.py", folder / "test_suite.py")
    without = [f"-pno:{name}" for name in WITHOUT]
    usual = (
        "--lmstudio-model=test-model", "--lmstudio-timeout=1.5", "--lmstudio-retries=3", "--lmstudio-backoff=0.05",
        "--lmstudio-max-error-rate=100%", "--color=no",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *without, *usual, f"--lmstudio-url={url}", *args],
        cwd=folder,
        env=os.environ | {"CHAOS_TESTS": str(TESTS)},
        capture_output=True,
        encoding="utf-8",
        timeout=_DEADLINE_S,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr, folder / ".lmstudio")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS if SEEDS else ["three at once", "one process"])
@pytest.mark.parametrize("seed", SEEDS.split(",") if SEEDS else ["1"])
def test_all_that_can_be_answered_is_and_the_accounts_agree(tmp_path: Path, seed: str, way: str) -> None:
    with chaos_server(seed) as (url, record):
        ran = run_suite(tmp_path, url, *WAYS[way])
        assert (ran.home / "runs" / "latest").exists(), ran.out + ran.err
        accounts = Accounts.of(record(), ran, time.time() - time.monotonic())
    report = accounts.report
    print(seed, way, report["duration_s"], report["calls"], report["attempts"], report["errors_by_kind"])
    assert accounts.mistakes == [], ran.out
    tests = report["tests"]
    assert (tests["passed"] + tests["lm_error"], tests["failed"], tests["error"]) == (TESTS, 0, 0), ran.out
    assert ran.ret == 0
    for number, (forge, told) in enumerate(FORGERIES):
        forged = copy.deepcopy(asdict(accounts))
        forge(forged)
        assert any(told in mistake for mistake in Accounts(**forged).mistakes), f"forgery {number} passes unseen"


def _drop(rows: list[dict[str, Any]], **wanted: Any) -> None:
    rows.remove(next(row for row in rows if wanted.items() <= row.items()))


#: What must not pass unseen, and a part of what is said of it.
FORGERIES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda told: _drop(told["record"]["rows"], step="healthy"), "requests of calls"),
    (lambda told: told["record"]["rows"].append(told["record"]["rows"][-1]), "tag "),
    (lambda told: told["record"].update(posts=told["record"]["posts"] + 1), "POSTs"),
    (lambda told: told["record"].update(peak_in_flight=9), "by the server's account 9 requests were in flight"),
    (lambda told: told["record"]["others"].append("GET /api/v1/models"), "looks at the server"),
    (lambda told: _drop(told["events"], event="gen_success"), "no end"),
    (lambda told: _drop(told["events"], event="gen_error", phase="receiving"), "tag "),
    (lambda told: _drop(told["events"], event="gen_request", attempt=1), "attempts: reported, logged"),
    (lambda told: _drop(told["events"], event="gen_cached"), "calls: reported, logged"),
    (lambda told: told["report"]["errors_by_kind"].popitem(), "errors: reported, logged"),
    (lambda told: told["report"]["lost"].update(requests_without_outcome=1), "lost"),
]
