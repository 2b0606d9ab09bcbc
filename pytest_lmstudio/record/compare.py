"""What changed from one run to another: rates and times with intervals, tests that flipped, settings that differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pytest_lmstudio.record.history import UNKNOWN_MODEL, calls_of, number
from pytest_lmstudio.record.intervals import Estimate, difference, quantile
from pytest_lmstudio.record.merge import PLACES
from pytest_lmstudio.record.rebuild import tests_of
from pytest_lmstudio.record.stats import counted_as, ratio, wilson
from pytest_lmstudio.text import without_userinfo
from pytest_lmstudio.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lmstudio.record.events import Event
    from pytest_lmstudio.record.facts import AttemptFacts, CallFacts

Verdict = Literal["worse", "better", "same", "unknown"]
Unit = Literal["share", "ms", "per_s"]

#: A time that is this much longer is worth a word, however narrow its interval is.
LEAST_SLOWDOWN = 0.1
#: Systems choose ports from here on: Linux from 32768, macOS and Windows from 49152.
_FIRST_CHOSEN_PORT = 32_768
_FAILED = frozenset({"failed", "error"})
_LOST = "lm_error"


class Measure(NamedTuple):
    """One number that two runs are compared by.

    Attributes:
        unit: what it is counted in.
        judged: whether a worse one is a regression.
        more_is_worse: whether it is good when it is small.
    """

    unit: Unit
    judged: bool = True
    more_is_worse: bool = True


MEASURES: dict[str, Measure] = {
    "error_rate": Measure("share"),
    "disconnect_rate": Measure("share"),
    "first_attempt_failure_rate": Measure("share"),
    "latency_p50_ms": Measure("ms"),
    "latency_p95_ms": Measure("ms"),
    "ttft_p50_ms": Measure("ms", judged=False),
    "ttft_p95_ms": Measure("ms", judged=False),
    "tokens_per_second_p50": Measure("per_s", judged=False, more_is_worse=False),
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        head: what it is called and how large it was, plain data.
        estimates: by name of `MEASURES`; without an interval where the run's log is not there.
        outcomes: by node id, how the tests ended that ask the model; None without a log.
        conditions: under what it ran, by name; what is not known is not there.
    """

    head: dict[str, Any]
    estimates: dict[str, Estimate]
    outcomes: dict[str, str] | None
    conditions: dict[str, Any]


class Row(NamedTuple):
    """One number of both runs: before, after, and the change with its 95 % interval."""

    name: str
    before: float | None
    after: float | None
    change: float | None
    ci95: list[float] | None
    verdict: Verdict


class Flip(NamedTuple):
    """A test whose outcome changed."""

    nodeid: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Flips:
    """How the tests changed that ask the model; each flip stands in one list.

    Attributes:
        in_both: tests of both runs.
        failed: those that fail now, and did not before.
        passed: those that failed before, and do not fail now.
        lost: those that got no answer now, and did before.
        regained: those that got no answer before, and do now.
        changed: all others whose outcome is another one.
        new: those of the second run alone.
        gone: those of the first run alone.
        failures_before: failed ones before, of the tests of both runs that were lost in neither.
        failures_after: failed ones of the same tests now.
        left_out: tests of both runs that those two leave out, since they were lost in one run or in both.
    """

    in_both: int
    failed: list[Flip]
    passed: list[Flip]
    lost: list[Flip]
    regained: list[Flip]
    changed: list[Flip]
    new: list[str]
    gone: list[str]
    failures_before: int
    failures_after: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        before: the first run.
        after: the second run.
        rows: their numbers, in the order of `MEASURES`.
        tests: their tests, None where a log is missing.
        conditions: name, before and after of what they ran under, where that differs.
        regressions: one line for each way in which the second run is worse, none if it is not.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    rows: list[Row]
    tests: Flips | None
    conditions: list[tuple[str, Any, Any]]
    regressions: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, valid JSON; rates are shares, times ms."""
        tests = None
        if self.tests is not None:
            lists = ("failed", "passed", "lost", "regained", "changed")
            flips = {name: [flip._asdict() for flip in getattr(self.tests, name)] for name in lists}
            tests = {**asdict(self.tests), **flips}
        return {
            "before": self.before,
            "after": self.after,
            "numbers": {row.name: {k: v for k, v in row._asdict().items() if k != "name"} for row in self.rows},
            "tests": tests,
            "conditions": {name: {"before": old, "after": new} for name, old, new in self.conditions},
            "regressions": self.regressions,
        }


def measured(report: Mapping[str, Any], events: Sequence[Event]) -> Side:
    """Return what of a run is compared; see `MISFIT` for what a damaged report raises.

    Args:
        report: the run's report.
        events: its log, empty when that is not there: then there are no intervals but those of rates, and no tests.
    """
    calls = [call for call in calls_of(events) if call.outcome != "abandoned"]
    tests = {nodeid: counted_as(words) or "" for nodeid, words in tests_of(events).outcomes.items()}
    return Side(
        head={
            **{name: report[name] for name in ("run_id", "started_at", "duration_s", "exit_status")},
            **{name: report["calls"][name] for name in ("sent", "failed", "cached")},
            "gate_failed": report["gate"]["failed"],
            "tests": dict(report["tests"]),
        },
        estimates={**_shares(report, calls), **_times(report, calls)},
        outcomes=tests if events else None,
        conditions=_conditions(report),
    )


def compare(before: Side, after: Side) -> Comparison:
    """Return two runs side by side.

    The second one has a regression when, of the tests in both that were lost in neither, more fail than before; when
    one of the three rates is higher and the whole interval of its change is above zero; or when the median or the 95th
    percentile of the latency is so, and by at least a tenth.
    """
    rows = [_row(name, before.estimates[name], after.estimates[name]) for name in MEASURES]
    tests = None
    if before.outcomes is not None and after.outcomes is not None:
        tests = _tests(before.outcomes, after.outcomes)
    return Comparison(
        before.head,
        after.head,
        rows,
        tests,
        _differences(before.conditions, after.conditions),
        [*_more_failures(tests), *(row.name for row in rows if row.verdict == "worse" and MEASURES[row.name].judged)],
    )


def _shares(report: Mapping[str, Any], calls: Sequence[CallFacts]) -> dict[str, Estimate]:
    sent, attempts = report["calls"], report["attempts"]
    tried = [call.attempts[0].failed for call in calls if call.attempts and call.attempts[0].number == 1]
    first = _share(sum(tried), len(tried)) if tried else Estimate(number(report["rates"]["first_attempt_failure_rate"]))
    return {
        "error_rate": _share(sent["failed"], sent["sent"]),
        "disconnect_rate": _share(attempts["disconnects"], attempts["total"]),
        "first_attempt_failure_rate": first,
    }


def _share(hits: int, trials: int) -> Estimate:
    if not 0 <= hits <= trials:
        msg = f"{hits} of {trials} is no share"
        raise ValueError(msg)
    return Estimate(ratio(hits, trials), wilson(hits, trials))


def _times(report: Mapping[str, Any], calls: Sequence[CallFacts]) -> dict[str, Estimate]:
    ended = [attempt for call in calls for attempt in call.attempts if attempt.outcome == "ok"]
    found = {}
    for prefix, name, suffix, percents in (
        ("latency", "latency_ms", "_ms", (50, 95)),
        ("ttft", "ttft_ms", "_ms", (50, 95)),
        ("tokens_per_second", "tokens_per_second", "", (50,)),
    ):
        values = _results(ended, name)
        for percent in percents:
            told = Estimate(number(report[name][f"p{percent}"]))
            found[f"{prefix}_p{percent}{suffix}"] = quantile(values, percent) if values else told
    return found


def _results(attempts: Sequence[AttemptFacts], name: str) -> list[float]:
    return [value for attempt in attempts if (value := number(attempt.result.get(name))) is not None]


def _conditions(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen for a run, as far as it can make a difference, and what is known of its server."""
    server, settings = report["server"], report["settings"]
    found = {name: value for name, value in settings.items() if name not in PLACES - {"url"}}
    found["url"] = _address(without_userinfo(str(settings.get("url"))), server["kind"])
    seen = {"server": server["kind"], "server_version": server["version"], "plugin_version": report["plugin_version"]}
    seen["models_asked"] = sorted(map(str, report["by_model"].keys() - {UNKNOWN_MODEL})) or None
    for model in server["models"]:
        if model["id"] in report["by_model"]:
            names = ("quantization", "context_length", "parallel")
            seen |= {f"{model['id']}: {name}": model[name] for name in names}
    return found | {name: value for name, value in seen.items() if value is not None}


def _address(url: str, kind: str | None) -> str:
    """Return a server's address; of a llama.cpp server that a run seems to have started, the system chose the port."""
    if kind != "llama.cpp" or not is_loopback(url):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}, any port" if (parts.port or 0) >= _FIRST_CHOSEN_PORT else url


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what two runs ran under, where it differs; what is not known of one of them is no difference."""
    both = ((name, value, after[name]) for name, value in before.items() if name in after)
    return [(name, old, new) for name, old, new in both if old != new]


def _row(name: str, before: Estimate, after: Estimate) -> Row:
    change = difference(before, after)
    interval = [_rounded(name, end) for end in change.interval] if change.interval else None
    values = [None if value is None else _rounded(name, value) for value in (before.value, after.value, change.value)]
    return Row(name, values[0], values[1], values[2], interval, _verdict(MEASURES[name], before, change))


def _rounded(name: str, value: float) -> float:
    return round(value, 6 if MEASURES[name].unit == "share" else 3)


def _verdict(measure: Measure, before: Estimate, change: Estimate) -> Verdict:
    if change.interval is None or change.value is None or before.value is None:
        return "unknown"
    least = 0.0 if measure.unit == "share" else LEAST_SLOWDOWN * before.value
    if change.interval.lo <= 0 <= change.interval.hi or abs(change.value) < least:
        return "same"
    return "worse" if (change.value > 0) == measure.more_is_worse else "better"


def _tests(before: Mapping[str, str], after: Mapping[str, str]) -> Flips:
    both = [nodeid for nodeid in after if nodeid in before]
    flips: dict[str, list[Flip]] = {name: [] for name in ("failed", "passed", "lost", "regained", "changed")}
    for nodeid in both:
        if before[nodeid] != after[nodeid]:
            flips[_sort(before[nodeid], after[nodeid])].append(Flip(nodeid, before[nodeid], after[nodeid]))
    heard = [nodeid for nodeid in both if _LOST not in {before[nodeid], after[nodeid]}]
    return Flips(
        in_both=len(both),
        **flips,
        new=[nodeid for nodeid in after if nodeid not in before],
        gone=[nodeid for nodeid in before if nodeid not in after],
        failures_before=sum(before[nodeid] in _FAILED for nodeid in heard),
        failures_after=sum(after[nodeid] in _FAILED for nodeid in heard),
        left_out=len(both) - len(heard),
    )


def _sort(before: str, after: str) -> str:
    if after == _LOST:
        return "lost"
    if before == _LOST:
        return "regained"
    if (before in _FAILED) != (after in _FAILED):
        return "failed" if after in _FAILED else "passed"
    return "changed"


def _more_failures(tests: Flips | None) -> list[str]:
    if tests is None or tests.failures_after <= tests.failures_before:
        return []
    return ["failed_tests"]
