"""What every pytest run loads of the settings."""

from __future__ import annotations

import pytest

from pytest_lmstudio import flags
from pytest_lmstudio.keywords import MARK_KEYWORDS
from pytest_lmstudio.plugin import _MARKER


@pytest.mark.parametrize(("token", "safe"), [("sk-lm-a:b", True), ("", True), ("a\nb", False), ("schlüssel", False)])
def test_only_printable_ascii_travels_in_a_header(token: str, safe: bool) -> None:
    assert flags.is_header_safe(token) is safe


def test_the_markers_description_names_every_keyword() -> None:
    assert _MARKER.startswith(f"llm({', '.join(f'{name}=...' for name in MARK_KEYWORDS)}): ")
