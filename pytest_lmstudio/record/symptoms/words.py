"""How evidence and advice are worded: quantities, values to type, and the names that may be part of a command."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

_ROUND_S = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1200, 1800, 3600)
#: What a timeout should leave for the slowest answers: 99 % of them, three times over.
_HEADROOM = 3
#: A value that falls short of its aim by so little is round, not low.
_NEARLY = 0.95
_PLAIN_NAME = re.compile(r"[\w][\w./@:+-]{0,120}", re.ASCII)


def span(ms: float) -> str:
    """Return milliseconds as they are read best: ``812 ms``, ``45 s``, ``3.2 s``."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{round(ms / 1000, 1):g} s"  # noqa: PLR2004  # a second


def times(count: int, noun: str) -> str:
    """Return ``1 attempt`` or ``2 attempts``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def was(count: int) -> str:
    """Return the verb that goes with a count."""
    return "was" if count == 1 else "were"


def limits(attempts: Iterable[AttemptFacts]) -> str:
    """Return the timeouts of attempts, the commonest first, at most two of them."""
    return " or ".join(span(ms) for ms in _timeouts_ms(attempts)[:2]) or "this run"


def round_s(least_s: float) -> int:
    """Return a round number of seconds that is not much less."""
    return _ROUND_S[min(bisect_left(_ROUND_S, least_s * _NEARLY), len(_ROUND_S) - 1)]


def longer_s(limit_ms: float, needed_ms: float | None) -> int:
    """Return a limit that has room for what was needed, and is at least twice the one that was too short."""
    return round_s(max(2 * limit_ms, _HEADROOM * (needed_ms or 0.0)) / 1000)


def more_time(evidence: Evidence, cut: Sequence[AttemptFacts], needed_ms: float | None) -> str:
    """Return how to give attempts more time than they had, typed where their limit came from."""
    limit_ms = next(iter(_timeouts_ms(cut)), 0.0)
    seconds, own = longer_s(limit_ms, needed_ms), evidence.run.settings.timeout
    if own != "auto" and limit_ms and abs(own * 1000 - limit_ms) > 1:
        return f"give these tests more time with @pytest.mark.llm(timeout={seconds})"
    return f"set LLM_REQUEST_TIMEOUT_MS={seconds * 1000} (--lmstudio-timeout={seconds})"


def fewer(concurrency: int) -> str:
    """Return how to have no more than so many requests in flight."""
    return f"set EVAL_CONCURRENCY={concurrency} (--lmstudio-concurrency={concurrency})"


def command_name(name: str) -> str:
    """Return a model's name as it can be typed in a shell; a name that could mean more is left for the reader."""
    return name if _PLAIN_NAME.fullmatch(name) else "MODEL"


def models_of(attempts: Iterable[AttemptFacts]) -> list[str]:
    """Return the models that attempts asked, the commonest first."""
    asked = Counter(str(a.request.get("model") or a.result.get("model") or "") for a in attempts)
    return [name for name, _ in asked.most_common() if name]


def is_lmstudio(evidence: Evidence) -> bool:
    """Tell whether the server is LM Studio, as far as it said what it is, so that there is a command `lms`."""
    own = evidence.log is not None and evidence.log.source == "embedded"
    return not own and evidence.report["server"]["kind"] in {"lmstudio", None}


def load_command(evidence: Evidence, attempts: Iterable[AttemptFacts] = (), options: str = "") -> str:
    """Return the command that loads the model that attempts asked, or the run's."""
    names = models_of(attempts) or list(evidence.report["by_model"])
    return f"`lms load {command_name(names[0]) if names else 'MODEL'}{options}`"


def _timeouts_ms(attempts: Iterable[AttemptFacts]) -> list[float]:
    return [timeout_ms for timeout_ms, _ in Counter(a.timeout_ms for a in attempts if a.timeout_ms).most_common()]
