"""Nothing can work: no server, no key, no route, no such model, a request that no server would take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lmstudio.errors import NOTHING_OF_THE_TEST, UNKNOWN_MODEL
from pytest_lmstudio.record.symptoms.look import errors_of, successes, told_of
from pytest_lmstudio.record.symptoms.row import Elsewhere, Row, Seen
from pytest_lmstudio.record.symptoms.words import command_name, is_lmstudio, load_command, models_of, span, times

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lmstudio.record.facts import AttemptFacts, CallError, Evidence

_SHOWN_MODELS = 3
_DEADLY = ("crashed", "out_of_memory", "context")
#: A server that dies cuts connections for so long before it refuses them.
_DYING_S = 10.0
_ANSWERED_BY = re.compile(r"answered by (\S+)$")
_TEMPLATE = (
    "mend the order and roles of the messages (many templates want one system message, first, and then user and "
    "assistant in turn), or choose another prompt template for the model"
)
_GRAMMAR = "make the JSON schema or the tools simpler: fewer tools, no bounds such as a large maxLength or maxItems"
#: By what the message says, the first that fits.
_REJECTED = (
    (r"jinja|template", _TEMPLATE),
    (r"grammar|sampler", _GRAMMAR),
    (r"image|audio", "send images that the model can read, as data URLs, or choose a model with vision"),
    (r"unrecognized key|reasoning|response_format|discriminator", "leave out the parameter that the message names"),
)


def own_server_died(evidence: Evidence) -> Seen | None:
    """Detect that the server which the run started for itself was dead at the end."""
    if evidence.log is None or not evidence.log.exited:
        return None
    lost = evidence.errors("connect", "disconnect", "unreachable", "circuit_open", "invalid_response")
    counts = evidence.log.counts
    told = ", ".join(f"{counts[name]} x {name.replace('_', ' ')}" for name in _DEADLY if counts.get(name))
    return Seen(f"its process had ended before the run did; its log tells: {told or 'nothing of a reason'}", lost)


def went_away(evidence: Evidence) -> Seen | None:
    """Detect that a server which had answered refused connections later."""
    refused = sorted((a.start_s, a.end_s or a.start_s) for a in evidence.failures("connect") if a.start_s)
    ended = [a.end_s for a in successes(evidence) if a.end_s is not None]
    if not refused or min(ended, default=refused[0][0]) >= refused[0][0] or _own_server_is_dead(evidence):
        return None
    first_s, last_s = refused[0][0], max(end for _, end in refused)
    before, after = sum(s < first_s for s in ended), sum(s > first_s for s in ended)
    again = f", and {after} later" if after else ", and none later"
    away = f"connections were refused for {span((last_s - first_s) * 1000)} ({times(len(refused), 'attempt')})"
    return Seen(
        f"{times(before, 'call')} went well before{again}; {away}",
        [*evidence.errors("connect", "unreachable", "circuit_open"), *_dying(evidence, first_s)],
    )


def unreachable(evidence: Evidence) -> Seen | None:
    """Detect that no connection was ever made."""
    found = evidence.errors("unreachable", "connect")
    if not found or went_away(evidence) or _own_server_is_dead(evidence):
        return None
    return Seen(told_of(found, ("unreachable", "connect")), found)


def no_model(evidence: Evidence) -> Seen | None:
    """Detect that the model asked is not there, and name those that are."""
    found = evidence.errors("no_model")
    if not found:
        return None
    known = [str(m["id"]) for m in evidence.report["server"]["models"] if m["type"] != "embedding"]
    asked = next(iter(models_of(a for a in evidence.failures("no_model"))), "")
    fix = None
    if asked in known:
        fix = f"load it before the run with `lms load {command_name(asked)}`" if is_lmstudio(evidence) else None
    elif known:
        shown, one = ", ".join(map(command_name, known[:_SHOWN_MODELS])), command_name(known[0])
        load = f"`lms load {one}` and " if is_lmstudio(evidence) else ""
        fix = f"name one that is there (the server lists {shown}): {load}--lmstudio-model={one}"
    return Seen(told_of(found, ("no_model",)), found, fix)


def wrong_model(evidence: Evidence) -> Seen | None:
    """Detect that another model answered than the one asked."""
    found = evidence.failures("wrong_model")
    if not found:
        return None
    answered = next((match[1] for a in found if (match := _ANSWERED_BY.search(a.message))), "")
    known = {str(m["id"]) for m in evidence.report["server"]["models"]}
    load = f"load the one that is meant with {load_command(evidence, found)}"
    name = f"name the one that answers with --lmstudio-model={command_name(answered)}" if answered else ""
    ways = [load, name] if known.intersection(models_of(found)) else [name, load]
    if not is_lmstudio(evidence):
        ways = [name]
    return Seen(told_of(found, ("wrong_model",)), found, ", or ".join(filter(None, ways)))


def rejected(evidence: Evidence) -> str | None:
    """Return how to mend the request, as the first message tells."""
    said = next((error.message for error in evidence.errors("bad_request") if error.message), "")
    return next((fix for pattern, fix in _REJECTED if re.search(pattern, said, re.IGNORECASE)), None)


def unknown_model(evidence: Evidence) -> Seen | None:
    """Detect that a cache was to answer for a model that nobody named."""
    return _missed(evidence, lambda said: said.startswith(UNKNOWN_MODEL))


def never_recorded(evidence: Evidence) -> Seen | None:
    """Detect that the cache has nothing of a test."""
    return _missed(evidence, lambda said: said.startswith(NOTHING_OF_THE_TEST))


def changed_since(evidence: Evidence) -> Seen | None:
    """Detect that the cache has answers to other questions of a test."""
    return _missed(evidence, lambda said: not said.startswith((UNKNOWN_MODEL, NOTHING_OF_THE_TEST)))


def _missed(evidence: Evidence, fits: Callable[[str], bool]) -> Seen | None:
    found = [error for error in evidence.errors("cache_miss") if fits(error.message)]
    return Seen(told_of(found, ("cache_miss",)), found) if found else None


def _own_server_is_dead(evidence: Evidence) -> bool:
    return evidence.log is not None and evidence.log.exited


def _dying(evidence: Evidence, first_s: float) -> list[AttemptFacts | CallError]:
    """Return the connections that broke when the server went."""
    broken = evidence.failures("disconnect", "invalid_response", "server_error")
    return [a for a in broken if a.end_s is not None and abs(a.end_s - first_s) <= _DYING_S]


ROWS = (
    Row(
        "the run's own server died",
        "llama.cpp was killed or crashed, such as for memory",
        "embedded.log in the run's folder; the system's log for processes that were killed for memory",
        "run again with --lf; if it comes back, have fewer requests in flight (EVAL_CONCURRENCY) or a smaller model",
        own_server_died,
    ),
    Row(
        "the server went away while the run was on",
        "it crashed, was stopped or restarted, or the machine slept",
        "the server's log and the system's log at that time",
        "start it again with `lms server start`, then run the lost tests again with --lf; --lmstudio-retries=6 bridges "
        "a restart",
        went_away,
        elsewhere=Elsewhere(
            fix="start it again, then run the lost tests again with --lf; --lmstudio-retries=6 bridges a restart"
        ),
    ),
    Row(
        "the server cannot be reached",
        "it is not started, or listens on another address or port",
        "open the address with /v1/models behind it in a browser",
        "start it with `lms server start`, or give its address with --lmstudio-url; --lmstudio-wait=60 waits for one "
        "that is still starting",
        unreachable,
        elsewhere=Elsewhere(
            fix="start it, or give its address with --lmstudio-url; --lmstudio-wait=60 waits for one that is still "
            "starting"
        ),
    ),
    Row(
        "the server refuses the API token",
        "authentication is on and no token, or a wrong one, was sent",
        "LM Studio, server settings: Require Authentication",
        "set LM_API_TOKEN to a token made there, or turn authentication off",
        errors_of("auth"),
        elsewhere=Elsewhere("the key that the server was started with", "set LM_API_TOKEN to the server's key"),
    ),
    Row(
        "the server does not know the route",
        "the address points to something else, or has a path too many",
        "the address with /v1/models behind it must answer a list of models",
        "give the base address alone as --lmstudio-url, such as http://127.0.0.1:1234",
        errors_of("wrong_url"),
    ),
    Row(
        "the model asked for is not there",
        "no model is loaded, or its name is misspelt",
        "run `lms ps` and `lms ls`",
        "load it before the run with `lms load`, and name it with --lmstudio-model",
        no_model,
        elsewhere=Elsewhere(
            "the address with /v1/models behind it lists what is there",
            "start the server with the model that is meant, and name it with --lmstudio-model",
            "the server has no such model, or its name is misspelt",
        ),
    ),
    Row(
        "another model answers than the one asked for",
        "with one model loaded LM Studio answers with that one, whatever name is asked for",
        "run `lms ps`",
        "load the model that is meant with `lms load`, and name it with --lmstudio-model",
        wrong_model,
        elsewhere=Elsewhere(
            "the address with /v1/models behind it lists what is there",
            "name the model that the server has with --lmstudio-model",
            "a server of one model answers with that one, whatever name is asked for",
        ),
    ),
    Row(
        "the server rejects the requests",
        "the messages, the schema or a parameter are not what the model or the server takes",
        "the message of the error, and one such request sent by hand",
        "mend the request as the message says; sending it again cannot help",
        errors_of("bad_request", fix=rejected),
    ),
    Row(
        "it is not known which model the offline cache is asked for",
        "no model is named, and none is remembered for this address: a run keeps the one that it asked the server for",
        "`pytest-lmstudio cache stats` lists the models whose answers there are, and those that are remembered",
        "name the model with --lmstudio-model (LMSTUDIO_MODEL), or ask the server with --lmstudio-cache=readwrite",
        unknown_model,
    ),
    Row(
        "tests were never recorded in the offline cache",
        "they are new or were renamed, the cache is another one than was recorded to (--lmstudio-dir), or a stream was "
        "left before its end, which stores nothing",
        "`pytest-lmstudio cache stats` tells how many answers there are, and in which folder",
        "record them with --lmstudio-cache=readwrite (LLM_CACHE=readwrite), or name the folder that has them",
        never_recorded,
    ),
    Row(
        "the answer was not in the offline cache",
        "prompt, parameters, model or pipeline version changed since it was recorded",
        "the error of the test: it says what differs from the nearest entry",
        "record again with --lmstudio-cache=readwrite (LLM_CACHE=readwrite)",
        changed_since,
    ),
)
