"""Calls that were given up by the run itself, or went with their process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.symptoms.look import errors_of
from pytest_lmstudio.record.symptoms.row import Row, Seen
from pytest_lmstudio.record.symptoms.words import times

if TYPE_CHECKING:
    from pytest_lmstudio.record.facts import Evidence


def cut_by_the_interrupt(evidence: Evidence) -> Seen | None:
    """Detect calls that were still running when the run was interrupted."""
    found = evidence.errors("cancelled")
    if not found or not evidence.run.interrupted:
        return None
    return Seen(f"{times(len(found), 'call')} had no answer yet when the run was interrupted", found)


def cut_by_a_crash(evidence: Evidence) -> Seen | None:
    """Detect calls whose process died without an interrupt."""
    found, workers = evidence.errors("cancelled"), evidence.run.workers_crashed
    if not found or evidence.run.interrupted:
        return None
    return Seen(
        f"{times(len(found), 'call')} ended with the process that made it; {times(workers, 'worker')} crashed", found
    )


ROWS = (
    Row(
        "calls were cut by the interrupt",
        "the run was stopped (Ctrl-C, or a time limit of the CI job) before they had answers",
        "whether somebody stopped it, or the job's own time limit did",
        "run it again, without --lf (what was answered comes from the cache); give the job more time",
        cut_by_the_interrupt,
    ),
    Row(
        "calls ended with the process that made them",
        "a worker crashed or was killed, such as for memory",
        "pytest's own lines about crashed workers, and the system's log",
        "use fewer workers (-n2), and find the test that crashes by running it alone with -n0",
        cut_by_a_crash,
    ),
    Row(
        "the circuit breaker gave up",
        "the server failed again and again, so remaining calls were failed at once",
        "the other rows here, and the server's log",
        "mend the server first, then run the lost tests again with --lf; LLM_BREAKER (--lmstudio-breaker) sets the "
        "patience",
        errors_of("circuit_open"),
        view=True,
    ),
)
