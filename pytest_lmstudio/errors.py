"""What can go wrong with a call: the kinds, their categories, and the exceptions a test sees."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pytest_lmstudio.reply import Reply

Category = Literal["auth", "network", "other"]
Phase = Literal["connecting", "waiting", "receiving"]
#: Which limit of our own ended an attempt.
Limit = Literal["attempt", "first_token", "inter_token"]


class ErrorKind(StrEnum):
    """Why an attempt, or a call without one, failed."""

    AUTH = "auth"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    DISCONNECT = "disconnect"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    MODEL_LOST = "model_lost"
    INVALID_RESPONSE = "invalid_response"
    CIRCUIT_OPEN = "circuit_open"
    UNREACHABLE = "unreachable"
    CONTEXT_OVERFLOW = "context_overflow"
    OUT_OF_MEMORY = "out_of_memory"
    NO_MODEL = "no_model"
    WRONG_MODEL = "wrong_model"
    BAD_REQUEST = "bad_request"
    WRONG_URL = "wrong_url"
    CACHE_MISS = "cache_miss"
    CANCELLED = "cancelled"


class LMError(Exception):
    """A call that got no answer.

    Attributes:
        kind: the fine reason, an `ErrorKind`.
        category: ``auth``, ``network`` or ``other``; only ``network`` is forgiven by the gate.
        phase: how far the last attempt got: ``connecting`` (not sent), ``waiting`` (sent, no byte of the answer yet),
            ``receiving`` (broke off); None when nothing was attempted.
        attempts: attempts made, 0 when none was.
        model: the model asked, None when it was never known.
        url: the server's base URL.
        call_id: the call's id in ``events.jsonl``.
        replies: of `lm.map`, the replies in order, None where lost; else empty.
        errors: of `lm.map`, every error in order; else empty.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind = ErrorKind.BAD_REQUEST,
        category: Category | None = None,
        phase: Phase | None = None,
        attempts: int = 0,
        model: str | None = None,
        url: str | None = None,
        call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.category: Category = category or KINDS[kind].category
        self.phase = phase
        self.attempts = attempts
        self.model = model
        self.url = url
        self.call_id = call_id
        self.replies: list[Reply | None] = []
        self.errors: list[LMError] = []


class LMAuthError(LMError, PermissionError):
    """The server refused the token, or asked for one (401, 403)."""


class LMNetworkError(LMError, ConnectionError):
    """The model did not get to answer: category ``network``."""


class LMTimeoutError(LMNetworkError, TimeoutError):
    """The attempt's hard limit passed before the answer was whole."""


class LMRequestError(LMError, ValueError):
    """The request can never succeed as it is: category ``other``."""


class LMCacheMissError(LMError, LookupError):
    """The cache is offline and does not hold the answer."""


class LMSchemaError(AssertionError):
    """An answer that breaks its JSON schema: the call went well, the eval failed.

    Attributes:
        reply: the `Reply` whose text broke the schema.
    """

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class KindSpec(NamedTuple):
    """What follows from a kind."""

    category: Category
    retried: bool
    error: type[LMError]
    title: str
    advice: str


KINDS: dict[ErrorKind, KindSpec] = {
    ErrorKind.AUTH: KindSpec(
        "auth",
        False,
        LMAuthError,
        "refused the API token",
        "set LM_API_TOKEN to a token made in LM Studio's server settings, or turn authentication off there",
    ),
    ErrorKind.CONNECT: KindSpec(
        "network",
        True,
        LMNetworkError,
        "could not be connected to",
        "start the server (`lms server start`) or mend --lmstudio-url",
    ),
    ErrorKind.TIMEOUT: KindSpec(
        "network",
        True,
        LMTimeoutError,
        "did not finish in time",
        "raise LLM_REQUEST_TIMEOUT_MS, lower max_tokens, or lower EVAL_CONCURRENCY",
    ),
    ErrorKind.DISCONNECT: KindSpec(
        "network",
        True,
        LMNetworkError,
        "closed the connection before the answer was whole",
        "look in the server's log for a crash at this time",
    ),
    ErrorKind.RATE_LIMITED: KindSpec("network", True, LMNetworkError, "asked to slow down", "lower EVAL_CONCURRENCY"),
    ErrorKind.SERVER_ERROR: KindSpec("network", True, LMNetworkError, "failed inside", "look in the server's log"),
    ErrorKind.MODEL_LOST: KindSpec(
        "network",
        True,
        LMNetworkError,
        "lost the model while it answered",
        "load the model once before the run (LM Studio: `lms load`) and use one model at a time; see the server's log "
        "for a crash",
    ),
    ErrorKind.INVALID_RESPONSE: KindSpec(
        "network",
        True,
        LMNetworkError,
        "sent something that is no whole answer",
        "see the server's log; if a proxy stands between, let it pass streams unbuffered",
    ),
    ErrorKind.CIRCUIT_OPEN: KindSpec(
        "network",
        False,
        LMNetworkError,
        "kept failing, so no more requests are sent",
        "find out why the server fails (see the diagnosis at the end), then run again with --lf",
    ),
    ErrorKind.UNREACHABLE: KindSpec(
        "network",
        False,
        LMNetworkError,
        "is not there",
        "start it with `lms server start`, or give its address with --lmstudio-url; --lmstudio-wait=60 waits for one "
        "that is still starting",
    ),
    ErrorKind.CONTEXT_OVERFLOW: KindSpec(
        "other",
        False,
        LMRequestError,
        "has too little context for the prompt",
        "load the model with a larger context length, or shorten the prompt",
    ),
    ErrorKind.OUT_OF_MEMORY: KindSpec(
        "other",
        False,
        LMRequestError,
        "cannot load the model",
        "use a smaller model or quantization, a smaller context length, or unload other models",
    ),
    ErrorKind.NO_MODEL: KindSpec(
        "other",
        False,
        LMRequestError,
        "has no such model",
        "name one that it has with --lmstudio-model, or load one first (LM Studio: `lms load`)",
    ),
    ErrorKind.WRONG_MODEL: KindSpec(
        "other",
        False,
        LMRequestError,
        "answered with another model",
        "name a model that the server has (--lmstudio-model), and load it before the run",
    ),
    ErrorKind.BAD_REQUEST: KindSpec(
        "other", False, LMRequestError, "rejected the request", "mend the request; sending it again cannot help"
    ),
    ErrorKind.WRONG_URL: KindSpec(
        "other",
        False,
        LMRequestError,
        "does not know the route",
        "give the base address of an OpenAI-compatible server as --lmstudio-url, such as http://127.0.0.1:1234",
    ),
    ErrorKind.CACHE_MISS: KindSpec(
        "other",
        False,
        LMCacheMissError,
        "was not asked, since the cache is offline",
        "record the answer in a run with --lmstudio-cache=readwrite",
    ),
    ErrorKind.CANCELLED: KindSpec(
        "network",
        False,
        LMNetworkError,
        "was not waited for",
        "run it again (what was answered comes from the cache)",
    ),
}


#: How the messages of `cache_miss` begin, but for what differs from a question that was recorded.
UNKNOWN_MODEL = "the model is not known"
NOTHING_OF_THE_TEST = "no answer of this test is in the cache"

#: Where a limit of its own ended an attempt, the timeout need not be raised.
LIMIT_ADVICE: dict[Limit | None, str] = {
    "first_token": "raise LLM_FIRST_TOKEN_TIMEOUT_MS, shorten the prompt, or lower EVAL_CONCURRENCY",
    "inter_token": "look in the server's log for what stopped it; if it only pauses, raise LLM_INTER_TOKEN_TIMEOUT_MS",
}


def make_error(  # one place builds every LMError, from all its facts
    kind: ErrorKind,
    message: str,
    *,
    category: Category | None = None,
    phase: Phase | None = None,
    attempts: int = 0,
    model: str | None = None,
    url: str | None = None,
    call_id: str | None = None,
) -> LMError:
    """Return the exception of a kind; an error forgiven or charged against its kind's category keeps its class."""
    return KINDS[kind].error(
        message, kind=kind, category=category, phase=phase, attempts=attempts, model=model, url=url, call_id=call_id
    )


def describe(  # a message names all of it
    kind: ErrorKind,
    message: str,
    *,
    url: str,
    model: str | None,
    attempt: int,
    of: int,
    phase: Phase | None,
    limit: Limit | None = None,
) -> str:
    """Return the text of an error: subject, event, facts; then what to do."""
    spec = KINDS[kind]
    facts = [f"model {model}"] if model else []
    if attempt:
        facts.append(f"attempt {attempt} of {of}")
        facts += [str(phase)] if phase else []
    said = f": {message}" if message else ""
    about = f" ({', '.join(facts)})" if facts else ""
    return f"[{kind}] the server at {url} {spec.title}{said}{about}; {LIMIT_ADVICE.get(limit) or spec.advice}"
