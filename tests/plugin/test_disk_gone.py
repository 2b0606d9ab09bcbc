"""The folder of a run is deleted or moved while the run is on: nothing is lost, and that it happened is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import ALONE, WORKERS
from tests.plugin.test_disk_full import check_whole, run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.suite import Suite

pytestmark = pytest.mark.usefixtures("temporary")
WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
SUITE = """
    import pathlib, shutil
    import pytest

    @pytest.mark.parametrize("n", range(12))
    def test_it(lm, n):
        assert lm(f"prompt {{n}}").text == f"echo: prompt {{n}}"
        if n == 5:
            {done}
"""
DELETED = "shutil.rmtree('.lmstudio')"
DONE = {
    "deleted": DELETED,
    "runs deleted": "shutil.rmtree('.lmstudio/runs')",
    "log deleted": "[path.unlink() for path in pathlib.Path('.lmstudio').glob('runs/*/events.jsonl')]",
    "log rotated": "[path.rename(f'{path}.1') for path in pathlib.Path('.lmstudio').glob('runs/*/events.jsonl')]",
    "moved": "pathlib.Path('.lmstudio').rename('moved')",
    "replaced by a file": f"({DELETED}, pathlib.Path('.lmstudio').write_text('mine'))",
    "log replaced by a folder": (
        "[(path.unlink(), path.mkdir()) for path in pathlib.Path('.lmstudio').glob('runs/*/*.jsonl')]"
    ),
}


@WAYS
@pytest.mark.parametrize("how", DONE)
def test_a_log_that_goes_away_in_a_run_is_put_together_again(
    suite: Suite, way: tuple[str, ...], how: str, temporary: Path
) -> None:
    suite.write(SUITE.format(done=DONE[how]))
    ran = suite.run_apart(*way)
    events = check_whole(ran, suite)
    folder = run_folder(ran, suite)
    elsewhere = how in {"replaced by a file", "log replaced by a folder"}
    assert (folder.parent == temporary) is elsewhere
    told = [event["message"] for event in events if event["event"] == "note" and "events.jsonl" in event["message"]]
    said = "was deleted or moved while the run wrote to it; its events were kept"
    log = ran.home / "runs" / folder.name.removeprefix("lmstudio-") / "events.jsonl"
    assert f"{log} {said}" in told
    if not elsewhere:
        assert len(set(told)) == 1
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert (report["calls"]["ok"], report["lost"]["damaged_lines"]) == (12, 0)
    if not elsewhere:
        assert (ran.home / "runs" / "latest").read_text("utf-8").strip() == folder.name
        assert [path.name for path in temporary.iterdir() if path.name.startswith("lmstudio-")] == []


@WAYS
def test_a_failed_gate_stays_one_when_its_evidence_is_deleted(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        import shutil

        def test_it(lm):
            try:
                lm("hi", model="nobody-knows-it")
            except Exception:
                pass

        def test_then_deletes():
            shutil.rmtree(".lmstudio")
    """)
    ran = suite.run_apart(*way, "--dist=loadfile")
    assert (ran.ret, ran.summary) == (1, "2 passed")
    assert ran.section[0].startswith("gate FAILED: error rate 100% (1 of 1 call failed)"), ran.out
