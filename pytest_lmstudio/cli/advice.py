"""What `doctor` advises to set, from what it measured; pure."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.cli.target import timeout_s
from pytest_lmstudio.names import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lmstudio.names import Flag
    from pytest_lmstudio.settings import Settings

#: The answer that a timeout must be long enough for, where nothing else is known of a suite.
ANSWER_TOKENS = 512
#: Requests that are answered at once share the machine, and a longer prompt comes later to its first token.
_MARGIN = 2.0
_LEAST_TIMEOUT_S, _MOST_TIMEOUT_S, _STEP_S = 10.0, 600.0, 5.0


class Speed(NamedTuple):
    """What was measured: milliseconds to the first token, tokens a second after it; None where not known."""

    ttft_ms: float | None
    tokens_per_second: float | None


class Setting(NamedTuple):
    """A setting to make: its field in `Settings`, and its value as an ini file has it."""

    name: str
    value: str

    @property
    def flag(self) -> Flag:
        """Return its names."""
        return next(flag for flag in FLAGS if flag.name == self.name)

    @property
    def in_environment(self) -> str:
        """Return its value as the environment has it."""
        in_ms = self.name == "timeout"
        return f"{float(self.value) * 1000:.0f}" if in_ms else self.value

    @property
    def export(self) -> str:
        """Return the line for a shell."""
        return f"export {self.flag.env}={shlex.quote(self.in_environment)}"

    @property
    def ini(self) -> str:
        """Return the line for an ini file."""
        return f"{self.flag.ini} = {self.value}"


def needed_timeout_s(speed: Speed, tokens: int = ANSWER_TOKENS) -> float | None:
    """Return how long an attempt must be allowed to take for an answer of so many tokens; None when not known."""
    if not speed.tokens_per_second:
        return None
    answer_s = (speed.ttft_ms or 0.0) / 1000 + tokens / speed.tokens_per_second
    rounded_s = math.ceil(answer_s * _MARGIN / _STEP_S) * _STEP_S
    return min(max(rounded_s, _LEAST_TIMEOUT_S), _MOST_TIMEOUT_S)


def answer_within(speed: Speed, limit_s: float) -> int | None:
    """Return how many tokens come within a timeout, with the same margin; None when not known."""
    if not speed.tokens_per_second:
        return None
    left_s = limit_s / _MARGIN - (speed.ttft_ms or 0.0) / 1000
    return max(0, math.floor(left_s * speed.tokens_per_second))


def to_set(
    settings: Settings, *, parallel: int | None, speed: Speed | None, model: str | None, url: str | None
) -> Iterator[Setting]:
    """Yield what to set, whether it is set already or not, so that the lines can be pasted as they are.

    Args:
        settings: as they are.
        parallel: requests that the server answers at once, None when not known.
        speed: as measured, None when nothing was.
        model: the model to name, None when it need not be named.
        url: the server to name, None for the default one.
    """
    if url is not None:
        yield Setting("url", url)
    if model is not None:
        yield Setting("model", model)
    if parallel is not None:
        yield Setting("concurrency", str(min(parallel, settings.concurrency)))
    needed_s = needed_timeout_s(speed) if speed is not None else None
    if needed_s is not None and needed_s > timeout_s(settings):
        yield Setting("timeout", f"{needed_s:g}")


def lines(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield the lines to paste."""
    if not settings:
        return
    yield ""
    yield "To set, in the shell or in CI:"
    yield from (f"  {setting.export}" for setting in settings)
    yield "or in pytest.ini, below [pytest]:"
    yield from (f"  {setting.ini}" for setting in settings)
