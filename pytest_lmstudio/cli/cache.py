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

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.engine.upkeep import Row

HELP = "count, export, import, thin out or empty the cache of answers"
DESCRIPTION = "Looks after the cache of answers; runs may use it meanwhile."
EXAMPLES = """\
examples:
  pytest-lmstudio cache stats                        how many entries, of which models and versions
  pytest-lmstudio cache export answers.jsonl         all answers as lines of text, to be committed
  pytest-lmstudio cache import answers.jsonl         the same answers where there is no model server
  pytest-lmstudio cache prune --keep-version v2      without the answers of other pipeline versions
  pytest-lmstudio cache clear --yes                  without any answer

"""


class _Action(NamedTuple):
    """One thing that can be done with the cache."""

    help: str
    examples: str
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
            epilog=action.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # Behind the action too; where it is not, what was said before the action stands.
        one.add_argument(
            "--dir", metavar="PATH", default=argparse.SUPPRESS, help="folder of the cache, as pytest had it"
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
    from pytest_lmstudio.engine.upkeep import look_over, newest_run, rows

    found = rows(home.cache) if look_over(home.cache) else ()
    told = cache_stats.stats(found, newest_run(home.cache), home.models())
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
        sys.stdout.write(f"{deleted} of {len(found)} entries {'would go' if chosen.dry_run else 'are deleted'}\n")
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
    if not chosen.yes and not _is_sure(f"delete all {count} entries of {home.cache}?"):
        sys.stdout.write("nothing is deleted\n")
        return 0
    clear(home.cache)
    sys.stdout.write(f"{count} entries are deleted\n")
    return 0


def _is_sure(question: str) -> bool:
    if not sys.stdin.isatty():
        msg = "nobody can be asked here whether all entries may go: --yes says so"
        raise Failure(msg)
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _count(option: str, text: str) -> int:
    try:
        return values.positive(text)
    except ValueError as error:
        msg = f"{option} {values.quoted(text)}: {error}"
        raise Failure(msg) from None


def _print_json(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told, ensure_ascii=True, indent=2) + "\n")


_ACTIONS = {
    "stats": _Action(
        "count the answers, by model, pipeline version and last use",
        "example:\n  pytest-lmstudio cache stats --json | jq .by_model\n",
        _stats_arguments,
        _stats,
    ),
    "export": _Action(
        "write the answers to a file of JSON lines, which can be committed",
        "examples:\n"
        "  pytest-lmstudio cache export tests/answers.jsonl --last-run    what the newest run used\n"
        "  pytest-lmstudio cache export - --model qwen                    those of a model, to standard output\n\n"
        "Lines come in an order of their own, and hold no absolute times. Prompts and answers are in them.\n",
        exchange.export_arguments,
        exchange.export,
    ),
    "import": _Action(
        "take the answers of a file that `cache export` wrote",
        "examples:\n"
        "  pytest-lmstudio cache import tests/answers.jsonl\n"
        "  pytest-lmstudio cache import tests/answers.jsonl --strict --size 2000\n\n"
        "Each line is checked: a bad one is told with its number and left out, and the status is 2. An answer that is\n"
        "there already stays, and nothing goes to make room.\n",
        exchange.import_arguments,
        exchange.import_,
    ),
    "prune": _Action(
        "delete the answers to which all that is said applies",
        "examples:\n"
        "  pytest-lmstudio cache prune --keep-version v2 --dry-run    how many are of other versions than v2\n"
        "  pytest-lmstudio cache prune --unused-runs 5 --model qwen   those of qwen that 5 runs did not use\n",
        _prune_arguments,
        _prune,
    ),
    "clear": _Action(
        "delete all answers",
        "example:\n  pytest-lmstudio cache clear --yes\n\nOn a terminal it asks first; elsewhere it takes --yes.\n",
        _clear_arguments,
        _clear,
    ),
}
