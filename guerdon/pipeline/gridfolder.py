"""The folder of a comparison: what it compares, and where everything lies.

``comparison.json`` says what is compared; ``start/`` holds the policy that all begin with, ``cells/<cell>/seed-<n>/`` the run
folder of each run, those of the controls and of best-of-n among the first cell's.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from guerdon.errors import CheckpointError, InputError
from guerdon.evaluation.results import EVALUATION
from guerdon.pipeline.folder import LOCK, RunFiles
from guerdon.pipeline.grid import Cell, Plan
from guerdon.pipeline.prepare import split_files
from guerdon.pipeline.start import Start
from guerdon.training.checkpoint import sha256
from guerdon.training.reinforcement import Control

ABOUT = "comparison.json"
SYSTEMS: Mapping[Control, str] = {"none": "reinforced", "shuffled": "shuffled", "constant": "constant"}
_LEFT_OUT = ("name", "tensorboard")  # of a recipe: what changes nothing that is compared


class GridFolder:
    """One comparison in one folder.

    Args:
        plan: what is compared.
        folder: where; nothing is written before `note`.

    Raises:
        InputError: when the folder holds another comparison, or something else.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.recipe = plan.cells[0].recipe
        self.given = None if plan.start is None else Start(plan.start)
        self._check_folder()
        self.files = RunFiles(self.recipe, folder)

    # --- what the folder says

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of all that the cells share: recipe, data, and the policy where it is given."""
        plain = {name: value for name, value in self.recipe.plain().items() if name not in _LEFT_OUT}
        plain["data"] = {**plain["data"], "folder": ""}
        plain = copy.deepcopy(plain)
        for option in self.plan.cells[0].options:
            *parents, last = option.split(".")
            section = plain
            for parent in parents:
                section = section.get(parent) or {}
            section.pop(last, None)
        slots = self.recipe.evaluation.slots
        files = [*split_files(self.recipe).values(), *([self.recipe.resolve(slots)] if slots else [])]
        marks = [sha256(path) if path.is_file() else "" for path in files]
        shared = [plain, sorted(self.plan.cells[0].options), marks, self.given.mark if self.given else ""]
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()

    def _stored(self) -> dict[str, Any]:
        path = self.folder / ABOUT
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"is damaged ({error})", where=str(path), cure="remove it") from error

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            return
        stored = self._stored()
        if stored and stored.get("fingerprint") != self.fingerprint:
            raise InputError(
                "holds another comparison: of another recipe, other data, another start or other options that vary",
                where=str(self.folder),
                cure="choose another folder (--folder), or remove that one",
            )
        if not stored and any(path.name != LOCK for path in self.folder.iterdir()):
            raise InputError("holds something else", where=str(self.folder), cure="choose another folder (--folder)")

    def note(self, evaluated: bool) -> None:
        """Writes ``comparison.json``."""
        about = {"fingerprint": self.fingerprint, **self.plan.plain(), "evaluated": evaluated}
        self.files.write(ABOUT, json.dumps(about, indent=2, ensure_ascii=False, default=str) + "\n")

    def evaluated(self) -> bool:
        """Whether all that this plan asks for has been done and measured."""
        wanted = json.loads(json.dumps({"fingerprint": self.fingerprint, **self.plan.plain()}, default=str))
        stored = self._stored()
        if not stored.pop("evaluated", False) or stored != wanted:
            return False
        needed = [path for run, control in self.trained() for path in (self.model(run, control), self.outputs(run, control))]
        needed += [self.start_outputs, *map(self.best_outputs, self.plan.seeds if self.controls else ())]
        known = all(self.noise(cell) for cell in self.plan.cells) or not self.plan.gradients
        return known and all(path.is_file() for path in [*needed, self.folder / EVALUATION])

    # --- where things lie

    def run_folder(self, cell: Cell, seed: int) -> Path:
        """The run folder of one run."""
        return self.folder / "cells" / cell.name / f"seed-{seed}"

    def trained(self) -> list[tuple[Path, Control]]:
        """(run folder, control) of all that is trained, seed by seed, the controls after the first cell."""
        found: list[tuple[Path, Control]] = []
        for seed in self.plan.seeds:
            for cell in self.plan.cells:
                controls = self.controls if cell is self.plan.cells[0] else ()
                found += [(self.run_folder(cell, seed), control) for control in ("none", *controls)]
        return found

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls that are trained."""
        return ("shuffled", "constant") if self.plan.controls else ()

    def model(self, run: Path, control: Control) -> Path:
        """What a finished stage leaves."""
        return run / ("reinforce" if control == "none" else f"reinforce-{control}") / "done.json"

    def outputs(self, run: Path, control: Control) -> Path:
        """The outputs of a run's policy."""
        return run / "outputs" / f"{SYSTEMS[control]}.jsonl"

    @property
    def start_outputs(self) -> Path:
        """The outputs of the start policy."""
        return self.folder / "start" / "outputs" / "finetuned.jsonl"

    def best_outputs(self, seed: int) -> Path:
        """What best-of-n chose; the first cell decides n."""
        return self.run_folder(self.plan.cells[0], seed) / "outputs" / "best_of_n.jsonl"

    def noise_file(self, cell: Cell) -> Path:
        """What was measured of a cell's gradient."""
        return self.folder / "cells" / cell.name / "gradient.json"

    def noise(self, cell: Cell) -> Mapping[str, Any]:
        """What was measured of a cell's gradient; empty where nothing was, or something else than is asked for."""
        path = self.noise_file(cell)
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"is damaged ({error})", where=str(path), cure="remove it") from error
        same = found.get("estimates") == self.plan.gradients and found.get("seed") == self.plan.seeds[0]
        return found if same else {}
