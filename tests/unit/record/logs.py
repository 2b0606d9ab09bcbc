"""Logs written by hand: events of calls at times of a clock that starts at nought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lmstudio.record.build import RunFacts, build_report, tally
from pytest_lmstudio.record.events import Event, iso_of
from pytest_lmstudio.settings import Settings
from tests.valid import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

START_S = 1_795_350_000.0


def event(name: str, at_ms: float = 0, **fields: Any) -> Event:
    """Return one event at a time of the clock; a little is added so that it is not cut to the millisecond before."""
    return {
        "ts": iso_of(START_S + at_ms / 1000 + 0.0002),
        "event": name,
        "run_id": "run-1",
        "worker": "main",
        "nodeid": "test_x.py::test_x",
        "model": "qwen",
        "pipeline_version": "v1",
        **fields,
    }


def request(call_id: str, at_ms: float = 0, attempt: int = 1, **fields: Any) -> Event:
    known = {"prompt_chars": 100, "timeout_ms": 45_000, "waited_ms": 0, "stream": True, "cache": "miss"}
    return event("gen_request", at_ms, call_id=call_id, attempt=attempt, **{**known, **fields})


def success(call_id: str, at_ms: float = 1000, attempt: int = 1, **fields: Any) -> Event:
    known = {"latency_ms": 1000, "ttft_ms": 200, "tokens_in": 40, "tokens_out": 20, "tokens_per_second": 25.0}
    ends = {"finish_reason": "stop", "stale_reconnects": 0, "stored": True, "evicted": 0, "truncated_thinking": False}
    return event("gen_success", at_ms, call_id=call_id, attempt=attempt, **{**known, **ends, **fields})


def error(call_id: str, kind: str = "timeout", at_ms: float = 1000, attempt: int = 1, **fields: Any) -> Event:
    known = {"latency_ms": 1000, "error_category": "network", "phase": "waiting", "status": None, "message": "no"}
    ends = {"stale_reconnects": 0, "retry_in_ms": None, "limit": None}
    return event("gen_error", at_ms, call_id=call_id, attempt=attempt, error_kind=kind, **{**known, **ends, **fields})


def unsent(call_id: str, kind: str, **fields: Any) -> Event:
    return error(call_id, kind, 0, 0, **{"latency_ms": None, "phase": None, **fields})


def cached(call_id: str, source: str = "cache") -> Event:
    return event("gen_cached", call_id=call_id, source=source, prompt_chars=100)


def good(call_id: str, at_ms: float = 0, latency_ms: float = 1000, *, chars: int = 100, **fields: Any) -> list[Event]:
    """Return the events of a call that went well."""
    sent = {name: fields.pop(name) for name in ("model", "timeout_ms", "worker", "cache") if name in fields}
    end = success(call_id, at_ms + latency_ms, latency_ms=latency_ms, worker=sent.get("worker", "main"), **fields)
    return [request(call_id, at_ms, prompt_chars=chars, **sent), end]


def bad(
    call_id: str, kind: str = "timeout", at_ms: float = 0, latency_ms: float = 1000, *, chars: int = 100, **fields: Any
) -> list[Event]:
    """Return the events of a call whose only attempt failed."""
    sent = {name: fields.pop(name) for name in ("model", "timeout_ms", "worker", "stream") if name in fields}
    end = error(call_id, kind, at_ms + latency_ms, latency_ms=latency_ms, worker=sent.get("worker", "main"), **fields)
    return [request(call_id, at_ms, prompt_chars=chars, **sent), end]


def goods(count: int, name: str = "ok", gap_ms: float = 10_000, **fields: Any) -> list[Event]:
    """Return that many calls one after another, each of which went well."""
    return [line for i in range(count) for line in good(f"{name}{i}", i * gap_ms, **fields)]


def bads(count: int, kind: str = "timeout", name: str = "bad", gap_ms: float = 10_000, **fields: Any) -> list[Event]:
    """Return that many calls one after another, each of which failed."""
    return [line for i in range(count) for line in bad(f"{name}{i}", kind, i * gap_ms, **fields)]


def preflight(url: str = "http://127.0.0.1:1234", **model: Any) -> Event:
    known = {
        "id": "qwen",
        "type": "llm",
        "loaded": True,
        "quantization": "Q4_K_M",
        "context_length": 4096,
        "parallel": 4,
    }
    server = {"url": url, "reachable": True, "version": None, "kind": "lmstudio", "problem": None}
    return event("preflight", server={**server, "models": [{**known, **model}]})


def facts(settings: Settings | None = None, **fields: Any) -> RunFacts:
    known: dict[str, Any] = {
        "run_id": "run-1",
        "started_at": "2026-11-22T12:00:00.000Z",
        "duration_s": 12.5,
        "pipeline_version": "v1",
        "plugin_version": "0.1.0",
        "exit_status": 0,
        "settings": settings or Settings(),
    }
    if "outcomes" in fields:
        fields["outcomes"] = {**tally({}), **fields["outcomes"]}
    return RunFacts(**{**known, **fields})


def report_of(events: Sequence[Event], settings: Settings | None = None, **fields: Any) -> dict[str, Any]:
    return checked(build_report(events, run=facts(settings, **fields)))
