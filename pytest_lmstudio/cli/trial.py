"""What `doctor` tries last: does the model answer, every time and fast enough, and do the settings fit."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from pytest_lmstudio.cli.advice import ANSWER_TOKENS, Speed, answer_within, needed_timeout_s
from pytest_lmstudio.cli.findings import Finding
from pytest_lmstudio.cli.target import remedy_of
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.report.figures import amount, duration
from pytest_lmstudio.server.preflight import WARM_UP_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.engine.deadline import Limits
    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.server.probe import Generation, Probe

SHORT = "Say OK."
_LONG = "Count from one to thirty, in words."
_SPEED_TOKENS = 32


class Trial:
    """Asks a model a few short questions, one after the other.

    Args:
        probe: asks the server.
        target: how to ask.
        model: which model.
        samples: generations of one token.
        parallel: the requests that the server answers at once, None when not known.

    Attributes:
        tried: the generations of one token.
        speed: as measured, None before.
    """

    def __init__(self, probe: Probe, target: Target, model: ModelInfo, samples: int, parallel: int | None) -> None:
        self._probe = probe
        self._target = target
        self._model = model
        self._samples = samples
        self._parallel = parallel
        self.tried: list[Generation] = []
        self.speed: Speed | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to find; one to mend is the last."""
        for look in (self._short, self._long):
            found = look()
            yield found
            if found.mark == "mend":
                return
        if self._parallel is not None:
            yield self._concurrency(self._parallel)
        tokens = answer_within(self.speed, self._target.timeout_s) if self.speed else None
        if tokens is not None:
            yield self._timeout(tokens)

    def _ask(self, prompt: str, tokens: int, limits: Limits) -> Generation:
        stream = self._target.settings.stream
        return self._probe.generate(self._model.id, prompt, max_tokens=tokens, limits=limits, stream=stream)

    def _short(self) -> Finding:
        for number in range(self._samples):
            limits = self._target.limits
            if self._model.loaded is False and not number:  # this one loads it
                limits = limits._replace(attempt_s=max(limits.attempt_s, WARM_UP_S), first_token_s=None)
            self.tried.append(self._ask(SHORT, 1, limits))
            failure = self.tried[-1].failure
            # One that asking again cannot help; or one that would take as long again, and pile work up on the server.
            if failure is not None and (not failure.retried or failure.kind is ErrorKind.TIMEOUT):
                break
        return self._judged()

    def _judged(self) -> Finding:
        taken_ms = [tried.latency_ms for tried in self.tried if tried.failure is None]
        failures = [tried.failure for tried in self.tried if tried.failure is not None]
        if not failures:
            spread = f"{len(taken_ms)} times, {duration(min(taken_ms))} to {duration(max(taken_ms))}"
            of = f" ({spread})" if len(taken_ms) > 1 else ""
            return Finding("ok", "generation", f"1 token in {duration(median(taken_ms))}{of}")
        last = failures[-1]
        if len(self.tried) == 1 or not taken_ms:
            return self._failed("generation", "no answer", last)
        text = f"unstable: {len(failures)} of {len(self.tried)} generations of 1 token failed"
        remedy = f"{remedy_of(last.kind)}; `pytest-lmstudio verify` tells whether a longer timeout helps"
        return Finding("mend", "generation", f"{text}, the last with [{last.kind}] {last.message}", remedy)

    def _failed(self, about: str, what: str, failure: Failure) -> Finding:
        if failure.kind is not ErrorKind.TIMEOUT:
            return Finding("mend", about, f"{what}: [{failure.kind}] {failure.message}", remedy_of(failure.kind))
        longer_ms = max(90.0, 2 * self._target.timeout_s) * 1000
        remedy = (
            f"wait longer: `export LLM_REQUEST_TIMEOUT_MS={longer_ms:.0f}`; or use a smaller model or quantization, "
            "and look whether something else keeps the server busy"
        )
        return Finding("mend", about, f"too slow, or stuck: {failure.message}", remedy)

    def _long(self) -> Finding:
        tried = self._ask(_LONG, _SPEED_TOKENS, self._target.limits)
        if tried.failure is not None:
            return self._failed("speed", f"an answer of {_SPEED_TOKENS} tokens failed", tried.failure)
        assert tried.reply is not None  # noqa: S101  # it did not fail
        self.speed = Speed(tried.reply.ttft_ms, tried.reply.tokens_per_second)
        first = f"first token after {duration(self.speed.ttft_ms)}, then " if self.speed.ttft_ms is not None else ""
        if self.speed.tokens_per_second is None:
            return Finding("note", "speed", f"{first}not known: the server did not count its tokens, or sent too few")
        return Finding("ok", "speed", f"{first}{amount(self.speed.tokens_per_second, 1)} tokens/s")

    def _concurrency(self, most: int) -> Finding:
        limit = self._target.settings.concurrency
        if limit <= most:
            return Finding("ok", "concurrency", f"{limit} of the {most} requests that the server answers at once")
        text = f"{limit} requests may be in flight, the server answers {most} at once; the rest waits on its timeout"
        return Finding("note", "concurrency", text, f"`export EVAL_CONCURRENCY={most}`")

    def _timeout(self, tokens: int) -> Finding:
        limit = f"{self._target.timeout_s:g} s"
        if tokens >= ANSWER_TOKENS or self.speed is None:
            return Finding("ok", "timeout", f"{limit}, enough for answers of {_two_digits(tokens)} tokens, twice over")
        needed_ms = (needed_timeout_s(self.speed) or 0.0) * 1000
        text = f"{limit}, enough for answers of {_two_digits(tokens)} tokens, twice over"
        remedy = f"for answers of {ANSWER_TOKENS} tokens: `export LLM_REQUEST_TIMEOUT_MS={needed_ms:.0f}`"
        return Finding("note", "timeout", text, remedy)


def _two_digits(tokens: int) -> str:
    """Return a number of tokens rounded down to what is known of it."""
    step = 10 ** max(len(str(tokens)) - 2, 0)
    return amount(tokens // step * step)
