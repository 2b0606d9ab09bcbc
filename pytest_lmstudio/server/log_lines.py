"""What lines of a server's log tell: counts of known phrases and their times, never a word of what was asked.

The log is untrusted, and may hold prompts and answers: a phrase counts only where the server itself puts it, at the
beginning of a message, or in a message that is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: More of a message, a prompt in most cases, is not looked at.
_MESSAGE_CHARS = 4000
_MOST_TIMES = 500
_MOST_CODES = 5
#: The log's clock has whole seconds.
_SAME_MOMENT_S = 2.0

# LM Studio 0.2 and 0.4 write ``[2026-02-07 20:15:37][INFO][tag] message``, 0.3 ``2026-02-07 20:15:37 [INFO]`` and the
# message on the next line.
_HEAD = re.compile(r"\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d{1,6})?\]? *\[(\w{1,10})\] *(.*)")
_TAGS = re.compile(r"(?:\s*\[[^\]\n]{0,200}\])+\s*")
_SDK_CLIENT = "[Client="
_QUOTING = (
    "Received request",
    "Received POST",
    "Generated prediction",
    "Model generated tool calls",
    "Formatted prompt",
)
_BEGINS = re.compile(r"Running (?:chat |text )?completion|Running Anthropic messages API")
_ENDS = re.compile(r"Finished streaming|Generated prediction")
_LEFT = re.compile(r"Client disconnected\. Stopping generation|Client disconnected: Error")
_CRASHED = re.compile(r"The model has crashed|Channel Error|llama\.cpp abort")
_EXIT_CODE = re.compile(r"Exit code: (null|-?\d{1,20})")

_SAID_BY_ERRORS = (
    ("crashed", _CRASHED),
    ("out_of_memory", re.compile(
        r"insufficient system resources|unable to allocate|failed to allocate|out of memory|OutOfDeviceMemory",
        re.IGNORECASE,
    )),
    ("context", re.compile(
        r"context size has been exceeded|exceeds the available context size|n_keep\b|context the overflows|"
        r"does not fit in context length|reached context length", re.IGNORECASE
    )),
    ("unloads", re.compile(r"Model (?:is )?unloaded", re.IGNORECASE)),
)  # fmt: skip
_SAID_ANYWHERE = (
    ("loads", re.compile(r"Requested model \(.{1,300}?\) is not loaded\. Loading")),
    ("unloads", re.compile(r"Model unloaded\b|Unloading (?:other JIT )?model|Auto-?evict", re.IGNORECASE)),
    ("queued", re.compile(r"Processing queued request|Model is currently generating\. Queuing request")),
)
#: The engine's own lines, which have no level: their beginnings are known.
_SAID_BY_THE_ENGINE = re.compile(
    r"(?:CUDA|Metal|HIP|Vulkan) error: out of memory|ggml_\w+: .{0,80}failed to allocate", re.MULTILINE
)


class Entry(NamedTuple):
    """One entry of a log: its local time, its level in capitals, its message with tags and without an end."""

    at: str
    level: str
    message: str


@dataclass(slots=True)
class Told:
    """What a log tells of a span of time.

    Attributes:
        counts: how many entries told of what: ``crashed``, ``out_of_memory``, ``context``, ``loads``, ``unloads``,
            ``queued``, ``hung_up`` (a client left a request that was running) and ``closed`` (one that was not).
        exit_codes: of crashes, as they stand there, each once.
        hung_up_s: when clients left, Unix seconds.
    """

    counts: Counter[str] = field(default_factory=Counter)
    exit_codes: list[str] = field(default_factory=list)
    hung_up_s: list[float] = field(default_factory=list)


def entries(text: str) -> Iterator[Entry]:
    """Yield the entries of an LM Studio log; lines before its first one are the end of an older one."""
    head: re.Match[str] | None = None
    more: list[str] = []
    for line in _lines(text):
        found = _HEAD.fullmatch(line)
        if found is None:
            more.append(line)
            continue
        if head is not None:
            yield _entry(head, more)
        head, more = found, []
    if head is not None:
        yield _entry(head, more)


def within(at: str, since_s: float, until_s: float) -> float | None:
    """Return a local time as Unix seconds if it lies in a span; an hour that the clocks repeat is either of the two."""
    try:
        local = datetime.fromisoformat(at)
        times_s = {local.replace(fold=fold).timestamp() for fold in (0, 1)}
    except (ValueError, OverflowError, OSError):
        return None
    return next((s for s in sorted(times_s) if since_s <= s <= until_s), None)


class _Running:
    """How many requests run, as far as the log tells."""

    def __init__(self) -> None:
        self.count = 0
        self._left_s: list[float] = []

    def begun(self) -> None:
        """Note that one began."""
        self.count += 1

    def ended(self, at_s: float) -> None:
        """Note that one ended; one that its client left ends once more, within the same moment."""
        self._left_s = [s for s in self._left_s if at_s - s <= _SAME_MOMENT_S]
        if self._left_s:
            self._left_s.pop()
        else:
            self.count = max(0, self.count - 1)

    def left(self, at_s: float) -> bool:
        """Note that a client left; tell whether a request can have been running for it."""
        if not self.count:
            return False
        self.count -= 1
        self._left_s.append(at_s)
        return True


def told_by_lmstudio(text: str, since_s: float, until_s: float) -> Told:
    """Return what an LM Studio log tells of the time between two Unix times.

    "Client disconnected" is also written when an idle connection closes; only while a request runs has a client left.
    """
    told, running = Told(), _Running()
    for entry in entries(text):
        at_s = within(entry.at, since_s, until_s)
        if at_s is None:
            continue
        message = _message(entry)
        found = _phrases(entry, message, told)
        if "crashed" in found:
            running = _Running()
        elif _BEGINS.match(message):
            running.begun()
        elif _ENDS.match(message):
            running.ended(at_s)
        elif _LEFT.match(message) and not entry.message.lstrip().startswith(_SDK_CLIENT):
            left = running.left(at_s)
            told.counts["hung_up" if left else "closed"] += 1
            if left and len(told.hung_up_s) < _MOST_TIMES:
                told.hung_up_s.append(at_s)
    return told


_LLAMA_CPP = (
    ("out_of_memory", re.compile(r"failed to allocate|out of memory|unable to allocate", re.IGNORECASE)),
    (
        "context",
        re.compile(r"exceeds the available context size|context size has been exceeded|context shift|truncated = 1"),
    ),
    ("crashed", re.compile(r"GGML_ASSERT|ggml_abort|terminate called|segmentation fault", re.IGNORECASE)),
    ("queued", re.compile(r"no slot (?:is )?available|deferring task|slot unavailable", re.IGNORECASE)),
)
_TASK_ENDED = re.compile(r"(?:cancel task, id_task|send_error: task id) = (\d{1,12})")


def told_by_llama_cpp(text: str) -> Told:
    """Return what the log of a llama.cpp server tells; it has no wall clock, and this one is the run's alone."""
    told, failed = Told(), set[str]()
    for line in _lines(text):
        told.counts.update(name for name, pattern in _LLAMA_CPP if pattern.search(line[:_MESSAGE_CHARS]))
        ended = _TASK_ENDED.search(line)
        if ended and "send_error" in line:
            failed.add(ended[1])
        elif ended and ended[1] not in failed:
            told.counts["hung_up"] += 1
    return told


def _lines(text: str) -> Iterator[str]:
    """Yield lines as the server ends them: other separators may stand in a prompt, and must not begin an entry."""
    return (line.removesuffix("\r") for line in text.split("\n"))


def _entry(head: re.Match[str], more: Iterable[str]) -> Entry:
    return Entry(head[1], head[2].upper(), "\n".join([head[3], *more])[:_MESSAGE_CHARS])


def _message(entry: Entry) -> str:
    """Return an entry's message without the tags before it."""
    tags = _TAGS.match(entry.message)
    return (entry.message[tags.end() :] if tags else entry.message).lstrip()


def _phrases(entry: Entry, message: str, told: Told) -> set[str]:
    """Count the phrases of an entry and return what they mean."""
    if message.startswith(_QUOTING):
        return set()
    found = {name for name, pattern in _SAID_ANYWHERE if pattern.match(message)}
    if entry.level in {"ERROR", "WARN", "WARNING"}:
        found |= {name for name, pattern in _SAID_BY_ERRORS if pattern.search(message)}
    elif _SAID_BY_THE_ENGINE.match(message):
        found.add("out_of_memory")
    told.counts.update(found)
    code = _EXIT_CODE.search(message) if "crashed" in found else None
    if code and code[1] not in told.exit_codes and len(told.exit_codes) < _MOST_CODES:
        told.exit_codes.append(code[1])
    return found
