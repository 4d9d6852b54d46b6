"""The package name `solution`."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_llm_lab.course import solution


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `engine` with the modules `basics` and `attention` that `solution` stands for."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "basics.py").write_text("class Linear:\n    pass\n")
    (folder / "attention.py").write_text("from .basics import Linear\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TINY_LLM_SOLUTION", "engine")
    saved = {name: module for name, module in sys.modules.items() if _is_alias(name)}
    for name in saved:
        del sys.modules[name]
    solution.install()
    yield folder
    for name in list(sys.modules):
        if _is_alias(name) or name.split(".")[0] == "engine":
            del sys.modules[name]
    sys.modules.update(saved)


def _is_alias(name: str) -> bool:
    return name.split(".")[0] == "solution"


def test_alias_is_the_same_module_and_class(package: Path) -> None:
    alias = importlib.import_module("solution.attention")
    real = importlib.import_module("engine.attention")
    assert alias is real
    assert alias.Linear is importlib.import_module("engine.basics").Linear
    assert importlib.import_module("solution") is importlib.import_module("engine")


def test_real_name_and_spec_are_kept(package: Path) -> None:
    module = importlib.import_module("solution.attention")
    assert module.__name__ == "engine.attention"
    assert module.__spec__ is not None
    assert module.__spec__.name == "engine.attention"
    assert module.__spec__.origin == str(package / "attention.py")
    assert module.__package__ == "engine"
    assert module.Linear.__module__ == "engine.basics"
    assert importlib.reload(importlib.import_module("engine.attention")) is module


def test_from_import_of_a_module(package: Path) -> None:
    namespace: dict[str, object] = {}
    exec("from solution import attention\nimport solution.basics", namespace)
    assert namespace["attention"] is sys.modules["engine.attention"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package", "must be tiny_llm or tiny_llm_ref, but is 'no_such_package'."),
        ("tiny_llm", "There is no src/tiny_llm: pdm run skeleton --write makes it."),
    ],
)
def test_missing_package_is_one_sentence(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_LLM_SOLUTION", name)
    monkeypatch.setattr(solution, "find_spec", lambda _: None)
    with pytest.raises(solution.SolutionMissing, match=message):
        solution.package_folder()


def test_missing_import_of_a_module_passes_through(package: Path) -> None:
    (package / "broken.py").write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("solution.broken")
    assert caught.value.name == "no_such_library"


def test_reference_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINY_LLM_SOLUTION", raising=False)
    assert solution.package_name() == "tiny_llm_ref"
    assert (solution.package_folder() / "basics.py").is_file()
