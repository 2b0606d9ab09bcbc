"""What the process that sees all reports adds to the log, so that the log alone tells what the run's report would."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_lmstudio.gathered import Ending, Gathered
    from pytest_lmstudio.record.events import EventWriter


class Endings:
    """Writes how tests ended, once the run made a call; a run that makes none leaves nothing.

    A test that asks the model has a ``test_end`` of its own, and a further one should its outcome change later. The
    other tests are counted, and each ``test_end`` carries their counts so far as ``others``.

    Args:
        gathered: the outcomes.
        open_log: returns the run's log, None as long as the run made no call.

    Attributes:
        failed: why something could not be written, None when all was.
    """

    def __init__(self, gathered: Gathered, open_log: Callable[[], EventWriter | None]) -> None:
        self.failed: str | None = None
        self._gathered = gathered
        self._open_log = open_log
        self._log: EventWriter | None = None
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._told: dict[str, Ending] = {}
        self._others: Counter[str] = Counter()

    def settle(self, nodeid: str) -> None:
        """Note that a test has ended, at least for now."""
        ending, before = self._gathered.ending(nodeid), self._told.get(nodeid)
        if ending is None or ending == before:
            return
        self._told[nodeid] = ending
        if before is not None and not before.concerned:
            self._others[before.outcome] -= 1
        if not ending.concerned:
            self._others[ending.outcome] += 1
            return
        fields: dict[str, Any] = {"outcome": ending.outcome, "llm": ending.llm, "ran": ending.ran}
        if ending.declared:
            fields["declared"] = True
        if ending.lost_to is not None:
            fields["error_kind"] = ending.lost_to
        if self._others:
            fields["others"] = {word: count for word, count in self._others.items() if count}
        self._write("test_end", nodeid=nodeid, **fields)

    def worker_crashed(self, worker: str) -> None:
        """Note that a worker died."""
        self._write("worker_crashed", worker=worker)

    def settle_all(self) -> None:
        """Note that no test goes on."""
        for nodeid in self._gathered.outcomes:
            self.settle(nodeid)

    def server_log(self, told: Mapping[str, Any]) -> None:
        """Note what the server's own log tells of the run's time: counts and times, no text."""
        self._write("server_log", **told)

    def finish(self, report: Mapping[str, Any], *, interrupted: bool, problems: Iterable[str]) -> None:
        """Write the end of the run, and what its report knows from elsewhere than the log.

        Args:
            report: the report.
            interrupted: whether the run was interrupted.
            problems: those of the report's notes that the log does not hold.
        """
        self._write(
            "run_end",
            **{name: report[name] for name in ("exit_status", "duration_s", "tests")},
            cache_entries=report["cache"]["entries"],
            interrupted=interrupted,
            problems=list(problems),
        )

    def lost(self) -> list[tuple[str, str]]:
        """Return node id and error kind of the tests that were lost, in the order in which they ended."""
        return [(nodeid, ending.lost_to or "") for nodeid, ending in self._told.items() if ending.outcome == "lm_error"]

    def close(self) -> None:
        """Close the log, until there is more to write; where nobody holds it, its run counts as over."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write(self, event: str, **fields: Any) -> None:
        self._waiting.append((event, fields))
        if self._log is None:
            self._log = self._open_log()
        if self._log is not None:
            for name, known in self._waiting:
                self._log.write(name, **known)
            self._waiting.clear()
            self.failed = self.failed or self._log.failed
