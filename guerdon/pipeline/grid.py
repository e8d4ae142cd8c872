"""The grid of a comparison: every combination of the options that vary, each a valid recipe, and the seeds of its runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guerdon.errors import ConfigurationError
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.training.reinforcement import ReinforceConfig

_VARIES = "reinforce."
_LONGEST = 80  # letters of a folder's name
_FEWEST, _MOST = 2, 64  # samples that best-of-n chooses from
SEEDS = 3


@dataclass(frozen=True)
class Cell:
    """One combination of the options that vary.

    Attributes:
        name: of its folder.
        label: as people read it.
        options: "section.option" to value.
        recipe: the whole recipe of it.
    """

    name: str
    label: str
    options: Mapping[str, Any]
    recipe: Recipe


def read_grid(path: Path, vary: Sequence[str], overrides: Sequence[str] = ()) -> list[Cell]:
    """The product of what ``vary`` names, every cell's recipe validated; a single cell where it names nothing.

    Args:
        path: the recipe.
        vary: "reinforce.option=value,value,..." each; values are YAML, so that one may be a list or a mapping.
        overrides: as `guerdon.pipeline.recipe.read_recipe`; the same for every cell.

    Raises:
        ConfigurationError: for a ``vary`` that cannot be, or for a cell whose options contradict each other.
        DataError: as `guerdon.pipeline.recipe.read_recipe`.
    """
    axes = dict(map(_axis, vary))
    if len(axes) < len(vary):
        raise ConfigurationError("one option varies twice", where="--vary", cure="give all its values at once: option=a,b,c")
    both = [name for name in axes for given in overrides if given.split("=")[0] == name]
    if both:
        raise ConfigurationError(f"--set gives {both[0]} one value and --vary several", where="--vary", cure="take one out")
    cells: list[Cell] = []
    for values in itertools.product(*axes.values()):
        options = dict(zip(axes, values, strict=True))
        label = ", ".join(f"{name.removeprefix(_VARIES)}: {_shown(value)}" for name, value in options.items())
        cell = Cell(_folder(options), label or "the recipe as it stands", options, _recipe(path, overrides, options))
        if same := [other.label for other in cells if other.recipe == cell.recipe]:
            raise ConfigurationError(
                f"{same[0]} and {cell.label} are the same recipe", where="--vary", cure="give each value once"
            )
        cells.append(cell)
    return cells


def _axis(text: str) -> tuple[str, list[Any]]:
    name, separator, listed = text.partition("=")
    where = f"--vary {text}"
    if not separator or not name or not listed.strip():
        raise ConfigurationError(
            "is not section.option=value,value", where=where, cure="e.g. reinforce.baseline=none,batch_mean"
        )
    if not name.startswith(_VARIES):
        raise ConfigurationError(
            "only options of reinforce may vary: all others decide what every cell begins with or is judged by",
            where=where,
            cure="compare two recipes by two runs",
        )
    if name == f"{_VARIES}control":
        raise ConfigurationError("controls are run in any case", where=where, cure="take it out")
    try:
        values = yaml.safe_load(f"[{listed}]")
    except yaml.YAMLError as error:
        raise ConfigurationError("its values are no YAML", where=where, cure="put each in quotes") from error
    if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
        raise ConfigurationError("one value stands twice", where=where, cure="give each once")
    return name, values


def _recipe(path: Path, overrides: Sequence[str], options: Mapping[str, Any]) -> Recipe:
    given = [f"{name}={json.dumps(value, default=str)}" for name, value in options.items()]
    try:
        recipe = read_recipe(path, [*overrides, *given])
    except ConfigurationError as error:
        if not options:
            raise
        cell = ", ".join(f"{name}={_shown(value)}" for name, value in options.items())
        raise ConfigurationError(error.what, where=f"{error.where or path} (with {cell})", cure=error.cure) from error
    if recipe.reinforce is None:
        raise ConfigurationError("the recipe has no such section", where=f"{path}, reinforce", cure="add it")
    return recipe


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def _folder(options: Mapping[str, Any]) -> str:
    """Options and values as one name; where letters that no folder should have are replaced, a checksum keeps it its own."""
    if not options:
        return "recipe"
    written = "_".join(f"{name.removeprefix(_VARIES)}-{_shown(value)}" for name, value in options.items())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", written).strip("-.")[:_LONGEST]
    mark = hashlib.sha256(json.dumps(dict(options), sort_keys=True, default=str).encode()).hexdigest()[:8]
    return plain if plain == written else f"{plain}-{mark}"


def read_seeds(count: int | None, listed: str | None) -> list[int]:
    """The seeds of each cell's runs: 1 to ``count``, or those of a list "1,3,8".

    Raises:
        ConfigurationError: for both, none, or what is no list of different whole numbers.
    """
    if listed is None:
        number = SEEDS if count is None else count
        if number < 1:
            raise ConfigurationError(f"{number} seeds are too few", where="--seeds", cure="give at least 1")
        return list(range(1, number + 1))
    if count is not None:
        raise ConfigurationError("--seeds and --seed-list both say which seeds", where="--seed-list", cure="take one out")
    if not re.fullmatch(r"\d+(,\d+)*", listed):
        raise ConfigurationError(f"{listed!r} is no list of seeds", where="--seed-list", cure="e.g. --seed-list 1,3,8")
    seeds = [int(seed) for seed in listed.split(",")]
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError("one seed stands twice", where="--seed-list", cure="give each once")
    return seeds


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        cells: the grid; controls are those of its first cell.
        seeds: of each cell's runs.
        start: the folder of the policy that every run begins with; None trains it as the recipe says.
        controls: whether to run the controls and best-of-n.
        gradients: drawn from the start policy for each cell; 0 measures none.
    """

    cells: Sequence[Cell]
    seeds: Sequence[int]
    start: Path | None = None
    controls: bool = True
    gradients: int = 16

    def __post_init__(self) -> None:
        if self.gradients and self.gradients < 4:
            raise ConfigurationError(
                f"{self.gradients} gradients show no spread", where="--gradients", cure="take 4 or more, or 0 for none"
            )

    def plain(self) -> dict[str, Any]:
        """What the folder says of it, as JSON values."""
        cells = [{"name": cell.name, "label": cell.label, "options": dict(cell.options)} for cell in self.cells]
        return {"cells": cells, "seeds": list(self.seeds), "controls": self.controls, "gradients": self.gradients}

    def choices(self, sources: int) -> int:
        """The n of best-of-n for so many test sources: all in all as many outputs as one full run of the first cell draws."""
        return max(_FEWEST, min(_MOST, round(drawn(self.cells[0]) / sources)))


def reinforcement(cell: Cell) -> ReinforceConfig:
    """The options of a cell's reinforcement."""
    assert cell.recipe.reinforce is not None, "the grid refuses recipes without"
    return cell.recipe.reinforce


def samples_per_step(cell: Cell) -> int:
    """Outputs that a step of a cell draws to learn from."""
    return reinforcement(cell).sources_per_step * reinforcement(cell).samples_per_source


def drawn(cell: Cell) -> int:
    """Outputs that a full run of a cell draws to learn from."""
    return reinforcement(cell).steps * samples_per_step(cell)
