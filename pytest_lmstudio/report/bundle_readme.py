"""The first file of a bundle: what happened, for somebody who was not there, and how to see it happen."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.settings import Settings
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SHOWN_TESTS = 10
#: Settings that say where this machine keeps things, or are part of another one.
_NOT_TYPED = frozenset({"url", "dir", "report", "html", "params", "recipe"})
_DEFAULTS = Settings().as_dict()

_LOG = "server-log-tail.txt  the end of the server's log; IT MAY HOLD PROMPTS AND ANSWERS: read it before you share it"
_NO_LOG = "(no server log: it was not found on the machine that ran the suite)"
_README = """\
A test suite asked a local language model server for answers, and too many of them did not come, or came in a
way that the suite's own settings cannot mend. This archive is what is known of it.

Run       {run_id}, started {started_at}, took {duration_s} s, plugin {plugin_version}
Server    {url}, kind: {kind}, version: {version}
Models    {models}
Calls     {sent} sent to the server, {failed} of them got no answer
Errors    {errors}
Gate      {gate}

Why it was made
{reasons}

What was seen, and what it most likely means
{findings}

How to see it again
The server alone, with a tiny prompt; it must answer within seconds:
  {curl}
The tests that lost calls, in the repository they come from:
  {pytest}
{tests}

The files
report.json          every number and verdict of the run; times in ms where the name says so
failures.jsonl       every failed attempt, one JSON object a line; phase: connecting (not sent), waiting (sent, no
                     byte of the answer yet), receiving (broke off); attempt 0: failed without being sent
environment.txt      versions, and the environment variables that matter, secrets masked
prompts.txt          how long the prompts were, in characters, and how many of each length failed
{log}

Prompts and answers are in no file{but}. Names of tests are.
Where to look first: the server's log at the times ("ts", UTC) in failures.jsonl.
"""


def readme(report: Mapping[str, Any], nodeids: Sequence[str], *, with_log: bool) -> str:
    """Return the text.

    Args:
        report: the report, without secrets.
        nodeids: the tests that lost calls.
        with_log: whether the end of the server's log is in the bundle.
    """
    calls, server, gate = report["calls"], report["server"], report["gate"]
    verdict = {True: "failed", False: "passed", None: "was not judged"}[gate["failed"]]
    errors = ", ".join(f"{printable(kind)} {count}" for kind, count in report["errors_by_kind"].items())
    return _README.format(
        run_id=printable(report["run_id"]),
        started_at=printable(report["started_at"]),
        duration_s=report["duration_s"],
        plugin_version=printable(report["plugin_version"]),
        url=printable(server["url"]),
        kind=printable(server["kind"] or "not known"),
        version=printable(server["version"] or "not told"),
        models=printable(", ".join(report["by_model"])) or "none",
        sent=calls["sent"],
        failed=calls["failed"],
        errors=errors or "none",
        gate=f"{verdict}: {printable(gate['reason'])}",
        reasons="\n".join(f"- {printable(r)}" for r in report["escalation"]["reasons"]) or "- asked for by hand",
        findings="\n".join(map(_finding, report["diagnosis"])) or "nothing that the plugin knows",
        curl=_curl(report),
        pytest=_command(report),
        tests="\n".join(_tests(nodeids)),
        log=_LOG if with_log else _NO_LOG,
        but=" but the server's log" if with_log else "",
    )


def _finding(row: Mapping[str, str]) -> str:
    parts = ("symptom", "cause", "check", "fix", "evidence")
    symptom, cause, check, fix, evidence = (printable(row[part]) for part in parts)
    return f"- {symptom}\n  seen:  {evidence}\n  cause: {cause}\n  check: {check}\n  fix:   {fix}"


def _curl(report: Mapping[str, Any]) -> str:
    """Return a request that any shell can send, to the model that was asked most."""
    asked = sorted(report["by_model"].items(), key=lambda item: -item[1]["calls"])
    body = {
        "model": asked[0][0] if asked else "MODEL",
        "messages": [{"role": "user", "content": "Say OK."}],
        "max_tokens": 8,
    }
    url = shlex.quote(printable(f"{report['server']['url']}/v1/chat/completions"))
    return f"curl -sS -m 60 {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def _command(report: Mapping[str, Any]) -> str:
    """Return the command line with the run's settings, as far as they are not the defaults."""
    own = (report["server"].get("log") or {}).get("source") == "embedded"
    url = "embedded" if own else report["server"]["url"]
    options = [f"--lmstudio-url={url}", *_options(report["settings"])]
    return " ".join(["python -m pytest --lf", *(shlex.quote(printable(option)) for option in options)])


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if name in _NOT_TYPED or value == _DEFAULTS.get(name, value):
            continue
        option = f"lmstudio-{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            shown = f"{value:g}" if isinstance(value, float) else value
            yield f"--{option}={'off' if value is None else shown}"


def _tests(nodeids: Sequence[str]) -> Iterator[str]:
    for nodeid in nodeids[:_SHOWN_TESTS]:
        yield f"  - {printable(nodeid, 500)}"
    if len(nodeids) > _SHOWN_TESTS:
        yield f"  - and {len(nodeids) - _SHOWN_TESTS} more, see failures.jsonl"
