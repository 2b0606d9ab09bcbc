"""Facts that travel between rooms: frozen, and without behaviour of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from pytest_lmstudio.errors import ErrorKind, LMError, Phase
    from pytest_lmstudio.reply import Reply

Endpoint = Literal["chat", "embeddings"]


class ModelInfo(NamedTuple):
    """One model that the server lists.

    Attributes:
        id: the name to ask for.
        type: ``llm`` (vision models too), ``embedding``, or None when the server does not say.
        loaded: whether it is in memory; None when the server does not say.
        quantization: such as ``Q4_K_M``, or None.
        context_length: tokens the loaded instance holds, or None.
        parallel: requests the loaded instance serves at once, or None.
    """

    id: str
    type: Literal["llm", "embedding"] | None = None
    loaded: bool | None = None
    quantization: str | None = None
    context_length: int | None = None
    parallel: int | None = None

    def __str__(self) -> str:
        """Return the id."""
        return self.id


class ServerInfo(NamedTuple):
    """What the preflight learned of the server.

    Attributes:
        url: its base URL.
        reachable: whether anything answered HTTP there.
        version: the server's own version where it tells one (LM Studio does not), or None.
        kind: ``lmstudio``, ``llama.cpp`` or ``openai`` (any other compatible server), None when unreachable.
        models: what it lists, loaded ones first.
        problem: one line that says why no call can work, or None.
        problem_kind: the kind that `problem` has as a call's error, or None.
    """

    url: str
    reachable: bool
    version: str | None = None
    kind: Literal["lmstudio", "llama.cpp", "openai"] | None = None
    models: tuple[ModelInfo, ...] = ()
    problem: str | None = None
    problem_kind: ErrorKind | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**self._asdict(), "models": [model._asdict() for model in self.models]}


class CallOptions(NamedTuple):
    """How one call travels; nothing here can change an answer.

    Attributes:
        timeout_s: hard limit of one attempt in seconds; None follows the latencies seen.
        retries: retries after the first attempt.
        backoff_s: base of the back-off, seconds.
        cache: ``readwrite``, ``refresh``, ``off`` or ``offline``.
        stream: whether the answer travels as an event stream.
        first_token_s: limit from sending to the first token of a stream, seconds; None is the attempt's alone.
        inter_token_s: limit from one token of a stream to the next, seconds; None is the attempt's alone.
    """

    timeout_s: float | None
    retries: int
    backoff_s: float
    cache: Literal["readwrite", "refresh", "off", "offline"]
    stream: bool
    first_token_s: float | None = None
    inter_token_s: float | None = None


class Request(NamedTuple):
    """One call to be made.

    Attributes:
        call_id: unique over all processes of the run.
        nodeid: the test it is booked to, empty outside of tests.
        endpoint: ``chat`` or ``embeddings``.
        model: the model asked.
        body: the JSON body less ``stream``; it holds ``model``.
        asked: all that can change the answer, as `engine.key.question` returns it.
        key: the cache key, hex SHA-256 of `asked`.
        prompt_chars: characters of all text in the messages.
        options: how it travels.
    """

    call_id: str
    nodeid: str
    endpoint: Endpoint
    model: str
    body: dict[str, Any]
    asked: dict[str, Any]
    key: str
    prompt_chars: int
    options: CallOptions


class Attempt(NamedTuple):
    """One attempt of a call, as the failed test's report section shows it.

    Attributes:
        number: 1 for the first.
        latency_ms: from sending to the last byte, or to the failure.
        waited_ms: time spent before it on breaker, slot and back-off.
        kind: None when it went well.
        phase: how far it got, None when it went well.
        message: why it failed, without prompt and secrets; empty when it went well.
    """

    number: int
    latency_ms: float
    waited_ms: float
    kind: ErrorKind | None = None
    phase: Phase | None = None
    message: str = ""


class Call(NamedTuple):
    """A finished call.

    Attributes:
        request: what was asked.
        attempts: every attempt made, none for a cached reply.
        reply: the answer, or None.
        error: why there is none, or None.
    """

    request: Request
    attempts: tuple[Attempt, ...]
    reply: Reply | None = None
    error: LMError | None = None
