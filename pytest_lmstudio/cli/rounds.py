"""A few generations made and written as an ordinary run, which `report` shows as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest_lmstudio
from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.client.caller import Caller, Scope
from pytest_lmstudio.client.lm import LM
from pytest_lmstudio.clock import Clock
from pytest_lmstudio.engine.retry import STRATEGIES
from pytest_lmstudio.errors import ErrorKind, LMError
from pytest_lmstudio.home import Place, new_run_id
from pytest_lmstudio.record.events import LOG, EventWriter, iso_of, read_events
from pytest_lmstudio.record.rebuild import rebuild
from pytest_lmstudio.record.stats import tally
from pytest_lmstudio.report.json import write_report
from pytest_lmstudio.runtime import Identity, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_lmstudio.cli.prompts import Prompt
    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.records import Call

#: pytest's exit statuses, which a report has.
_OK, _FAILED, _INTERRUPTED = 0, 1, 2
#: After one of these, or without an attempt, the next call can only end alike.
_HOPELESS = frozenset({
    ErrorKind.AUTH, ErrorKind.UNREACHABLE, ErrorKind.WRONG_URL, ErrorKind.NO_MODEL, ErrorKind.OUT_OF_MEMORY,
})  # fmt: skip


class Round(NamedTuple):
    """A run.

    Attributes:
        run_id: its id.
        folder: where it is written.
        report: its report.
        made: generations that ended.
        wanted: those that were to be made.
        interrupted: whether Ctrl-C ended it.
    """

    run_id: str
    folder: Path
    report: dict[str, Any]
    made: int
    wanted: int
    interrupted: bool


class Rounds:
    """Makes runs.

    Args:
        target: what to ask, and how.
        prompts: what to say, one after the other.
        tell: called after each generation with its number, from 1, and with what came of it.
    """

    def __init__(self, target: Target, prompts: Sequence[Prompt], tell: Callable[[int, Call], object]) -> None:
        self._target = target
        self._prompts = prompts
        self._tell = tell
        self._made = 0

    def run(self) -> Round:
        """Make one run; Ctrl-C ends it as it ends a run of pytest, so that what was made is there and whole.

        Raises:
            Failure: nothing can be written.
            KeyboardInterrupt: there is nothing to write, or it came twice.
        """
        settings, clock, run_id = self._target.settings, Clock.set_now(), new_run_id()
        started_s = clock.now_s()
        version = str(pytest_lmstudio.__version__)
        identity = Identity(run_id, "main", 0, None, version, clock, iso_of(started_s))
        strategy = STRATEGIES.get(settings.retry_strategy, STRATEGIES["exponential"])
        fixed, token = self._target.fixed_model, self._target.token
        runtime = Runtime(settings, identity, token=token, strategy=strategy, fixed_model=fixed)
        interrupted, failed, problems = True, False, list[str]()
        stop: KeyboardInterrupt | None = None
        try:
            if (problem := runtime.problem) is not None:
                raise Failure(str(problem))
            failed = self._ask(runtime)
            interrupted = False
        except KeyboardInterrupt as error:
            stop = error
        finally:
            problems += runtime.close(interrupted=interrupted)
            status = _INTERRUPTED if interrupted else _FAILED if failed else _OK
            done = _Done(run_id, status, clock.now_s() - started_s, tuple(problems))
            round_ = _written(self._target, done, clock)
        if round_ is None:
            raise stop or Failure("the run left no log")
        return Round(done.run_id, *round_, self._made, len(self._prompts), interrupted)

    def _ask(self, runtime: Runtime) -> bool:
        """Make the calls; tell whether one failed."""
        failed = False
        for number, prompt in enumerate(self._prompts, 1):
            scope = Scope(f"verify[{number}]")
            ask = LM(Caller(runtime, lambda scope=scope: scope, {}))
            try:
                ask(prompt.text, max_tokens=prompt.max_tokens, temperature=0)
            except LMError as error:
                failed = True
                if not scope.calls:
                    raise
                self._ended(number, scope.calls[-1])
                if error.kind in _HOPELESS or not error.attempts:
                    break
            else:
                self._ended(number, scope.calls[-1])
        return failed

    def _ended(self, number: int, call: Call) -> None:
        self._made = number
        self._tell(number, call)


class _Done(NamedTuple):
    run_id: str
    status: int
    duration_s: float
    problems: tuple[str, ...]


def _written(target: Target, done: _Done, clock: Clock) -> tuple[Path, dict[str, Any]] | None:
    """Write the end of a run into its log, and its report of that log; return folder and report, None without a log."""
    place = Place(target.settings.dir, done.run_id)
    problems = [*done.problems, *place.settle(lambda: None)]
    log = place.folder / LOG
    if not log.exists():
        return None
    common = {"run_id": done.run_id, "worker": "main", "pipeline_version": target.settings.pipeline_version}
    with EventWriter(log, common, now_s=clock.now_s, spare=place.make_spare) as events:
        events.write(
            "run_end",
            exit_status=done.status,
            duration_s=round(done.duration_s, 3),
            tests=tally({}),
            cache_entries=None,
            interrupted=done.status == _INTERRUPTED,
            problems=problems,
        )
    place.settle(lambda: None)
    report = rebuild(read_events(place.folder / LOG), run_id=done.run_id)
    try:
        write_report(report, place.folder / "report.json")
    except OSError as error:
        msg = f"{place.folder / 'report.json'} cannot be written: {error.strerror or error}"
        raise Failure(msg) from None
    return place.folder, report
