"""escalation.zip: what somebody who was not there needs to look into a run."""

from __future__ import annotations

import io
import json
import math
import platform
import re
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.events import read_events
from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.record.stats import percentile
from pytest_lmstudio.report.files import plain, write_whole
from pytest_lmstudio.report.json import report_text
from pytest_lmstudio.text import MASK, printable, redact, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import CallFacts

BUNDLE_NAME = "escalation.zip"

_PREFIXES = ("LLM_", "LM_", "LMSTUDIO_", "LMS_", "EVAL_", "PYTEST_")
_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "CI"})
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|PASSWD", re.IGNORECASE)
# What is shorter could as well be a word of the report.
_SHORTEST_SECRET = 6
_PACKAGES = ("pytest-lmstudio", "pytest", "pytest-xdist", "httpx", "filelock", "diskcache")
_LENGTH_BOUNDS = (200, 1_000, 4_000, 16_000, 64_000)

_LOG = "server-log-tail.txt  the end of the server's log; IT MAY HOLD PROMPTS AND ANSWERS: read it before you share it"
_NO_LOG = "(no server log: it was not found on the machine that ran the suite)"
_README = """\
A test suite asked a local language model server for answers, and too many of them did not come, or came in a
way that the suite's own settings cannot mend. This archive is what is known of it.

Run       {run_id}, started {started_at}, took {duration_s} s
Server    {url}, kind: {kind}, version: {version}
Models    {models}
Calls     {sent} sent to the server, {failed} of them got no answer
Gate      {gate}

Why it was made
{reasons}

What was seen, and what it most likely means
{findings}

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


def write_bundle(
    run_dir: str | Path, report: Mapping[str, Any], environ: Mapping[str, str], log_tail: str | None = None
) -> Path:
    """Write ``escalation.zip`` into a run's folder and return its path.

    It holds no prompt and no answer of its own (a server's log may), and no secret that the environment names as one.

    Args:
        run_dir: the run's folder, with its ``events.jsonl``.
        report: the run's report.
        environ: the environment, of which only variables that matter are kept.
        log_tail: the end of the server's log, None when it is not on this machine.

    Raises:
        OSError: it cannot be written.
    """
    events = read_events(Path(run_dir) / "events.jsonl").events
    secrets = tuple(value for name, value in environ.items() if _is_secret(name) and len(value) >= _SHORTEST_SECRET)
    safe = _redacted(dict(report), secrets)
    members = {
        "README.txt": _readme(safe, with_log=log_tail is not None),
        "report.json": report_text(safe),
        "failures.jsonl": "".join(_failures(events, secrets)),
        "environment.txt": _lines(_redacted(list(_environment(environ)), secrets)),
        "prompts.txt": _lines(_prompts(calls_of(events))),
    }
    if log_tail is not None:
        members["server-log-tail.txt"] = _lines(map(printable, _redacted(log_tail, secrets).splitlines()))
    return write_whole(Path(run_dir) / BUNDLE_NAME, [_zipped(members)])


def _redacted(value: Any, secrets: tuple[str, ...]) -> Any:
    """Return data without secrets; value by value, so that none can hit the names of fields."""
    if isinstance(value, str):
        return redact(without_userinfo(value), secrets)
    if isinstance(value, dict):
        return {key: _redacted(item, secrets) for key, item in value.items()}
    return [_redacted(item, secrets) for item in value] if isinstance(value, (list, tuple)) else value


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _zipped(members: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text.encode("utf-8", "backslashreplace"))
    return buffer.getvalue()


def _readme(report: Mapping[str, Any], *, with_log: bool) -> str:
    calls, server, gate = report["calls"], report["server"], report["gate"]
    verdict = {True: "failed", False: "passed", None: "was not judged"}[gate["failed"]]
    return _README.format(
        run_id=printable(report["run_id"]),
        started_at=printable(report["started_at"]),
        duration_s=report["duration_s"],
        url=printable(server["url"]),
        kind=printable(server["kind"] or "not known"),
        version=printable(server["version"] or "not told"),
        models=printable(", ".join(report["by_model"])),
        sent=calls["sent"],
        failed=calls["failed"],
        gate=f"{verdict}: {printable(gate['reason'])}",
        reasons="\n".join(f"- {printable(r)}" for r in report["escalation"]["reasons"]) or "- asked for by hand",
        findings="\n".join(map(_finding, report["diagnosis"])) or "nothing that the plugin knows",
        log=_LOG if with_log else _NO_LOG,
        but=" but the server's log" if with_log else "",
    )


def _finding(row: Mapping[str, str]) -> str:
    parts = ("symptom", "cause", "check", "fix", "evidence")
    symptom, cause, check, fix, evidence = (printable(row[part]) for part in parts)
    return f"- {symptom}\n  seen:  {evidence}\n  cause: {cause}\n  check: {check}\n  fix:   {fix}"


def _failures(events: list[Event], secrets: tuple[str, ...]) -> Iterator[str]:
    for event in events:
        if event["event"] == "gen_error":
            yield json.dumps(plain(_redacted(event, secrets)), ensure_ascii=False, allow_nan=False) + "\n"


def _environment(environ: Mapping[str, str]) -> Iterator[str]:
    yield f"Python {platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    yield f"System {platform.platform()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    yield ""
    for name in sorted(filter(_matters, environ)):
        yield f"{name}={MASK if _is_secret(name) and environ[name] else printable(environ[name])}"


def _is_secret(name: str) -> bool:
    return _matters(name) and _SECRET.search(name) is not None


def _matters(name: str) -> bool:
    return name.upper().startswith(_PREFIXES) or name.upper() in _NAMES


def _prompts(calls: tuple[CallFacts, ...]) -> Iterator[str]:
    """Yield statistics of prompt lengths, for all calls and for those that failed, by length."""
    known = [(call.prompt_chars, call.outcome == "failed") for call in calls if call.prompt_chars is not None]
    for title, lengths in (("all", [n for n, _ in known]), ("failed", [n for n, failed in known if failed])):
        middle, high = percentile(lengths, 50), percentile(lengths, 95)
        numbers = f"p50 {middle:.0f}, p95 {high:.0f}, max {max(lengths)}" if middle is not None and high else "none"
        yield f"{title}: {len(lengths)} prompts; characters: {numbers}"
    yield ""
    for shortest, beyond in pairwise((0, *_LENGTH_BOUNDS, math.inf)):
        inside = [failed for chars, failed in known if shortest <= chars < beyond]
        size = f"{shortest} to {beyond - 1}" if math.isfinite(beyond) else f"{shortest} or more"
        yield f"{size} characters: {len(inside)} calls, {sum(inside)} failed"
