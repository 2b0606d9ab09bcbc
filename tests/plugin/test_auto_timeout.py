"""The timeout ``auto`` over workers: each follows what all have seen."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.suite import Suite


@pytest.mark.parametrize("workers", [1, 3])
def test_the_limit_follows_the_answers_of_all_workers(suite: Suite, workers: int) -> None:
    suite.write("""
        import pytest
        @pytest.mark.parametrize("n", range(36))
        def test_it(lm, n): lm(f"prompt {n}")

        def test_own(lm): lm("own", timeout=7)
    """)
    ran = suite.run(f"-n{workers if workers > 1 else 0}", "--lmstudio-timeout=auto")
    assert ran.summary == "37 passed"
    assert ran.report["settings"]["timeout"] == "auto"
    limits_ms = Counter(request["timeout_ms"] for request in ran.named("gen_request"))
    assert set(limits_ms) == {45_000, 10_000, 7_000}
    # Twenty answers must have been seen; meanwhile each of the other workers may have sent one more.
    assert 20 <= limits_ms[45_000] < 20 + workers
    assert len({request["worker"] for request in ran.named("gen_request")}) == workers
