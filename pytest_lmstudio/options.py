"""The settings of a run: how each is read and checked, and where it may come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from pytest_lmstudio import values
from pytest_lmstudio.flags import FLAGS, TOKEN_VARIABLES, Flag, is_header_safe
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Source = Literal["command line", "environment", "ini", "recipe", "default"]


class Option(NamedTuple):
    """One setting.

    Attributes:
        name, env, metavar, help: as in `Flag`.
        parse: turns text into the value, or raises `ValueError` with what was expected.
        env_parse: the same for the environment, where the unit differs.
    """

    name: str
    env: str
    metavar: str
    help: str
    parse: Callable[[str], Any]
    env_parse: Callable[[str], Any] | None = None

    @property
    def flag(self) -> str:
        """Return the command line's name."""
        return Flag(*self[:4]).flag

    @property
    def ini(self) -> str:
        """Return the ini file's name."""
        return Flag(*self[:4]).ini


_PARSERS: dict[str, tuple[Callable[[str], Any], Callable[[str], Any] | None]] = {
    "url": (values.url, None),
    "model": (values.name, None),
    "timeout": (values.timeout, values.timeout_ms),
    "retries": (values.retries, None),
    "backoff": (values.backoff, values.backoff_ms),
    "retry_strategy": (values.name, None),
    "concurrency": (values.concurrency, None),
    "latency_threshold": (values.threshold, values.threshold_ms),
    "breaker": (values.breaker, None),
    "cache": (values.one_of("readwrite", "refresh", "off", "offline"), None),
    "cache_size": (values.positive, None),
    "pipeline_version": (values.text, None),
    "max_error_rate": (values.rate, None),
    "on_error": (values.one_of("gate", "fail"), None),
    "stream": (values.switch, None),
    "recipe": (values.recipe, None),
    "wait": (values.wait, None),
    "dir": (values.folder, None),
    "report": (values.file, None),
    "html": (values.file, None),
}

OPTIONS: tuple[Option, ...] = tuple(Option(*flag, *_PARSERS[flag.name]) for flag in FLAGS)

#: Names of `engine.retry.STRATEGIES`, known here so that a plain suite need not load that room.
STRATEGIES = ("exponential", "decorrelated")


class Resolved(NamedTuple):
    """The settings, and where each that is not a default came from."""

    settings: Settings
    sources: Mapping[str, Source]

    @property
    def concurrency_given(self) -> bool:
        """Tell whether the user said how many requests may be in flight; a recipe does not count."""
        return self.sources.get("concurrency", "default") in {"command line", "environment", "ini"}

    @property
    def wants_workers(self) -> bool:
        """Tell whether the user asked for something that implies xdist workers."""
        return self.concurrency_given or self.sources.get("url") == "command line"


def resolve(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> Resolved:
    """Return all settings by the order command line, environment, ini, recipe, default.

    Raises:
        pytest.UsageError: a value is wrong; one line with the value and where it came from.
    """
    given: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for option in OPTIONS:
        found = _find(option, config, environ)
        if found is not None:
            given[option.name], sources[option.name] = found
    for name, value in values.RECIPES.get(given.get("recipe", ""), {}).items():
        if name not in given:
            given[name], sources[name] = value, "recipe"
    _check_token(environ)
    _settle_paths(given, sources, config)
    return Resolved(Settings(**given), sources)


def _find(option: Option, config: pytest.Config, environ: Mapping[str, str]) -> tuple[Any, Source] | None:
    on_command_line = config.getoption(option.ini, None)
    if on_command_line is not None:
        return _read(option.parse, str(on_command_line), option, "command line", config), "command line"
    in_environment = environ.get(option.env, "")
    if in_environment:
        return _read(option.env_parse or option.parse, in_environment, option, "environment", config), "environment"
    in_ini = _ini_text(config, option.ini)
    if in_ini is not None:
        return _read(option.parse, in_ini, option, "ini", config), "ini"
    return None


def _ini_text(config: pytest.Config, name: str) -> str | None:
    """Return an ini value as text."""
    try:
        value = config.getini(name)
    except TypeError as error:  # of pytest 9.0 and 9.1, where later ones raise a UsageError
        raise pytest.UsageError(str(error)) from None
    if value is None or value == "":
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(parse: Callable[[str], Any], text: str, option: Option, source: Source, config: pytest.Config) -> Any:
    try:
        return parse(text.strip())
    except ValueError as error:
        raise wrong_value(option, text, source, config, str(error)) from None


def wrong_value(option: Option, text: str, source: Source, config: pytest.Config, problem: str) -> pytest.UsageError:
    """Return the error that tells a wrong value, how it was given and where."""
    where = config.inipath.name if source == "ini" and config.inipath else source
    return pytest.UsageError(f"{_spelled(option, source)}={values.quoted(text)} ({where}): {problem}")


def unknown_strategy(resolved: Resolved, config: pytest.Config) -> pytest.UsageError:
    """Return the error for a retry strategy that neither we nor a hook know, which only the conftests can tell."""
    option = next(option for option in OPTIONS if option.name == "retry_strategy")
    problem = "expected 'exponential', 'decorrelated', or a name that a hook knows"
    source = resolved.sources.get(option.name, "default")
    return wrong_value(option, resolved.settings.retry_strategy, source, config, problem)


def _check_token(environ: Mapping[str, str]) -> None:
    for name in TOKEN_VARIABLES:
        if not is_header_safe(environ.get(name, "").strip()):
            msg = f"{name} (environment): the token holds characters that no HTTP header can carry; set it again"
            raise pytest.UsageError(msg)


def token(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the API token, or None; it is read where it is used and kept out of `Settings`."""
    for name in TOKEN_VARIABLES:
        if environ.get(name, "").strip():
            return environ[name].strip()
    return None


def _settle_paths(given: dict[str, Any], sources: Mapping[str, Source], config: pytest.Config) -> None:
    """Make paths absolute: an ini value is relative to the ini file, the others to where pytest was started."""
    given.setdefault("dir", ".lmstudio")
    for option in (option for option in OPTIONS if option.parse in {values.folder, values.file}):
        name, source = option.name, sources.get(option.name, "default")
        if name not in given:
            continue
        home = config.rootpath if source in {"default", "ini"} else config.invocation_params.dir
        path = Path(home, os.path.expanduser(given[name]))  # noqa: PTH111  # leaves an unknown user's ~ as it is
        problem = _problem_of(path, folder=option.parse is values.folder)
        if problem and source != "default":
            raise wrong_value(option, given[name], source, config, problem)
        given[name] = str(path)


def _problem_of(path: Path, *, folder: bool) -> str | None:
    """Return why nothing can be written there, as far as that can be seen before."""
    try:
        if path.exists():
            expected, found = ("folder", "file") if folder else ("file", "folder")
            return None if path.is_dir() is folder else f"expected a {expected}, {_whole(path)} is a {found}"
        parent = next(parent for parent in path.parents if parent.exists())
    except OSError as error:
        return f"{_whole(path)} cannot be reached ({error.strerror})"
    return None if parent.is_dir() else f"{_whole(parent)} is not a folder"


def _whole(path: Path) -> str:
    """Return a path as an error line shows it; its end tells the most, so it is not cut."""
    from pytest_lmstudio.text import printable

    return printable(str(path))


def header_lines(resolved: Resolved, default_dir: Path) -> list[str]:
    """Return the settings that differ from their defaults, as lines for pytest's header."""
    default = Settings(dir=str(default_dir))
    parts = []
    for option in OPTIONS:
        value = getattr(resolved.settings, option.name)
        if value != getattr(default, option.name):
            source = resolved.sources.get(option.name, "default")
            spelled = _spelled(option, source, negated=value is False)
            parts.append(f"{option.name}={values.shown(option.name, value)} ({spelled})")
    parts += [f"{name}={value} (recipe)" for name, value in resolved.settings.params]
    return [f"lmstudio: {', '.join(parts)}"] if parts else []


def _spelled(option: Option, source: Source, *, negated: bool = False) -> str:
    flag = option.flag.replace("--", "--no-", 1) if negated else option.flag
    names = {"command line": flag, "environment": option.env, "ini": option.ini}
    return names.get(source, source)
