"""What the process that sees all reports adds to the log: how each test ended, and how the run did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.endings import Endings
from pytest_lmstudio.gathered import Gathered
from pytest_lmstudio.record.events import EventWriter, read_events

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lmstudio.record.events import Event

MARKED = {"llm": True, "lost": None}
LOST = {"llm": True, "lost": "[timeout] the server took too long"}


class Session:
    """A run of tests whose reports are made by hand; it makes its first call when told."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "events.jsonl"
        self.gathered = Gathered()
        self.endings = Endings(self.gathered, self._open)
        self.asked = 0

    def _open(self) -> EventWriter | None:
        self.asked += 1
        return EventWriter(self.log, {"worker": "main"}) if self.log.exists() else None

    def call(self) -> None:
        self.log.touch()

    def run(self, nodeid: str, *outcomes: str, facts: dict[str, Any] | None = None, ends: bool = True) -> None:
        """Report the phases of a test."""
        phases = (
            ("setup", "call", "teardown") if len(outcomes) > 1 else ("setup" if outcomes == ("skipped",) else "call",)
        )
        for phase, outcome in zip(phases, outcomes, strict=False):
            report: Any = SimpleNamespace(nodeid=nodeid, when=phase, outcome=outcome)
            if facts:
                report.lmstudio = facts if outcome in {"skipped", "failed"} else {**facts, "lost": None}
            self.gathered.note(report)
        if ends:
            self.endings.settle(nodeid)

    def written(self) -> list[Event]:
        """Return the events, without what all have."""
        events = read_events(self.log).events
        return [{key: value for key, value in event.items() if key not in {"ts", "worker"}} for event in events]


def of(nodeid: str, outcome: str, **fields: Any) -> Event:
    return {"event": "test_end", "nodeid": nodeid, "outcome": outcome, "llm": True, "ran": True, **fields}


def test_a_run_without_calls_leaves_nothing(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run("a", "passed", facts=MARKED)
    session.run("plain", "passed")
    session.endings.settle_all()
    session.endings.close()
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_asks_no_model_is_not_even_looked_at(tmp_path: Path) -> None:
    session = Session(tmp_path)
    for number in range(9):
        session.run(f"t{number}", "passed")
    assert session.asked == 0


def test_tests_that_ended_before_the_first_call_are_caught_up_with(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run("skipped", "skipped", facts=MARKED)
    session.run("plain", "passed")
    session.run("early", "passed", facts=MARKED)
    session.call()
    assert session.written() == []
    session.run("a", "passed", facts=MARKED)
    assert session.written() == [
        of("skipped", "skipped", ran=False),
        of("early", "passed", others={"passed": 1}),
        of("a", "passed", others={"passed": 1}),
    ]


def test_a_lost_test_tells_what_it_was_lost_to(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", "skipped", "passed", facts=LOST)
    session.run("not-marked", "skipped", facts={"llm": False, "lost": "[connect] refused"})
    assert session.written() == [
        of("a", "lm_error", error_kind="timeout"),
        of("not-marked", "lm_error", llm=False, ran=False, error_kind="connect"),
    ]
    assert session.endings.lost() == [("a", "timeout"), ("not-marked", "connect")]


def test_a_declared_case_is_told_as_one(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", facts=MARKED | {"declared": True})
    session.run("b", "skipped", facts=MARKED | {"declared": True})
    assert session.written() == [of("a", "passed", declared=True), of("b", "skipped", ran=False, declared=True)]


def test_a_test_is_told_once_however_often_it_ends(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", facts=MARKED)
    session.endings.settle("a")
    session.endings.settle_all()
    assert session.written() == [of("a", "passed")]


def test_an_outcome_that_changes_is_told_anew(tmp_path: Path) -> None:
    """Such as by a worker that runs a test of one that crashed; a better outcome is no change."""
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", facts=MARKED)
    session.run("a", "failed", facts=MARKED)
    session.run("a", "passed", facts=MARKED)
    assert session.written() == [of("a", "passed"), of("a", "failed")]


def test_a_test_that_turns_out_to_concern_us_is_counted_no_longer(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.call()
    session.run("late", "passed")
    session.run("late", "skipped", facts={"llm": False, "lost": "[timeout] late"})
    session.run("a", "passed", facts=MARKED)
    assert session.written() == [
        of("late", "lm_error", llm=False, ran=False, error_kind="timeout", others={}),
        of("a", "passed", others={}),
    ]


def test_what_has_not_ended_is_told_at_the_end(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", facts=MARKED, ends=False)
    session.run("plain", "failed", ends=False)
    session.endings.worker_crashed("gw1")
    session.endings.settle_all()
    report = {"exit_status": 1, "duration_s": 2.5, "tests": {"passed": 1, "failed": 1}, "cache": {"entries": 7}}
    session.endings.finish(report, interrupted=False, problems=("gw1: broken",))
    assert session.written()[1:] == [
        of("a", "passed"),
        {
            "event": "run_end", "exit_status": 1, "duration_s": 2.5, "tests": {"passed": 1, "failed": 1},
            "cache_entries": 7, "interrupted": False, "problems": ["gw1: broken"],
        },
    ]  # fmt: skip
    assert (
        read_events(session.log).events[0] | {"event": "worker_crashed", "worker": "gw1"}
        == (read_events(session.log).events[0])
    )


def test_a_log_that_was_closed_is_opened_again(tmp_path: Path) -> None:
    """Such as for the end of a run whose log was put together anew in between."""
    session = Session(tmp_path)
    session.call()
    session.run("a", "passed", facts=MARKED)
    session.endings.close()
    session.log.rename(tmp_path / "old")
    session.call()
    session.run("b", "passed", facts=MARKED)
    assert session.written() == [of("b", "passed")]


def test_what_cannot_be_written_is_known_also_later(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.log.mkdir()
    session.run("a", "passed", facts=MARKED)
    session.endings.close()
    assert session.endings.failed is not None
    assert "events.jsonl" in session.endings.failed
