"""The reference in docs/settings.md, made from the table of settings: ``python -m tests.settings_page`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio import values
from pytest_lmstudio.keywords import MARK_KEYWORDS, TRANSPORT
from pytest_lmstudio.names import FLAGS, TOKEN_VARIABLES
from pytest_lmstudio.settings import Settings
from pytest_lmstudio.values import PARSERS, RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lmstudio.names import Flag

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_INTRO = """\
# Every setting

A setting has one name on the command line, one in the environment and one in the ini file (`pytest.ini`, `tox.ini`,
`pyproject.toml` and so on). Command line beats environment, environment beats ini, ini beats recipe; a mark on a test
beats all of them, and a keyword of a call beats the mark. An empty variable counts as unset. A wrong value is one line
that names it and where it came from, and exit status 4. The header of a run shows what differs from the defaults.

This page is made from the plugin's own table, by `python -m tests.settings_page`.
"""
#: Texts that no setting takes both of.
_WRONG = ("\x00", "")
#: Defaults that depend on something.
_DEFAULTS = {
    "model": "the one that is loaded",
    "pipeline_version": "empty, which the report points out",
    "dir": "`.lmstudio` under pytest's rootdir",
    "report": "none; the run's folder has one in any case",
}
_MORE = {
    "url": "With or without `/v1` at the end. A password in it is refused: the token has a place of its own.",
    "timeout": "From sending to the last byte, however slowly bytes come. Waiting for a place in the limit does not "
    "count. `auto` follows each model's latencies: three times their p99, from 10 s to 300 s.",
    "concurrency": "Given by yourself, and not by a recipe, it also starts as many xdist workers, unless you choose "
    "their number (`-n0` for none).",
    "latency_threshold": "Above it the limit is halved; below it, it grows by one at a time, up to the setting above.",
    "breaker": "After so many network errors in a row nothing is sent for so many seconds; then one request tries.",
    "cache": "`refresh` asks again and stores; `offline` sends nothing, and a miss is an error.",
    "max_error_rate": "The run fails above it. It holds for calls and for tests that ask a model.",
    "stream": "What `lm(...)` returns is the same. Streaming measures the first token, and frees the server at once "
    "when a call is given up.",
    "order": "See [concepts.md](concepts.md#affinity).",
    "wait": "Only the first request of a run waits.",
    "dir": "Made with a `.gitignore` of its own, and readable by you alone.",
    "html_texts": "Without it no prompt and no answer is in any file but the cache.",
    "metrics_port": "0 takes any port that is free, and says which. Needs `pytest-lmstudio[metrics]`; see "
    "[metrics.md](metrics.md).",
    "metrics_file": "Needs `pytest-lmstudio[metrics]`; see [metrics.md](metrics.md).",
}


def page() -> str:
    """Return the page."""
    parts = [_INTRO, *map(_section, FLAGS), *_rest()]
    return "\n".join(parts)


def _section(flag: Flag) -> str:
    option = f"`{flag.option} {flag.metavar}`" if flag.metavar else f"`{flag.option}`, `{flag.negated}`"
    rows = [
        ("command line", option),
        ("environment", _variable(flag)),
        ("ini", f"`{flag.ini}`"),
        ("takes", _expected(PARSERS[flag.name].text)),
        ("default", _default(flag)),
    ]
    if flag.name in MARK_KEYWORDS:
        kind = "mark and call" if flag.name in TRANSPORT else "mark"
        rows.append((kind, "`cache=True` or `cache=False`" if flag.name == "cache" else f"`{flag.name}=`"))
    lines = [f"## {flag.name}", "", f"{flag.help.replace('%%', '%')}. {_MORE.get(flag.name, '')}".rstrip(), ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows if text), ""]
    return "\n".join(lines)


def _variable(flag: Flag) -> str:
    parse = PARSERS[flag.name].env
    return f"`{flag.env}`" + (f": {_expected(parse)}" if parse else "")


def _expected(parse: Callable[[str], Any]) -> str:
    """Return what a parser takes, in the words of its error."""
    for wrong in _WRONG:
        try:
            parse(wrong)
        except ValueError as error:
            return str(error).removeprefix("expected ").replace("'", "`")
    msg = f"{parse} takes anything: say here what it is"
    raise AssertionError(msg)


def _default(flag: Flag) -> str:
    default = getattr(Settings(), flag.name)
    shown = values.shown(flag.name, default)
    return _DEFAULTS.get(flag.name) or ("none" if shown == "None" else f"`{shown}`")


def _rest() -> Iterator[str]:
    yield "## The token\n"
    names = " or ".join(f"`{name}`" for name in TOKEN_VARIABLES)
    yield f"The API token is read from {names}, from the environment alone. It is in no log, report or error message.\n"
    yield "## Recipes\n"
    yield "| recipe | sets |\n|---|---|"
    for name, sets in RECIPES.items():
        plain = dict(sets.get("params", ())) | {key: value for key, value in sets.items() if key != "params"}
        shown = [f"{key} {values.shown(key, value) if key != 'temperature' else value}" for key, value in plain.items()]
        yield f"| `{name}` | {', '.join(shown)} |"
    yield "\n## Marks\n"
    names = ", ".join(f"`{name}`" for name in MARK_KEYWORDS)
    yield f"`@pytest.mark.llm(...)` takes {names}; times are in seconds."
    yield "Marks of class, module and test add up, the closest wins.\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
