"""Symptoms of a run, with what to change: the likeliest root first, and none that only says the same again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lmstudio.record.symptoms import broken, clocks, ends, foreign, load, models, remarks, setup
from pytest_lmstudio.record.symptoms.row import Elsewhere
from pytest_lmstudio.record.symptoms.words import is_lmstudio
from pytest_lmstudio.text import printable, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lmstudio.record.facts import Evidence
    from pytest_lmstudio.record.symptoms.row import Row, Seen

_EVIDENCE_CHARS = 400
#: What follows from other failures explains none.
_CONSEQUENCES = frozenset({"circuit_open", "cancelled"})

#: Roots before what follows from them: no server, no model, a clock, too much at once, and then what merely breaks.
ROWS: tuple[Row, ...] = (
    *(*setup.ROWS, *models.ROWS, *foreign.ROWS, *load.ROWS, *clocks.ROWS, *broken.ROWS, *ends.ROWS),
    *(*models.HINTS, *load.HINTS, *remarks.HINTS),
)
HINTS = frozenset(row.symptom for row in ROWS if row.hint)


def diagnose(evidence: Evidence) -> list[dict[str, str]]:
    """Return the rows that a run shows, each with symptom, cause, check, fix and evidence.

    Rows come in the order of `ROWS`, but those that are about less than a tenth of the failures after the others; a
    row that is a view of failures which rows before it are about is left out.
    """
    found = [(row, seen) for row in ROWS if (seen := row.detect(evidence)) is not None]
    failures = sum(error.kind not in _CONSEQUENCES for error in evidence.errors())
    ranked = sorted(found, key=lambda pair: (pair[0].hint, len(pair[1].blamed) * 10 < failures))
    nowhere = Elsewhere()
    return [_told(row, seen, nowhere if is_lmstudio(evidence) else row.elsewhere) for row, seen in _telling(ranked)]


def _told(row: Row, seen: Seen, elsewhere: Elsewhere) -> dict[str, str]:
    return {
        "symptom": row.symptom,
        "cause": _line(seen.cause or elsewhere.cause or row.cause),
        "check": elsewhere.check or row.check,
        "fix": _line(seen.fix or elsewhere.fix or row.fix),
        "evidence": _line(seen.evidence),
    }


def _telling(ranked: Iterable[tuple[Row, Seen]]) -> Iterator[tuple[Row, Seen]]:
    """Leave out the views of what is told already; by identity, since equal failures are not the same one."""
    told: set[int] = set()
    for row, seen in ranked:
        roots = {id(error) for error in seen.blamed if error.kind not in _CONSEQUENCES}
        if not (row.view and told and roots <= told):
            yield row, seen
        told |= roots


def _line(text: str) -> str:
    return printable(without_userinfo(text), _EVIDENCE_CHARS)
