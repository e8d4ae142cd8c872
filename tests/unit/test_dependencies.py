"""What the package imports is what it declares, and what was tested is what is installed here."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OF_USERS = ("parquet", "huggingface", "ctranslate2", "http", "similarity", "offline", "frequency", "chinese")


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


CORE = names(PROJECT["dependencies"])
WITH_TORCH = {"triton"}  # torch's builds for CUDA bring it; without it nothing is recorded for a GPU
OPTIONAL = set().union(*(names(EXTRAS[extra]) for extra in OF_USERS)) - {"guerdon"}


def third_party(path: Path, outside_functions: bool) -> set[str]:
    """The distributions that a file imports; those of function bodies only where ``outside_functions`` is False."""
    tree = ast.parse(path.read_text("utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if outside_functions and id(node) in inner:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return {distribution(name) for name in found - set(sys.stdlib_module_names) - {"guerdon"}}


INSTALLED = packages_distributions()


def distribution(module: str) -> str:
    return canonicalize_name(INSTALLED.get(module, [module])[0])


SOURCES = sorted((ROOT / "guerdon").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_are_declared(path: Path) -> None:
    own = WITH_TORCH if path.name == "kernels.py" else set()
    assert third_party(path, outside_functions=False) <= CORE | OPTIONAL | own
    assert third_party(path, outside_functions=True) <= CORE | own


def test_all_holds_every_extra_of_users() -> None:
    (requirement,) = (Requirement(one) for one in EXTRAS["all"])
    assert requirement.extras == set(OF_USERS)
    assert set(EXTRAS) == {*OF_USERS, "all", "bench", "docs", "dev"}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): pinned for name, pinned in pairs}


def test_constraints_pin_what_is_declared() -> None:
    pinned = constraints()
    declared = [Requirement(one) for one in [*PROJECT["dependencies"], *(r for rs in EXTRAS.values() for r in rs)]]
    for requirement in declared:
        if requirement.name != "guerdon":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_constraints_are_what_is_installed() -> None:
    pinned = constraints()
    installed = {name: version(name).split("+")[0] for name in names(PROJECT["dependencies"])}
    assert installed == {name: pinned[name] for name in installed}


def test_the_makefile_installs_the_pinned_torch() -> None:
    assert re.search(r"^TORCH := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE).group(1) == (
        f"torch=={constraints()['torch']}"
    )
