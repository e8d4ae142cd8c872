"""docs/formulas.md names a function for each section of the described system, and each of them exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formulas.md").read_text("utf-8")
SECTIONS = {
    "1.3", "3.1", "3.2", "3.3", "3.2.2", "3.3.2", "3.3.3", "3.4.3", "3.5.1", "3.5.2", "3.5.3", "4.1.1", "4.1.2", "4.2.1",
    "4.2.2", "4.2.3", "4.3.1", "4.3.2", "5, steps 1–6", "5, classes", "5, inference",
}  # fmt: skip
# A part of the description that a later stage brings; the row says so.
NOT_YET: set[str] = set()


def rows() -> list[list[str]]:
    """The cells of the first table, one list a row, header left out."""
    table = PAGE.split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.replace(r"\mid", ""))[1:-1]] for line in lines[2:]]


def sections(cell: str) -> list[str]:
    return [cell] if cell.startswith("5,") else cell.split(", ")


NAMES = sorted(set(re.findall(r"`(guerdon(?:\.\w+)+)`", PAGE)))


def resolve(name: str) -> object:
    """The object of a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if not f"{'.'.join(parts[:length])}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_every_section_stands_in_the_table_once() -> None:
    found = [section for row in rows() for section in sections(row[0])]
    assert sorted(found) == sorted(SECTIONS)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_is_whole(row: list[str]) -> None:
    assert len(row) == 4
    assert row[1]
    assert row[3]
    named = re.findall(r"`guerdon\.", row[2])
    assert bool(named) != (row[0] in NOT_YET)


@pytest.mark.parametrize("name", NAMES)
def test_the_named_function_exists(name: str) -> None:
    assert callable(resolve(name))


def test_a_missing_name_is_noticed() -> None:
    with pytest.raises(AttributeError):
        resolve("guerdon.errors.NoSuchError")
    with pytest.raises(ModuleNotFoundError):
        resolve("nowhere.at.all")
