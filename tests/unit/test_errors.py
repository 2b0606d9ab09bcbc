"""Every kind of error: its category, whether it is tried again, the class a test catches, and its whole text."""

from __future__ import annotations

import copy
import pickle
from typing import NamedTuple

import pytest

from pytest_lmstudio import errors
from pytest_lmstudio.errors import KINDS, ErrorKind, LMError, LMSchemaError, describe, make_error
from pytest_lmstudio.reply import Reply

START = "start the server (`lms server start`) or mend --lmstudio-url"


class Kind(NamedTuple):
    """A row of the documentation's table of kinds, with what a test may catch it as."""

    name: str
    category: str
    retried: str
    caught_as: tuple[type[Exception], ...]
    text: str


NETWORK = (errors.LMNetworkError, ConnectionError, OSError)
TABLE = [
    Kind(
        "auth", "auth", "no", (errors.LMAuthError, PermissionError),
        "refused the API token: said; "
        "set LM_API_TOKEN to a token made in LM Studio's server settings, or turn authentication off there",
    ),
    Kind("connect", "network", "yes", NETWORK, f"could not be connected to: said; {START}"),
    Kind(
        "timeout", "network", "yes", (errors.LMTimeoutError, TimeoutError, *NETWORK),
        "did not finish in time: said; raise LLM_REQUEST_TIMEOUT_MS, lower max_tokens, or lower EVAL_CONCURRENCY",
    ),
    Kind(
        "disconnect", "network", "yes", NETWORK,
        "closed the connection before the answer was whole: said; look in the server's log for a crash at this time",
    ),
    Kind("rate_limited", "network", "yes", NETWORK, "asked to slow down: said; lower EVAL_CONCURRENCY"),
    Kind("server_error", "network", "yes", NETWORK, "failed inside: said; look in the server's log"),
    Kind(
        "model_lost", "network", "yes", NETWORK,
        "lost the model while it answered: said; load the model once before the run (LM Studio: `lms load`) and use "
        "one model at a time; see the server's log for a crash",
    ),
    Kind(
        "invalid_response", "network", "yes", NETWORK,
        "sent something that is no whole answer: said; "
        "see the server's log; if a proxy stands between, let it pass streams unbuffered",
    ),
    Kind(
        "circuit_open", "network", "no", NETWORK,
        "kept failing, so no more requests are sent: said; "
        "find out why the server fails (see the diagnosis at the end), then run again with --lf",
    ),
    Kind(
        "unreachable", "network", "no", NETWORK,
        "is not there: said; start it with `lms server start`, or give its address with --lmstudio-url; "
        "--lmstudio-wait=60 waits for one that is still starting",
    ),
    Kind(
        "context_overflow", "other", "no", (errors.LMRequestError, ValueError),
        "has too little context for the prompt: said; "
        "load the model with a larger context length, or shorten the prompt",
    ),
    Kind(
        "out_of_memory", "other", "no", (errors.LMRequestError, ValueError),
        "cannot load the model: said; "
        "use a smaller model or quantization, a smaller context length, or unload other models",
    ),
    Kind(
        "no_model", "other", "no", (errors.LMRequestError, ValueError),
        "has no such model: said; name one that it has with --lmstudio-model, or load one first "
        "(LM Studio: `lms load`)",
    ),
    Kind(
        "wrong_model", "other", "no", (errors.LMRequestError, ValueError),
        "answered with another model: said; "
        "name a model that the server has (--lmstudio-model), and load it before the run",
    ),
    Kind(
        "bad_request", "other", "no", (errors.LMRequestError, ValueError),
        "rejected the request: said; mend the request; sending it again cannot help",
    ),
    Kind(
        "wrong_url", "other", "no", (errors.LMRequestError, ValueError),
        "does not know the route: said; "
        "give the base address of an OpenAI-compatible server as --lmstudio-url, such as http://127.0.0.1:1234",
    ),
    Kind(
        "cache_miss", "other", "no", (errors.LMCacheMissError, LookupError),
        "was not asked, since the cache is offline: said; record the answer in a run with --lmstudio-cache=readwrite",
    ),
    Kind(
        "cancelled", "network", "no", NETWORK,
        "was not waited for: said; run it again (what was answered comes from the cache)",
    ),
]  # fmt: skip
EVERY_KIND = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def made(kind: ErrorKind) -> LMError:
    return make_error(
        kind,
        "text",
        category="network",
        phase="waiting",
        attempts=4,
        model="m",
        url="http://h",
        call_id="c",
    )


def test_the_table_names_every_kind_once() -> None:
    assert [row.name for row in TABLE] == list(ErrorKind) == list(KINDS)


@EVERY_KIND
def test_category_retry_and_class_follow_from_the_kind(row: Kind) -> None:
    spec = KINDS[ErrorKind(row.name)]
    error = make_error(ErrorKind(row.name), "text")
    assert (spec.category, error.category) == (row.category, row.category)
    assert spec.retried is (row.retried == "yes")
    assert [base for base in (*row.caught_as, LMError) if not isinstance(error, base)] == []


@EVERY_KIND
def test_the_text_tells_what_happened_and_what_to_do(row: Kind) -> None:
    what, _, advice = row.text.partition("; ")
    text = describe(ErrorKind(row.name), "said", url="http://h:1", model="m", attempt=2, of=4, phase="waiting")
    assert text == f"[{row.name}] the server at http://h:1 {what} (model m, attempt 2 of 4, waiting); {advice}"


@pytest.mark.parametrize(
    ("message", "model", "attempt", "text"),
    [
        ("", None, 0, f"[connect] the server at http://h could not be connected to; {START}"),
        ("no", "m", 0, f"[connect] the server at http://h could not be connected to: no (model m); {START}"),
        (
            "",
            None,
            1,
            f"[connect] the server at http://h could not be connected to (attempt 1 of 4, connecting); {START}",
        ),
    ],
)
def test_the_text_leaves_out_what_is_not_known(message: str, model: str | None, attempt: int, text: str) -> None:
    told = describe(ErrorKind.CONNECT, message, url="http://h", model=model, attempt=attempt, of=4, phase="connecting")
    assert told == text


@EVERY_KIND
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickle_and_copy(row: Kind, protocol: int) -> None:
    error = made(ErrorKind(row.name))
    error.replies = [None, Reply(text="a", model="m", finish_reason="stop")]
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
        assert (type(twin), str(twin), vars(twin)) == (type(error), "text", vars(error))


def test_an_error_that_lists_itself_survives_pickle() -> None:
    first, second = made(ErrorKind.TIMEOUT), made(ErrorKind.AUTH)
    first.errors = [first, second]
    twin = pickle.loads(pickle.dumps(first))  # noqa: S301
    assert twin.errors[0] is twin
    assert str(twin.errors[1]) == "text"


def test_a_schema_error_survives_pickle_with_its_reply() -> None:
    error = LMSchemaError("text", Reply(text="{", model="m", finish_reason="stop"))
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(twin), str(twin), twin.reply) == (LMSchemaError, "text", error.reply)


def test_a_forgiven_error_keeps_its_class() -> None:
    error = make_error(ErrorKind.CONTEXT_OVERFLOW, "text", category="network")
    assert (type(error), error.category, error.kind) == (errors.LMRequestError, "network", "context_overflow")


def test_an_error_made_without_facts_says_so() -> None:
    error = LMError("text")
    assert vars(error) == {
        "kind": ErrorKind.BAD_REQUEST,
        "category": "other",
        "phase": None,
        "attempts": 0,
        "model": None,
        "url": None,
        "call_id": None,
        "replies": [],
        "errors": [],
    }
