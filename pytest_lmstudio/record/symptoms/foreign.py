"""Attempts that end at one constant time which is not ours: the mark of somebody else's clock."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pytest_lmstudio.record.server_log import strangers_hangups
from pytest_lmstudio.record.stats import median
from pytest_lmstudio.record.symptoms.look import SAME_CLOCK, near
from pytest_lmstudio.record.symptoms.row import Row, Seen
from pytest_lmstudio.record.symptoms.words import limits, span, times

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lmstudio.record.facts import AttemptFacts, Evidence

_SHORTEST_MS = 1000.0
_SHORTEST_ROUND_S = 10
_SAME_MOMENT_S = 2.0
_OWN_ERROR = 500
#: So many of a kind, and most of all that broke off.
_LEAST = 3


class _Clock(NamedTuple):
    """A limit that is somebody's default, and how it is raised."""

    s: int
    whose: str
    raised: str


_NGINX = "in nginx: proxy_read_timeout 600s; proxy_buffering off;"
#: Defaults as their makers document them; what is near one of them is named after it.
_CLOCKS = (
    _Clock(29, "Amazon API Gateway", "it cannot be raised far: go around it"),
    _Clock(30, "Heroku's router, Google Cloud's load balancer, and many client libraries", "raise its timeout"),
    _Clock(60, "nginx (proxy_read_timeout), Apache (ProxyTimeout) and AWS load balancers (idle timeout)", _NGINX),
    _Clock(100, "Cloudflare (proxy read timeout)", "raise Cloudflare's proxy read timeout, or go around it"),
    _Clock(120, "Cloudflare (proxy read timeout)", "raise Cloudflare's proxy read timeout, or go around it"),
    _Clock(230, "Azure App Service's front end", "it cannot be raised: go around it"),
    _Clock(240, "Azure's load balancer (idle timeout)", "raise its idle timeout"),
    _Clock(300, "Node's fetch (undici headersTimeout, bodyTimeout), aiohttp and Cloud Run",
           "raise it in the program between (undici: headersTimeout and bodyTimeout 0; aiohttp: ClientTimeout)"),
    _Clock(600, "the OpenAI SDKs, and proxies built with them", "raise the timeout of the program between"),
)  # fmt: skip


def cut_at_a_foreign_limit(evidence: Evidence) -> Seen | None:
    """Detect failures that share one duration which is not our limit, the mark of somebody else's clock."""
    ended, cluster = _foreign(evidence)
    if not cluster:
        return None
    lasted = [a.latency_ms or 0.0 for a in cluster]
    clock = _clock_of(median(lasted) / 1000)
    strangers = strangers_hangups(evidence)
    log = f"; the server's log has {times(strangers, 'client')} that hung up when this run did not" if strangers else ""
    return Seen(
        f"{len(cluster)} of {times(len(ended), 'broken attempt')} ended after {_round_s(median(lasted) / 1000):g} s"
        f"{_between(lasted)}, which is not the timeout of {limits(ended)}{log}",
        cluster,
        f"{clock.raised}; or point --lmstudio-url straight at the server" if clock else None,
        f"a program between has a limit of its own: {clock.s} s is the default of {clock.whose}" if clock else None,
    )


def foreign_cuts(evidence: Evidence) -> list[AttemptFacts]:
    """Return the attempts that somebody else's clock ended."""
    return _foreign(evidence)[1]


def _foreign(evidence: Evidence) -> tuple[list[AttemptFacts], list[AttemptFacts]]:
    """Return the attempts that broke off late, and those of them that share a duration, if they are most."""
    ended = [
        a
        for a in evidence.failures("disconnect", "timeout", "server_error", "invalid_response")
        if a.limit is None and (a.latency_ms or 0) >= _SHORTEST_MS and not _is_the_servers(a)
    ]
    foreign = [a for a in ended if a.latency_ms and not near(a.latency_ms, a.timeout_ms)]
    cluster = _largest_cluster(foreign)
    if len(cluster) < _LEAST or len(cluster) * 2 <= len(ended) or _is_one_blow(cluster):
        return ended, []
    return ended, cluster


def _is_the_servers(attempt: AttemptFacts) -> bool:
    """Tell whether the model server itself answered with an error; those of gateways have statuses of their own."""
    status = attempt.result.get("status")
    return attempt.kind == "server_error" and not (isinstance(status, int) and status > _OWN_ERROR)


def _is_one_blow(cluster: Sequence[AttemptFacts]) -> bool:
    """Tell whether requests that began together ended together, as when a server dies; not at a clock that is known."""
    moments = {round(a.end_s / _SAME_MOMENT_S) for a in cluster if a.end_s is not None}
    return len(moments) < _LEAST and _clock_of(median(a.latency_ms or 0.0 for a in cluster) / 1000) is None


def _largest_cluster(attempts: Iterable[AttemptFacts]) -> list[AttemptFacts]:
    """Return the most attempts whose durations lie within 3 % of their middle."""
    ranked = sorted(attempts, key=lambda a: a.latency_ms or 0.0)
    lasted = [a.latency_ms or 0.0 for a in ranked]
    widest = (1 + SAME_CLOCK) / (1 - SAME_CLOCK)
    spans = ((start, bisect_right(lasted, lowest * widest)) for start, lowest in enumerate(lasted))
    start, end = max(spans, key=lambda one: one[1] - one[0], default=(0, 0))
    return ranked[start:end]


def _clock_of(middle_s: float) -> _Clock | None:
    fitting = [clock for clock in _CLOCKS if near(middle_s, clock.s)]
    return min(fitting, key=lambda clock: abs(clock.s - middle_s), default=None)


def _between(lasted_ms: Sequence[float]) -> str:
    least, most = span(min(lasted_ms)), span(max(lasted_ms))
    return "" if least == most else f" ({least} to {most})"


def _round_s(middle_s: float) -> float:
    """Return the number that somebody may have set: limits of ten seconds and more are mostly multiples of five."""
    fifth = 5 * round(middle_s / 5)
    return fifth if fifth >= _SHORTEST_ROUND_S and near(middle_s, fifth) else round(middle_s, 1)


ROWS = (
    Row(
        "attempts are cut at one constant time that is not this run's timeout",
        "a proxy or another program between has a limit of its own, such as proxy_read_timeout or an idle timeout",
        "the same request sent straight to the server's own port",
        "raise that limit (nginx: proxy_read_timeout, proxy_buffering off), or point --lmstudio-url straight at the "
        "server",
        cut_at_a_foreign_limit,
        view=True,
    ),
)
