"""A healthy stand-in server, and a suite that asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugin.suite import Suite
from tests.standin import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def suite(pytester: pytest.Pytester, server: StandIn) -> Suite:
    return Suite(pytester, server)
