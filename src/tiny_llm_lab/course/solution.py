"""The package name `solution`: an alias of the solution package that is being graded.

Graded tests write `from solution.attention import causal_mask`. The environment variable
TINY_LLM_SOLUTION says which package that is: `tiny_llm` (the student's) or `tiny_llm_ref`.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ALIAS = "solution"
ENVIRONMENT_VARIABLE = "TINY_LLM_SOLUTION"
STUDENT = "tiny_llm"
REFERENCE = "tiny_llm_ref"


class SolutionMissing(Exception):
    """The solution package does not exist; the message is one sentence."""


def package_name() -> str:
    """The package that `solution` stands for."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or REFERENCE


def package_folder() -> Path:
    """The folder of the package that `solution` stands for.

    Raises:
        SolutionMissing: there is no such package.
    """
    name = package_name()
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        if name == STUDENT:
            raise SolutionMissing("There is no src/tiny_llm: pdm run skeleton --write makes it.")
        raise SolutionMissing(
            f"{ENVIRONMENT_VARIABLE} must be {STUDENT} or {REFERENCE}, but is {name!r}."
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def install() -> None:
    """Make `import solution` work in this process; a second call changes nothing."""
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())


class _AliasFinder(MetaPathFinder):
    """Finds `solution` and `solution.x`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        alias, _, module = fullname.partition(".")
        if alias != ALIAS:
            return None
        name = f"{package_name()}.{module}" if module else package_name()
        return ModuleSpec(fullname, _AliasLoader(name), is_package=not module)


class _AliasLoader(Loader):
    """Hands out the real module, imported under its real name.

    The import system writes the alias's spec into the module that it gets from a loader; the
    real one is put back, so that the module does not notice.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.real_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.real_spec
