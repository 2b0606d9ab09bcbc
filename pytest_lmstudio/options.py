"""The settings of a run: how each is read and checked, and where it may come from."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from pytest_lmstudio import values
from pytest_lmstudio.names import FLAGS, Flag, token_problem
from pytest_lmstudio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Source = Literal["command line", "environment", "ini", "recipe", "default"]

#: What a system says of a disk that is full, or of a user who has no room left on it.
_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
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
    def wanted_files(self) -> list[str]:
        """Return the files that the command line asks for, where the report is to go."""
        named = {"report": self.settings.report, "html": self.settings.html}
        return [path for name, path in named.items() if path and self.sources.get(name) == "command line"]

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
    for flag in FLAGS:
        found = _find(flag, config, environ)
        if found is not None:
            given[flag.name], sources[flag.name] = found
    for name, value in values.RECIPES.get(given.get("recipe", ""), {}).items():
        if name not in given:
            given[name], sources[name] = value, "recipe"
    if (problem := token_problem(environ)) is not None:
        raise pytest.UsageError(problem)
    _settle_paths(given, sources, config)
    return Resolved(Settings(**given), sources)


def _find(flag: Flag, config: pytest.Config, environ: Mapping[str, str]) -> tuple[Any, Source] | None:
    parser = values.PARSERS[flag.name]
    on_command_line = config.getoption(flag.ini, None)
    if on_command_line is not None:
        return _read(parser.text, str(on_command_line), flag, "command line", config), "command line"
    in_environment = environ.get(flag.env, "")
    if in_environment:
        return _read(parser.env or parser.text, in_environment, flag, "environment", config), "environment"
    in_ini = _ini_text(config, flag.ini)
    if in_ini is not None:
        return _read(parser.text, in_ini, flag, "ini", config), "ini"
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


def _read(parse: Callable[[str], Any], text: str, flag: Flag, source: Source, config: pytest.Config) -> Any:
    try:
        return parse(text.strip())
    except ValueError as error:
        raise wrong_value(flag, text, source, config, str(error)) from None


def wrong_value(flag: Flag, text: str, source: Source, config: pytest.Config, problem: str) -> pytest.UsageError:
    """Return the error that tells a wrong value, how it was given and where."""
    where = config.inipath.name if source == "ini" and config.inipath else source
    return pytest.UsageError(f"{_spelled(flag, source)}={values.quoted(text)} ({where}): {problem}")


def unknown_strategy(resolved: Resolved, config: pytest.Config) -> pytest.UsageError:
    """Return the error for a retry strategy that neither we nor a hook know, which only the conftests can tell."""
    flag = next(flag for flag in FLAGS if flag.name == "retry_strategy")
    problem = "expected 'exponential', 'decorrelated', or a name that a hook knows"
    source = resolved.sources.get(flag.name, "default")
    return wrong_value(flag, resolved.settings.retry_strategy, source, config, problem)


def _settle_paths(given: dict[str, Any], sources: Mapping[str, Source], config: pytest.Config) -> None:
    """Make paths absolute: an ini value is relative to the ini file, the others to where pytest was started."""
    given.setdefault("dir", ".lmstudio")
    for flag in (flag for flag in FLAGS if values.PARSERS[flag.name].text in {values.folder, values.file}):
        name, source = flag.name, sources.get(flag.name, "default")
        if name not in given:
            continue
        home = config.rootpath if source in {"default", "ini"} else config.invocation_params.dir
        path = Path(home, os.path.expanduser(given[name]))  # noqa: PTH111  # leaves an unknown user's ~ as it is
        is_folder = values.PARSERS[flag.name].text is values.folder
        # A cache that is read alone may be where nothing can be written.
        read_alone = is_folder and given.get("cache") == "offline"
        if source != "default" and (problem := _problem_of(path, folder=is_folder, written=not read_alone)):
            raise wrong_value(flag, given[name], source, config, problem)
        given[name] = str(path)


def _problem_of(path: Path, *, folder: bool, written: bool) -> str | None:
    """Return why nothing can be written there, as far as that can be seen before."""
    try:
        if path.exists():
            expected, found = ("folder", "file") if folder else ("file", "folder")
            if path.is_dir() is not folder:
                return f"expected a {expected}, {_whole(path)} is a {found}"
        place = path if path.exists() else next(parent for parent in path.parents if parent.exists())
        if not path.exists() and not place.is_dir():
            return f"{_whole(place)} is not a folder"
    except OSError as error:
        return f"{_whole(path)} cannot be reached ({error.strerror})"
    if not written or _takes(place):
        return None
    return f"nothing can be written in {_whole(place)}; name another {'folder' if folder else 'file'}"


def _takes(place: Path) -> bool:
    """Tell whether a file can be written, or a folder takes one; one that is full may have room again later.

    A try tells more than the permissions: those of /proc let its owner do everything.
    """
    if not place.is_dir():
        return os.access(place, os.W_OK)
    try:
        Path(tempfile.mkdtemp(prefix=".lmstudio-", dir=place)).rmdir()
    except OSError as error:
        return error.errno in _FULL
    return True


def _whole(path: Path) -> str:
    """Return a path as an error line shows it; its end tells the most, so it is not cut."""
    from pytest_lmstudio.text import printable

    return printable(str(path))


def header_lines(resolved: Resolved, default_dir: Path) -> list[str]:
    """Return the settings that differ from their defaults, as lines for pytest's header."""
    default = Settings(dir=str(default_dir))
    parts = []
    for flag in FLAGS:
        value = getattr(resolved.settings, flag.name)
        if value != getattr(default, flag.name):
            source = resolved.sources.get(flag.name, "default")
            spelled = _spelled(flag, source, negated=value is False)
            parts.append(f"{flag.name}={values.shown(flag.name, value)} ({spelled})")
    parts += [f"{name}={value} (recipe)" for name, value in resolved.settings.params]
    return [f"lmstudio: {', '.join(parts)}"] if parts else []


def _spelled(flag: Flag, source: Source, *, negated: bool = False) -> str:
    option = flag.negated if negated else flag.option
    names = {"command line": option, "environment": flag.env, "ini": flag.ini}
    return names.get(source, source)
