"""Imports go down only. The order is read from the source, imports inside functions and for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "guerdon"

# Lowest first. Rooms on one level do not import each other.
LEVELS = (
    ("errors",),
    ("data",),
    ("metrics",),
    ("models",),
    ("objectives", "rewards"),
    ("decoding",),
    ("generator",),
    ("training",),
    ("evaluation",),
    ("stages",),
    ("pipeline",),
    ("feedback", "serving", "quickstart"),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# Arithmetic on rewards makes a `Combined`, which is itself a reward: the one knot that the language forces.
ALLOWED_KNOT = ("guerdon.rewards.base", "guerdon.rewards.combine")


def name_of(path: Path, root: Path = PACKAGE) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, module: str, is_package: bool, modules: set[str]) -> Iterator[str]:
    """Every module that ``source`` imports, wherever the statement stands, relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules else base


def graph() -> dict[str, set[str]]:
    return {
        module: set(imports(path.read_text("utf-8"), module, path.name == "__init__.py", set(MODULES)))
        for module, path in MODULES.items()
    }


GRAPH = graph()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def inside(module: str) -> set[str]:
    return {name for name in GRAPH[module] if name == "guerdon" or name.startswith("guerdon.")}


def violation(module: str, imported: str) -> str | None:
    """What is wrong with ``module`` importing ``imported``, both of guerdon; None where nothing is."""
    if imported == "guerdon":
        # `from guerdon import __version__` is read as this edge too; see test_only_the_version_comes_from_the_root.
        return None
    mine, theirs = room(module), room(imported)
    if mine == theirs and mine != "stages":
        return None
    if mine == theirs:
        stage = module.removeprefix("guerdon.stages").strip(".")
        return f"{module} imports another stage, {imported}" if stage else None
    if LEVEL_OF[theirs] >= LEVEL_OF[mine]:
        return f"{module} imports {imported}, which is not below it"
    return None


def test_every_module_has_a_level() -> None:
    unknown = {room(module) for module in MODULES if room(module)} - set(LEVEL_OF)
    assert not unknown, f"rooms that the order does not name: {sorted(unknown)}"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "guerdon"])
def test_imports_go_down(module: str) -> None:
    assert [found for name in sorted(inside(module)) if (found := violation(module, name))] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module != "guerdon"])
def test_only_the_version_comes_from_the_root(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "guerdon" and not node.level:
            names = {alias.name for alias in node.names if f"guerdon.{alias.name}" not in MODULES}
            assert names <= {"__version__"}, f"{module} takes {sorted(names)} from the package root"
        if isinstance(node, ast.Import):
            assert "guerdon" not in {alias.name for alias in node.names}, f"{module} imports the package root"


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "objectives"])
def test_objectives_are_functions_on_tensors(module: str) -> None:
    allowed = ("torch", "guerdon.errors", "guerdon.data.padded", "guerdon.objectives")
    standard = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
    strangers = {
        name
        for name in GRAPH[module]
        if name.split(".")[0] not in standard and not any(name == a or name.startswith(f"{a}.") for a in allowed)
    }
    assert not strangers, f"{module} imports {sorted(strangers)}"


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected groups of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group, stack[at:] = stack[at:], []
            if len(group) > 1 or node in edges.get(node, ()):
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def test_no_import_cycle() -> None:
    edges = {module: (names & set(MODULES)) - {"guerdon"} for module, names in GRAPH.items()}
    edges.get(ALLOWED_KNOT[0], set()).discard(ALLOWED_KNOT[1])
    assert cycles(edges) == []


# The checks above are only as good as their eyes: each kind of import and of violation is seen.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import guerdon.cli.main", {"guerdon.cli.main"}),
        ("from guerdon.data import draws", {"guerdon.data.draws"}),
        ("from guerdon.data.draws import key", {"guerdon.data.draws"}),
        ("from guerdon import data", {"guerdon.data"}),
        ("from . import combine", {"guerdon.rewards"}),
        ("from .base import Reward", {"guerdon.rewards.base"}),
        ("from ..data.draws import key", {"guerdon.data.draws"}),
        ("def f():\n    import guerdon.stages", {"guerdon.stages"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import guerdon.cli", {"typing", "guerdon.cli"}),
    ],
)
def test_sees_every_kind_of_import(source: str, expected: set[str]) -> None:
    modules = {"guerdon", "guerdon.data", "guerdon.data.draws", "guerdon.rewards", "guerdon.rewards.base"}
    assert set(imports(source, "guerdon.rewards.overlap", False, modules)) == expected


def test_relative_imports_of_a_package() -> None:
    modules = {"guerdon.rewards.base", "guerdon.data"}
    assert set(imports("from .base import Reward", "guerdon.rewards", True, modules)) == {"guerdon.rewards.base"}
    assert set(imports("from .. import data", "guerdon.rewards", True, modules)) == {"guerdon.data"}


@pytest.mark.parametrize(
    ("module", "imported", "bad"),
    [
        ("guerdon.data.records", "guerdon.errors", False),
        ("guerdon.errors", "guerdon.data.records", True),
        ("guerdon.objectives.advantage", "guerdon.rewards.base", True),
        ("guerdon.rewards.rules", "guerdon.objectives.advantage", True),
        ("guerdon.rewards.rules", "guerdon.rewards.base", False),
        ("guerdon.stages.reinforce", "guerdon.stages.finetune", True),
        ("guerdon.stages", "guerdon.stages.finetune", False),
        ("guerdon.decoding.beam", "guerdon.generator", True),
        ("guerdon.cli.run", "guerdon.pipeline.run", False),
        ("guerdon.pipeline.run", "guerdon.quickstart.corpus", True),
    ],
)
def test_sees_every_kind_of_violation(module: str, imported: str, bad: bool) -> None:
    assert (violation(module, imported) is not None) is bad


def test_sees_cycles() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert cycles({"a": {"a"}}) == [["a"]]
    assert cycles({"a": {"b"}, "b": set()}) == []
