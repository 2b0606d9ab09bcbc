"""``pytest-lmstudio doctor``: is the server there, does it answer, and what to set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_lmstudio.cli import screen, target

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_lmstudio.cli.advice import Setting, Speed
    from pytest_lmstudio.cli.findings import Finding
    from pytest_lmstudio.cli.presence import Presence
    from pytest_lmstudio.cli.target import Target
    from pytest_lmstudio.records import ModelInfo
    from pytest_lmstudio.report.terminal import Line
    from pytest_lmstudio.server.probe import Probe

HELP = "look whether the server is there and answers, and say what to set"
DESCRIPTION = "Looks at the server, question by question; says what to mend and what to set."
EXAMPLES = """\
examples:
  pytest-lmstudio doctor                            the server of LMSTUDIO_URL
  pytest-lmstudio doctor --url http://gpu:1234      another one
  pytest-lmstudio doctor --model qwen --timeout 90  a model, and its limit
  pytest-lmstudio doctor --url embedded             llama.cpp of its own
  pytest-lmstudio doctor --json | jq .settings      what to set, for a program

Without LMSTUDIO_URL it looks at http://127.0.0.1:1234. It sends a few short
questions and writes nothing. The environment counts as in a run of pytest; ini
files do not.

"""
STATUSES = {0: "the server works, if with notes", 1: "something is to mend, see the line MEND"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be typed behind the subcommand."""
    target.arguments(parser)
    parser.add_argument(
        "--samples", metavar="N", type=target.count, default=5, help="generations of one token, 5 by default"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, in ASCII")


def run(chosen: argparse.Namespace) -> int:
    """Look, and show what is found as it is found; return 0 when all is well, 1 when something is to mend."""
    with target.opened(target.settings_from(chosen)) as asked:
        from pytest_lmstudio.server.probe import Probe

        with Probe(asked.settings.url, asked.token, wait_s=asked.settings.wait, timeout_s=asked.timeout_s) as probe:
            visit = Visit(probe, asked, chosen.samples)
            if not chosen.json:
                screen.show([screen.title(f"pytest-lmstudio doctor: {probe.url}")])
            for finding in visit.findings():
                if not chosen.json:
                    screen.show(finding.lines(screen.width()))
                    screen.flush()
    if chosen.json:
        screen.say(json.dumps(visit.as_dict(), ensure_ascii=True, indent=2) + "\n")
    else:
        screen.show(visit.verdict())
    return int(visit.to_mend > 0)


class Visit:
    """One look at a server, and what it brought.

    Args:
        probe: asks the server.
        asked: what to ask, and how.
        samples: generations of one token.

    Attributes:
        found: the findings so far.
    """

    def __init__(self, probe: Probe, asked: Target, samples: int) -> None:
        self._probe = probe
        self._asked = asked
        self._samples = samples
        self.found: list[Finding] = []
        self._presence: Presence | None = None
        self._model: ModelInfo | None = None
        self._parallel: int | None = None
        self._speed: Speed | None = None

    @property
    def to_mend(self) -> int:
        """Return how many things are to mend."""
        return sum(finding.mark == "mend" for finding in self.found)

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to find, as it is found; nothing follows what is to mend, since it would rest on it."""
        for finding in self._looks():
            self.found.append(finding)
            yield finding

    def _looks(self) -> Iterator[Finding]:
        from pytest_lmstudio.cli.choice import Choice
        from pytest_lmstudio.cli.presence import Presence
        from pytest_lmstudio.cli.trial import Trial

        presence = self._presence = Presence(self._probe, self._asked.token)
        yield from presence.findings()
        if presence.features is None or presence.info is None:
            return
        named = self._asked.settings.model or self._asked.fixed_model
        choice = Choice(presence.info.models, presence.features.usable, named)
        yield from choice.findings()
        if choice.model is None:
            return
        self._model = choice.model
        # Several at once came with 0.4.0.
        self._parallel = choice.model.parallel or (1 if presence.is_older_lmstudio else None)
        trial = Trial(self._probe, self._asked, choice.model, self._samples, self._parallel)
        yield from trial.findings()
        self._speed = trial.speed

    def settings(self) -> list[Setting]:
        """Return what to set, as lines to paste; nothing before a model answered."""
        from pytest_lmstudio.cli.advice import to_set
        from pytest_lmstudio.settings import Settings

        if self._speed is None or self._model is None or self._asked.fixed_model is not None:
            return []
        url = None if self._probe.url == Settings().url else self._probe.url
        model = self._asked.settings.model and self._model.id
        return list(
            to_set(self._asked.settings, parallel=self._parallel, speed=self._speed, model=model or None, url=url)
        )

    def verdict(self) -> Iterator[Line]:
        """Yield the last lines: is all well, and what to set."""
        from pytest_lmstudio.cli.advice import lines
        from pytest_lmstudio.report.terminal import Line

        yield Line("")
        if self.to_mend:
            yield Line("Mend that, then run this again.", {"red": True, "bold": True})
            return
        notes = sum(finding.mark == "note" for finding in self.found)
        text = "All well." if not notes else "It works; see the notes."
        yield Line(text, {"yellow" if notes else "green": True, "bold": True})
        yield from map(Line, lines(self.settings()))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON."""
        presence = self._presence
        info = presence.info if presence else None
        speed = self._speed
        return {
            "status": "mend" if self.to_mend else "ok",
            "url": self._probe.url,
            "server": {
                "reachable": info.reachable if info else None,
                "kind": info.kind if info else None,
                "version": (presence.age if presence else None) or (info.version if info else None),
                "better_url": presence.better_url if presence else None,
                "models": [model._asdict() for model in info.models] if info else [],
            },
            "model": self._model.id if self._model else None,
            "ttft_ms": speed.ttft_ms if speed else None,
            "tokens_per_second": speed.tokens_per_second if speed else None,
            "findings": [finding.as_dict() for finding in self.found],
            "settings": {setting.flag.env: setting.in_environment for setting in self.settings()},
        }
