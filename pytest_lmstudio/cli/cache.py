"""``pytest-lmstudio cache``: the cache of answers counted, exported, imported, thinned out and emptied."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_lmstudio import values
from pytest_lmstudio.cli import cache_stats, exchange, runs, screen
from pytest_lmstudio.cli.screen import Failure
from pytest_lmstudio.home import Home
from pytest_lmstudio.report.figures import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.upkeep import Row

HELP = "count, export, import, thin out or empty the cache of answers"
DESCRIPTION = "Looks after the cache of answers; runs may use it meanwhile."
EXAMPLES = """\
examples:
  pytest-lmstudio cache stats                       how many answers, of what
  pytest-lmstudio cache export answers.jsonl        all of them, to commit
  pytest-lmstudio cache import answers.jsonl        the same where no server is
  pytest-lmstudio cache prune --keep-version v2     not those of other versions
  pytest-lmstudio cache clear --yes                 without any answer

Where there is no cache, `import` makes one; the others say so, with status 2.

"""
STATUSES = {0: "done"}
_NO_CACHE = "wrong use, no cache there, or something could not be read or written"


class _Action(NamedTuple):
    """One thing that can be done with the cache."""

    help: str
    examples: str
    statuses: dict[int, str]
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Home], int]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    for name, action in _ACTIONS.items():
        one = actions.add_parser(
            name,
            help=action.help,
            description=f"{action.help[0].upper()}{action.help[1:]}.",
            epilog=f"{action.examples}\n{screen.statuses({**STATUSES, **action.statuses})}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # Behind the action too; where it is not, what was said before the action stands.
        one.add_argument(
            "--dir",
            metavar="PATH",
            type=screen.filled,
            default=argparse.SUPPRESS,
            help="folder of the cache, as pytest had it",
        )
        action.arguments(one)


def run(chosen: argparse.Namespace) -> int:
    """Do what was asked; return the exit status."""
    from pytest_lmstudio.engine.upkeep import CacheError

    try:
        return _ACTIONS[chosen.action].run(chosen, Home(str(runs.home_of(chosen.dir))))
    except CacheError as error:
        raise Failure(str(error)) from None


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON; sizes are bytes")


def _stats(chosen: argparse.Namespace, home: Home) -> int:
    from pytest_lmstudio.engine.upkeep import newest_run

    told = cache_stats.stats(exchange.existing(home), newest_run(home.cache), home.models())
    if chosen.json:
        _print_json({"folder": str(home.cache), **told})
    else:
        screen.show([screen.title("LM Studio cache"), *cache_stats.lines(home.cache, told)])
    return 0


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-version", metavar="V", action="append", help="of other pipeline versions than this; may be repeated"
    )
    parser.add_argument("--unused-runs", metavar="N", help="that none of the newest N runs used")
    parser.add_argument("--model", metavar="ID", help="of this model")
    parser.add_argument("--dry-run", action="store_true", help="only say how many there are")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _prune(chosen: argparse.Namespace, home: Home) -> int:
    from pytest_lmstudio.engine.upkeep import delete, newest_run

    if not (chosen.keep_version or chosen.unused_runs or chosen.model):
        msg = "say what may go: --keep-version, --unused-runs or --model; `cache clear` deletes all"
        raise Failure(msg)
    unused = _count("--unused-runs", chosen.unused_runs) if chosen.unused_runs else None
    newest, found = newest_run(home.cache), list(exchange.existing(home))
    goes = [row.key for row in found if _may_go(row, chosen, None if unused is None else newest - unused)]
    deleted = len(goes) if chosen.dry_run else delete(home.cache, goes)
    if chosen.json:
        _print_json({"entries": len(found), "deleted": deleted, "dry_run": chosen.dry_run})
    else:
        of = f"{deleted:,} of {counted(len(found), 'entry', 'entries')}"
        screen.say(f"{of} {'would go' if chosen.dry_run else f'{exchange.are(deleted)} deleted'}\n")
    return 0


def _may_go(row: Row, chosen: argparse.Namespace, last_use: int | None) -> bool:
    """Tell whether everything that was said of the entries to delete is so of one."""
    return (
        (not chosen.keep_version or exchange.asked(row, "pipeline_version") not in chosen.keep_version)
        and (chosen.model is None or exchange.model(row) == chosen.model)
        and (last_use is None or (row.run or 0) <= last_use)
    )


def _clear_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _clear(chosen: argparse.Namespace, home: Home) -> int:
    from pytest_lmstudio.engine.upkeep import clear

    count = sum(1 for _ in exchange.existing(home))
    entries = counted(count, "entry", "entries")
    if not chosen.yes and not _is_sure(f"delete {entries}, all of {home.cache}?"):
        screen.say("nothing is deleted\n")
        return 0
    clear(home.cache)
    screen.say(f"{entries} {exchange.are(count)} deleted\n")
    return 0


def _is_sure(question: str) -> bool:
    if not sys.stdin.isatty():
        msg = "nobody can be asked here whether all entries may go: --yes says so"
        raise Failure(msg)
    screen.say(f"{question} [y/N] ")
    screen.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _count(option: str, text: str) -> int:
    try:
        return values.positive(text)
    except ValueError as error:
        msg = f"{option} {values.quoted(text)}: {error}"
        raise Failure(msg) from None


def _print_json(told: dict[str, Any]) -> None:
    screen.say(json.dumps(told, ensure_ascii=True, indent=2) + "\n")


_ACTIONS = {
    "stats": _Action(
        "count the answers, by model, pipeline version and last use",
        "example:\n  pytest-lmstudio cache stats --json | jq .by_model\n",
        {2: _NO_CACHE},
        _stats_arguments,
        _stats,
    ),
    "export": _Action(
        "write the answers to a file of JSON lines, which can be committed",
        "examples:\n"
        "  pytest-lmstudio cache export tests/answers.jsonl --last-run\n"
        "  pytest-lmstudio cache export - --model qwen           to standard output\n\n"
        "Lines come in an order of their own, and hold no absolute times. Prompts and\n"
        "answers are in them.\n",
        {2: "wrong use, no such answer there, some were left out, or something could not be read or written"},
        exchange.export_arguments,
        exchange.export,
    ),
    "import": _Action(
        "take the answers of a file that `cache export` wrote",
        "examples:\n"
        "  pytest-lmstudio cache import tests/answers.jsonl\n"
        "  pytest-lmstudio cache import tests/answers.jsonl --strict --size 2000\n\n"
        "Each line is checked: a bad one is told with its number and left out. An answer\n"
        "that is there already stays, and nothing goes to make room.\n",
        {2: "wrong use, some answers are bad or do not fit, or something could not be read or written"},
        exchange.import_arguments,
        exchange.import_,
    ),
    "prune": _Action(
        "delete the answers to which all that is said applies",
        "examples:\n"
        "  pytest-lmstudio cache prune --keep-version v2 --dry-run    only count\n"
        "  pytest-lmstudio cache prune --unused-runs 5 --model qwen   both must be so\n",
        {2: _NO_CACHE},
        _prune_arguments,
        _prune,
    ),
    "clear": _Action(
        "delete all answers",
        "example:\n  pytest-lmstudio cache clear --yes\n\nOn a terminal it asks first; elsewhere it takes --yes.\n",
        {2: _NO_CACHE},
        _clear_arguments,
        _clear,
    ),
}
