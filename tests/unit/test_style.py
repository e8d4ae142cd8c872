"""The rules of style that a formatter does not hold."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("guerdon", "benchmarks", "tests", "docs", "recipes", ".ci")
KINDS = {".py", ".md", ".yaml", ".toml", ".txt", ".html", ".css", ".js", ""}
SOURCES = sorted((ROOT / "guerdon").rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))

FUNCTION_LINES, FILE_LINES = 60, 300
# Written in pieces, so that this file does not find itself.
UNFINISHED = re.compile("|".join([r"\bTO" + "DO", r"\bFIX" + "ME", r"\bXX" + "X\\b", r"\bHA" + "CK"]))
HOME = re.compile("|".join(["/" + "home/", "/" + "Users/", "/" + "root/", r"C:\\" + "Users"]))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts() -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "_build" not in path.parts]
    found = [path for path in [*ROOT.iterdir(), *inside] if path.is_file() and path.suffix in KINDS]
    return sorted(path for path in found if not {"__pycache__", ".git"} & set(path.parts) and path.name != ".git")


def long_functions(source: str, limit: int) -> list[str]:
    """The functions of more than ``limit`` lines, from ``def`` to the last line of the body."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    return [f"{node.name} (line {node.lineno}) has {n} lines" for node, n in lengths.items() if n > limit]


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=relative)
def test_no_long_function(path: Path) -> None:
    assert long_functions(path.read_text("utf-8"), FUNCTION_LINES) == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_long_file(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", texts(), ids=relative)
def test_nothing_unfinished_and_no_place_of_one_machine(path: Path) -> None:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        assert not UNFINISHED.search(line), f"{relative(path)}:{number} is unfinished: {line.strip()}"
        assert not HOME.search(line), f"{relative(path)}:{number} names a home directory: {line.strip()}"


def test_the_rules_can_fail() -> None:
    body = "\n".join(f"        x = {n}" for n in range(60))
    source = f"class A:\n    def f(self):\n{body}\n\ndef g():\n    pass\n"
    assert long_functions(source, 60) == ["f (line 2) has 61 lines"]
    assert long_functions(source, 61) == []
    assert UNFINISHED.search("# TO" + "DO: later")
    assert not UNFINISHED.search("todos los santos")
    assert HOME.search("open('/" + "home/someone/x')")
    assert {"README.md", "pyproject.toml", "Makefile", ".ci/run"} <= set(map(relative, texts()))
