"""What is written down of a call: its events, and the text of its error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.engine import wire
from pytest_lmstudio.engine.answers import is_cut_thinking, prompt_texts
from pytest_lmstudio.errors import ErrorKind, LMError, describe, make_error
from pytest_lmstudio.text import mask, printable, redact

if TYPE_CHECKING:
    from pytest_lmstudio.engine.attempt import Answer
    from pytest_lmstudio.engine.cache import Stored
    from pytest_lmstudio.engine.failure import Failure
    from pytest_lmstudio.record.events import EventWriter
    from pytest_lmstudio.records import Request
    from pytest_lmstudio.reply import Reply

_MESSAGE_CHARS = 500
_NAME_CHARS = 100
_REASON_CHARS = 40
#: So many characters of a prompt make a quotation; fewer may be words of the message's own.
_QUOTED_CHARS = 40


class Books:
    """Writes the events of calls; no prompt, no answer and no secret gets into them.

    Args:
        events: the log.
        url: the server's base URL.
        secrets: texts that no message may hold.
    """

    def __init__(self, events: EventWriter, url: str, secrets: tuple[str, ...] = ()) -> None:
        self._events = events
        self._url = url
        self._secrets = secrets

    def sent(  # one line a fact
        self,
        request: Request,
        attempt: int,
        *,
        timeout_s: float,
        waited_ms: float,
        stream: bool,
        slot: int | None = None,
    ) -> None:
        """Record that an attempt is sent, and the slot that it holds: who takes that next shows that it has ended."""
        mode = request.options.cache
        self._write(
            "gen_request",
            request,
            attempt=attempt,
            prompt_chars=request.prompt_chars,
            timeout_ms=round(timeout_s * 1000),
            waited_ms=waited_ms,
            endpoint=request.endpoint,
            stream=stream,
            slot=slot,
            cache="miss" if mode == "readwrite" else mode,
        )

    def answered(self, request: Request, attempt: int, answer: Answer, reply: Reply, stored: Stored) -> None:
        """Record that an attempt was answered, and what became of the answer."""
        self._write(
            "gen_success",
            request,
            attempt=attempt,
            latency_ms=round(answer.latency_ms, 1),
            ttft_ms=_rounded(answer.ttft_ms),
            tokens_in=wire.token_count(reply.usage, "prompt_tokens"),
            tokens_out=wire.token_count(reply.usage, "completion_tokens"),
            tokens_per_second=_rounded(reply.tokens_per_second),
            finish_reason=None if reply.finish_reason is None else printable(reply.finish_reason, limit=_REASON_CHARS),
            reply_chars=len(reply.text),
            stale_reconnects=answer.stale_reconnects,
            stored=stored.stored,
            evicted=stored.evicted,
            truncated_thinking=is_cut_thinking(reply),
        )

    def failed(  # one line a fact
        self,
        request: Request,
        failure: Failure,
        *,
        attempt: int,
        latency_ms: float | None = None,
        stale_reconnects: int = 0,
        retry_in_ms: int | None = None,
    ) -> None:
        """Record that an attempt failed, or (attempt 0) that none is made."""
        self._write(
            "gen_error",
            request,
            attempt=attempt,
            latency_ms=latency_ms,
            error_category=failure.category,
            error_kind=failure.kind,
            phase=failure.phase if attempt else None,
            status=failure.status,
            message=self.clean(failure.message, request),
            stale_reconnects=stale_reconnects,
            retry_in_ms=retry_in_ms,
            cut_at_limit=failure.limit == "attempt",
            limit=failure.limit,
            prompt_chars=request.prompt_chars,
        )

    def cached(self, request: Request, source: str) -> None:
        """Record that a call was answered without a request of its own, by the ``cache`` or ``coalesced``."""
        self._write("gen_cached", request, source=source, prompt_chars=request.prompt_chars)

    def abandoned(self, request: Request, attempt: int, latency_ms: float | None, stale_reconnects: int = 0) -> None:
        """Record that the test went on without the answer."""
        facts = {"attempt": attempt, "latency_ms": latency_ms, "stale_reconnects": stale_reconnects}
        self._write("gen_abandoned", request, **facts)

    def clean(self, message: str, request: Request) -> str:
        """Return a message from outside without secrets, control characters and the prompt."""
        if not message:
            return ""
        for text in prompt_texts(request.body):
            for form in {text, json.dumps(text)[1:-1]}:
                message = mask(message, form, _QUOTED_CHARS, "[prompt]")
        return printable(redact(message, self._secrets), limit=_MESSAGE_CHARS)

    def error(self, request: Request, failure: Failure, attempts: int, problem: str = "") -> LMError:
        """Return the exception that the test sees.

        Args:
            request: the call's.
            failure: why it failed.
            attempts: how many were made.
            problem: why a user's strategy gave no wait for the next one; empty when it did, or was not asked.
        """
        facts: dict[str, Any] = {"attempts": attempts, "model": request.model, "call_id": request.call_id}
        facts |= {"url": self._url, "phase": failure.phase if attempts else None}
        if problem:
            return make_error(ErrorKind.BAD_REQUEST, self._misguided(request, failure, attempts, problem), **facts)
        text = describe(
            failure.kind,
            self.clean(failure.message, request),
            url=self._url,
            model=printable(request.model, limit=_NAME_CHARS),
            attempt=attempts,
            of=request.options.retries + 1,
            phase=failure.phase,
            limit=failure.limit,
        )
        return make_error(failure.kind, text, category=failure.category, **facts)

    def _misguided(self, request: Request, failure: Failure, attempts: int, problem: str) -> str:
        """Note what a user's strategy did wrong, and return the text of the error."""
        said = printable(redact(problem, self._secrets), limit=_MESSAGE_CHARS)
        self._events.write("note", message=said)
        return (
            f"{said}; make it return seconds, a number from 0 up. "
            f"The call was not tried again after attempt {attempts} of {request.options.retries + 1} ({failure.kind})"
        )

    def _write(self, event: str, request: Request, **fields: Any) -> None:
        self._events.write(event, nodeid=request.nodeid, call_id=request.call_id, model=request.model, **fields)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
