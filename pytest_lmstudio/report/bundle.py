"""escalation.zip: what somebody who was not there needs to look into a run."""

from __future__ import annotations

import io
import json
import math
import platform
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.events import read_events
from pytest_lmstudio.record.history import calls_of
from pytest_lmstudio.record.stats import percentile
from pytest_lmstudio.report.bundle_readme import readme
from pytest_lmstudio.report.files import plain, write_whole
from pytest_lmstudio.report.json import report_text
from pytest_lmstudio.report.masking import is_secret, masked, masked_data, secrets_of
from pytest_lmstudio.text import MASK, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import CallFacts

BUNDLE_NAME = "escalation.zip"

_PREFIXES = ("LLM_", "LM_", "LMSTUDIO_", "LMS_", "EVAL_", "PYTEST_", "LLAMA_", "GGML_", "CUDA_", "OMP_")
_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "CI"})
_PACKAGES = ("pytest-lmstudio", "pytest", "pytest-xdist", "httpx", "filelock", "diskcache")
_LENGTH_BOUNDS = (200, 1_000, 4_000, 16_000, 64_000)
#: Of more failures, so many of the first and of the last are kept.
_MOST_FAILURES = 1000
_MOST_LOG_CHARS = 2**20
#: The same in every archive, so that the same run gives the same bytes; no archive can hold an earlier date.
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100600 << 16


def write_bundle(
    run_dir: str | Path, report: Mapping[str, Any], environ: Mapping[str, str], log_tail: str | None = None
) -> Path:
    """Write ``escalation.zip`` into a run's folder and return its path.

    It holds no prompt and no answer of its own (a server's log may), no value of a variable that is named like a
    secret, and nothing that looks like one. The same run gives the same bytes on the same machine.

    Args:
        run_dir: the run's folder, with its ``events.jsonl``.
        report: the run's report.
        environ: the environment, of which only variables that matter are kept.
        log_tail: the end of the server's log, None when it is not on this machine.

    Raises:
        OSError: it cannot be written.
    """
    events = read_events(Path(run_dir) / "events.jsonl").events
    secrets = secrets_of(environ)
    safe = masked_data(dict(report), secrets)
    failures = [masked_data(event, secrets) for event in _failures(events)]
    members = {
        "README.txt": readme(safe, _nodeids(failures), with_log=log_tail is not None),
        "report.json": report_text(safe),
        "failures.jsonl": _lines(json.dumps(plain(one), ensure_ascii=False, allow_nan=False) for one in failures),
        "environment.txt": _lines(masked(line, secrets) for line in _environment(environ)),
        "prompts.txt": _lines(_prompts(calls_of(events))),
    }
    if log_tail is not None:
        tail = masked(log_tail[-_MOST_LOG_CHARS:], secrets)
        members["server-log-tail.txt"] = _lines(map(printable, tail.splitlines()))
    return write_whole(Path(run_dir) / BUNDLE_NAME, [_zipped(members)])


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _zipped(members: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, _MODE
            archive.writestr(member, text.encode("utf-8", "backslashreplace"))
    return buffer.getvalue()


def _failures(events: Sequence[Event]) -> list[Event]:
    found = [event for event in events if event["event"] == "gen_error"]
    left_out = len(found) - 2 * _MOST_FAILURES
    if left_out <= 0:
        return found
    return [*found[:_MOST_FAILURES], {"event": "left_out", "failures": left_out}, *found[-_MOST_FAILURES:]]


def _nodeids(failures: Iterable[Event]) -> list[str]:
    """Return the tests whose calls failed, in the order in which they first did."""
    return list(dict.fromkeys(str(one["nodeid"]) for one in failures if one.get("nodeid")))


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
        yield f"{name}={MASK if is_secret(name) and environ[name] else printable(environ[name])}"


def _matters(name: str) -> bool:
    return name.upper().startswith(_PREFIXES) or name.upper() in _NAMES


def _prompts(calls: tuple[CallFacts, ...]) -> Iterator[str]:
    """Yield statistics of prompt lengths, for all calls and for those that failed, by length."""
    known = [(call.prompt_chars, call.outcome == "failed") for call in calls if call.prompt_chars is not None]
    for title, lengths in (("all", [n for n, _ in known]), ("failed", [n for n, failed in known if failed])):
        middle, high = percentile(lengths, 50), percentile(lengths, 95)
        numbers = f"p50 {middle:.0f}, p95 {high:.0f}, max {max(lengths)}" if middle is not None else "none"
        yield f"{title}: {len(lengths)} prompts; characters: {numbers}"
    yield ""
    for shortest, beyond in pairwise((0, *_LENGTH_BOUNDS, math.inf)):
        inside = [failed for chars, failed in known if shortest <= chars < beyond]
        size = f"{shortest} to {beyond - 1}" if math.isfinite(beyond) else f"{shortest} or more"
        yield f"{size} characters: {len(inside)} calls, {sum(inside)} failed"
