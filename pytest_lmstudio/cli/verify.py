"""``pytest-lmstudio verify``: is a short timeout the cause of failures? Two runs tell."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.cli import screen, target
from pytest_lmstudio.report.figures import counted, duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from pytest_lmstudio.cli.advice import Setting
    from pytest_lmstudio.cli.conclusion import Conclusion
    from pytest_lmstudio.cli.prompts import Prompt
    from pytest_lmstudio.cli.rounds import Round
    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.records import Call
    from pytest_lmstudio.report.terminal import Line

HELP = "find out whether a short timeout is the cause of failures"
DESCRIPTION = """\
Makes ten generations; if any fails, makes them again with more time and more
retries, and compares."""
EXAMPLES = """\
examples:
  pytest-lmstudio verify                            ten prompts, built in
  pytest-lmstudio verify -n 30 --timeout 20         more, and the first timeout
  pytest-lmstudio verify --prompts prompts.txt      prompts of your own
  pytest-lmstudio verify --both --json              two runs; for a program

Prompts are asked one after the other; a file of them holds one a line. Both
runs are written into .lmstudio/runs, and `pytest-lmstudio report` shows them.
The cache is neither read nor written. Ctrl-C ends it; what was made is kept.

"""
STATUSES = {
    0: "nothing failed, or the second settings cure it",
    1: "generations fail, and more time does not cure it",
}
#: The second settings are at least these.
LEAST_TIMEOUT_S, LEAST_RETRIES = 90.0, 5
_COUNT = 10
_LABEL, _COLUMN = 14, 28
_NAMES = ("first run", "second run")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    target.arguments(parser)
    parser.add_argument(
        "-n", "--count", metavar="N", type=target.count, help="generations; 10, or as many as --prompts has"
    )
    parser.add_argument("--prompts", metavar="FILE", type=screen.filled, help="prompts of your own, one a line")
    parser.add_argument("--both", action="store_true", help="make the second run even if the first had no failure")
    parser.add_argument("--json", action="store_true", help="print the conclusion as JSON, in ASCII")


def run(chosen: argparse.Namespace) -> int:
    """Make the runs, compare them and conclude; return 0 when all is well or cured, else 1."""
    from pytest_lmstudio.cli.conclusion import conclude
    from pytest_lmstudio.cli.prompts import chosen as chosen_prompts

    prompts = chosen_prompts(chosen.prompts, chosen.count)
    with target.opened(target.settings_from(chosen)) as asked:
        rounds = _ended([_round(_first(asked), prompts, _NAMES[0])])
        if _is_worth_another(rounds[0], both=chosen.both):
            rounds = _ended([*rounds, _round(_second(asked), prompts, _NAMES[1])])
    reports = [round_.report for round_ in rounds]
    conclusion = conclude(reports[0], reports[1] if reports[1:] else None)
    to_set = _to_set(asked, conclusion)
    if chosen.json:
        screen.say(json.dumps(_as_dict(conclusion, rounds, to_set), ensure_ascii=True, indent=2) + "\n")
    else:
        screen.show(_lines(conclusion, rounds, to_set))
    return int(not conclusion.cured)


def _first(asked: Target) -> Target:
    """Return the target with the settings of the first run: one call after the other, none of them from the cache."""
    timeout_s = asked.timeout_s
    return asked._replace(settings=asked.settings._replace(cache="off", concurrency=1, breaker=None, timeout=timeout_s))


def _second(asked: Target) -> Target:
    """Return the target with more time and more retries."""
    settings = _first(asked).settings
    first_token_s = settings.first_token_timeout
    return asked._replace(
        settings=settings._replace(
            timeout=max(LEAST_TIMEOUT_S, 2 * asked.timeout_s),
            first_token_timeout=first_token_s and 2 * first_token_s,
            retries=max(LEAST_RETRIES, settings.retries),
        )
    )


def _is_worth_another(first: Round, *, both: bool) -> bool:
    """Tell whether a second run can tell anything: not when nothing failed, and not when no call came through."""
    from pytest_lmstudio.cli.conclusion import is_mute

    return both if not first.report["errors_by_kind"] else not is_mute(first.report)


def _ended(rounds: list[Round]) -> list[Round]:
    """Return the runs, whose last one came to its end.

    Raises:
        KeyboardInterrupt: it was interrupted; with what is left of the runs.
    """
    last = rounds[-1]
    if not last.interrupted:
        return rounds
    made = f"{last.made} of {counted(last.wanted, 'generation')}"
    shown = " ".join(shlex.quote(_relative(round_.folder)) for round_ in rounds)
    them = "them" if len(rounds) > 1 else "it"
    msg = f"after {made} of the {_NAMES[len(rounds) - 1]}; `pytest-lmstudio report {shown}` shows {them}"
    raise KeyboardInterrupt(msg)


def _round(asked: Target, prompts: Sequence[Prompt], name: str) -> Round:
    from pytest_lmstudio.cli.rounds import Rounds

    generations, attempts = counted(len(prompts), "generation"), counted(asked.settings.retries + 1, "attempt")
    limit = f"up to {attempts} of {asked.timeout_s:g} s each"
    screen.complain(f"{name}: {generations} at {asked.settings.url}, one at a time, {limit}")
    made = Rounds(asked, prompts, _teller(name, len(prompts))).run()
    if made.folder.name != made.run_id:
        screen.complain(f"{asked.settings.dir} cannot be written to: the run is in {_relative(made.folder)}")
    return made


def _teller(name: str, total: int) -> Callable[[int, Call], None]:
    """Return what shows each generation as it ends."""

    def tell(number: int, call: Call) -> None:
        failed = [f"[{attempt.kind}]" for attempt in call.attempts if attempt.kind is not None]
        if call.error is not None and not failed:
            failed = [f"[{call.error.kind}]"]
        how = duration(call.reply.latency_ms) if call.reply else "lost"
        after = f" after {counted(len(failed), 'failure')}: {' '.join(failed)}" if failed else ""
        screen.note(f"{name}  {number:>{len(str(total))}}/{total}  {how}{after}")

    return tell


def _to_set(asked: Target, conclusion: Conclusion) -> list[Setting]:
    from pytest_lmstudio.cli.advice import Setting

    if not conclusion.cured or conclusion.cause == "none":
        return []
    settings = _second(asked).settings
    return [Setting("timeout", f"{settings.timeout:g}"), Setting("retries", str(settings.retries))]


def _lines(conclusion: Conclusion, rounds: Sequence[Round], to_set: Sequence[Setting]) -> Iterator[Line]:
    """Yield what is shown: the verdict first, then the numbers, then what to do."""
    from pytest_lmstudio.cli.advice import lines
    from pytest_lmstudio.cli.findings import wrapped
    from pytest_lmstudio.report.terminal import Line

    yield screen.title("pytest-lmstudio verify")
    colour = {"green" if conclusion.cured else "red": True, "bold": True}
    yield from (Line(line, colour) for line in wrapped(conclusion.text, screen.width()))
    for number, line in enumerate(wrapped(conclusion.advice, screen.width() - 3) if conclusion.advice else []):
        yield Line(f"{'   ' if number else '-> '}{line}")
    yield Line("")
    for label, *cells in _table(rounds):
        yield Line(f"{label:<{_LABEL}}{''.join(f'{cell:<{_COLUMN}}' for cell in cells)}".rstrip())
    yield from map(Line, lines(to_set))


def _table(rounds: Sequence[Round]) -> Iterator[list[str]]:
    reports = [round_.report for round_ in rounds]
    yield ["", *_NAMES[: len(rounds)]]
    yield ["timeout", *(f"{report['settings']['timeout']:g} s" for report in reports)]
    yield ["retries", *(str(report["settings"]["retries"]) for report in reports)]
    yield ["lost", *(f"{report['calls']['failed']} of {report['calls']['sent']}" for report in reports)]
    attempts = [report["attempts"] for report in reports]
    yield ["attempts", *(f"{made['failed']} of {made['total']} failed" if made["total"] else "0" for made in attempts)]
    yield ["disconnects", *(str(report["attempts"]["disconnects"]) for report in reports)]
    for kind in dict.fromkeys(kind for report in reports for kind in report["errors_by_kind"]):
        yield [f"  {kind}", *(str(report["errors_by_kind"].get(kind, 0)) for report in reports)]
    for name in ("p50", "p95", "max"):
        yield [f"latency {name}", *(duration(report["latency_ms"][name]) for report in reports)]
    yield ["run", *(round_.run_id for round_ in rounds)]


def _as_dict(conclusion: Conclusion, rounds: Sequence[Round], to_set: Sequence[Setting]) -> dict[str, Any]:
    return {
        "cause": conclusion.cause,
        "cured": conclusion.cured,
        "text": conclusion.text,
        "advice": conclusion.advice or None,
        "settings": {setting.flag.env: setting.in_environment for setting in to_set},
        "runs": [_run_dict(round_) for round_ in rounds],
    }


def _run_dict(round_: Round) -> dict[str, Any]:
    report = round_.report
    return {
        "run_id": round_.run_id,
        "folder": _relative(round_.folder),
        "timeout_s": report["settings"]["timeout"],
        "retries": report["settings"]["retries"],
        **{name: report[name] for name in ("calls", "attempts", "rates", "latency_ms", "errors_by_kind")},
    }


def _relative(folder: Path) -> str:
    return os.path.relpath(folder, Path.cwd())
