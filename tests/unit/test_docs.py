"""What the documents say can be done: examples run, recipes are valid, commands and names exist."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import guerdon
from guerdon.cli.main import app
from guerdon.pipeline.recipe import validated

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def having(language: str, mark: str) -> list[Path]:
    """The pages that have such a block with ``mark`` in it."""
    return [page for page in PAGES if any(mark in block for block in blocks(page, language))]


def commands(page: Path) -> list[str]:
    """The command lines of guerdon that a page shows, in blocks and in tables."""
    text = page.read_text("utf-8")
    inside = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line for line in [*inside, *re.findall(r"`(guerdon [^`]*)`", text)] if line.startswith("guerdon ")]


@pytest.mark.parametrize("page", having("python", ">>>"), ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    source = "\n".join(block for block in blocks(page, "python") if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    assert len(test.examples) > 5
    report: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert outcome.failed == 0, "".join(report)


@pytest.mark.parametrize("page", having("python", "import guerdon"), ids=lambda page: page.name)
def test_names_of_examples_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        if ">>>" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "guerdon":
                assert node.attr in guerdon.__all__, node.attr
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "guerdon.rewards":
                assert hasattr(guerdon.rewards, node.attr), node.attr


@pytest.mark.parametrize("page", having("yaml", "name:"), ids=lambda page: page.name)
def test_recipes_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        if block.startswith("name:"):
            validated(yaml.safe_load(block), page)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands(page):
        verb, *arguments = shlex.split(line)[1:]
        if verb == "VERB":
            continue
        verbs = group.commands  # type: ignore[attr-defined]
        assert verb in verbs, line
        if arguments:
            verbs[verb].make_context(verb, arguments)


def test_every_verb_is_shown() -> None:
    shown = {shlex.split(line)[1] for page in PAGES for line in commands(page)}
    assert set(typer.main.get_command(app).commands) <= shown  # type: ignore[attr-defined]
