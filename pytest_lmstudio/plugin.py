"""The hooks that every pytest run pays for; the others are in `live`, and are attached where there is work for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lmstudio import flags, hooks
from pytest_lmstudio.fixtures import FIXTURES, CaseFixtures, alm, lm, lm_session
from pytest_lmstudio.lazy import loading

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["alm", "lm", "lm_session"]

_MARKER = (
    "llm(timeout=..., first_token_timeout=..., inter_token_timeout=..., retries=..., backoff=..., model=..., "
    "cache=..., stream=..., max_tokens=..., temperature=..., seed=..., system=...): how the calls of this test go "
    "(times in seconds); tests that use lm, alm or reply have this mark by themselves"
)
_CASES = (
    "llm_cases(path_or_list, prompt=..., messages=..., system=..., schema=..., id=..., **params): one test a case, "
    "with the fixtures `reply` and `case`; texts are templates such as 'Sentiment of: {text}'"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the settings."""
    flags.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks that users may implement."""
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Resolve the settings, and let xdist start workers, before xdist decides."""
    if not _only_explains(config) and flags.any_given(config):
        with loading():
            from pytest_lmstudio import live
        live.begin(config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; in a run of several processes, be ready for what workers and controller tell each other."""
    config.addinivalue_line("markers", _MARKER)
    config.addinivalue_line("markers", _CASES)
    config.pluginmanager.register(CaseFixtures(config), "lmstudio-cases")
    several = hasattr(config, "workerinput") or config.getoption("dist", "no") != "no"
    if not _only_explains(config) and (several or flags.any_given(config)):
        with loading():
            from pytest_lmstudio import live
        live.attach(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each declared case."""
    mark = metafunc.definition.get_closest_marker("llm_cases")
    if mark is not None:
        from pytest_lmstudio.cases.declare import declare

        declare(metafunc, mark)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark the tests that use the model, before ``-m`` selects; put those that are left in order."""
    if flags.PROBLEMS not in config.stash and not any(_concerns_us(item) for item in items):
        return (yield)
    with loading():
        from pytest_lmstudio import live
    live.take(config, items)
    result = yield
    # Now every hook has selected, shuffled or sorted but the outer wrappers: those of --lf, --ff and --nf, which take
    # tests out or to the front of this order, and one that a conftest may have.
    live.put_in_order(config, items)
    return result


def _concerns_us(item: pytest.Item) -> bool:
    """Tell whether a test asks the model, or has a mark that must be checked."""
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) or item.get_closest_marker("llm") is not None


def _only_explains(config: pytest.Config) -> bool:
    """Tell whether pytest was only asked for its help or version, which a wrong setting must not spoil."""
    return bool(config.getoption("help", default=False) or config.getoption("version", 0))
