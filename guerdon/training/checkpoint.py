"""Checkpoints that survive a kill at any instant.

``<run>/checkpoints/<stage>/step-00001200/`` holds ``model.safetensors``, ``optimiser.safetensors`` and ``state.json``; it is
written under another name, synced and renamed, so that a folder of that name is always whole. No pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guerdon.errors import CheckpointError
from guerdon.models.load import load_tensors, load_weights, save_tensors
from guerdon.training.runlog import writing

MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"
_REPLACED = ".replaced"
_KEPT = 2  # one more than is needed, so that a damaged one is not the end of a run


@dataclass
class TrainingState:
    """Where a stage stands; everything that is neither weights nor optimiser.

    Attributes:
        step: optimiser steps done.
        trainee: what the stage itself keeps (moments, running baseline, ...), as JSON.
        validations: the criterion's value at each validation, with its step.
        best: the steps whose weights are kept as the best, best first.
        skipped: steps skipped because of a non-finite number, in all and in a row.
        offsets: lengths of the logs in bytes.
        options: fingerprint of the options and the data that decide what is computed.
        finished: why the stage ended; empty while it goes on.
        final: the validation figures of the final weights, once these are chosen: the checkpoint's weights are then they.
    """

    step: int = 0
    trainee: dict[str, Any] = field(default_factory=dict)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    options: str = ""
    finished: str = ""
    final: dict[str, float] | None = None


class CheckpointStore:
    """The checkpoints of one stage, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: TrainingState, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Writes a checkpoint at ``state.step``; removes the oldest ones, and kept weights that none names among its best."""
        final = self.folder / f"step-{state.step:08d}"
        temporary = self.folder / f".{final.name}.partial"
        with writing(final):
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                _fill(temporary, state, model, optimiser)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it would stand in the way of its own cure
                raise
            if final.exists():
                final.rename(self.folder / f".{final.name}{_REPLACED}")
            temporary.rename(final)
            sync(self.folder)
            self._clear_up()

    def _clear_up(self) -> None:
        """Leaves the newest checkpoints and the weights that they name among their best; what a kill has left goes too."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)
        for old in self.steps()[:-_KEPT]:
            self._remove(self.folder / f"step-{old:08d}")
        self._drop_worse()

    def _take_back(self) -> None:
        """A kill between the two renames of a save leaves no checkpoint of its step, but the replaced one, which is whole."""
        for replaced in self.folder.glob(f".step-*{_REPLACED}"):
            final = self.folder / replaced.name.removeprefix(".").removesuffix(_REPLACED)
            if not final.exists():
                replaced.rename(final)

    def _remove(self, checkpoint: Path) -> None:
        """A kill amid the removal of files must not leave half a checkpoint under a checkpoint's name."""
        removed = checkpoint.rename(self.folder / f".{checkpoint.name}.removed")
        shutil.rmtree(removed)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, in order."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*") if path.is_dir())

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer, options: str) -> TrainingState | None:
        """Puts the newest checkpoint into model and optimiser, and returns its state; None where there is no checkpoint.

        Args:
            model: takes the weights.
            optimiser: takes the moments.
            options: the fingerprint that the checkpoint must have; where it has another, nothing is changed.

        Raises:
            CheckpointError: when it is damaged, or does not fit.
        """
        with writing(self.folder):
            self._take_back()
        if not self.steps():
            return None
        folder = self.folder / f"step-{self.steps()[-1]:08d}"
        cure = f"remove {folder} to go on from the checkpoint before it"
        try:
            record = json.loads((folder / STATE).read_text(encoding="utf-8"))
            sums = {name: record["sha256"][name] for name in (MODEL, OPTIMISER)}
            del record["sha256"]
            state = TrainingState(**{**record, "validations": [(int(a), float(b)) for a, b in record["validations"]]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"is damaged ({error})", where=str(folder / STATE), cure=cure) from error
        if state.options != options:
            raise CheckpointError(
                "belongs to other options, another model or other data than the present ones",
                where=str(self.folder),
                cure="use what it was begun with, or another run folder",
            )
        for name, expected in sums.items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise CheckpointError("is missing or damaged (its checksum differs)", where=str(folder / name), cure=cure)
        load_weights(model, folder / MODEL)
        _load_optimiser(optimiser, load_tensors(folder / OPTIMISER), folder / OPTIMISER)
        with writing(self.folder):
            self._clear_up()
        return state

    def keep_best(self, step: int, model: nn.Module) -> None:
        """Keeps the weights of ``step`` as one of the best."""
        path = self._best(step)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_tensors(model.state_dict(), self._partial)
                sync(self._partial)
            except BaseException:
                self._partial.unlink(missing_ok=True)
                raise
            self._partial.rename(path)
            sync(path.parent)

    def _drop_worse(self) -> None:
        """Drops the kept weights that no checkpoint names among its best."""
        self._partial.unlink(missing_ok=True)
        named: set[int] = set()
        for step in self.steps():
            named.update(json.loads((self.folder / f"step-{step:08d}" / STATE).read_text(encoding="utf-8"))["best"])
        for path in (self.folder / "best").glob("step-*.safetensors"):
            if int(path.stem.removeprefix("step-")) not in named:
                path.unlink()

    def average(self, steps: list[int]) -> dict[str, Tensor]:
        """The mean of the kept weights, summed in float64; tensors that are not floating point are those of the first step."""
        states = [load_tensors(self._best(step)) for step in steps]
        mean = {}
        for name, first in states[0].items():
            if first.is_floating_point():
                mean[name] = torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
            else:
                mean[name] = first
        return mean

    @property
    def _partial(self) -> Path:
        return self.folder / "best" / ".partial"

    def _best(self, step: int) -> Path:
        return self.folder / "best" / f"step-{step:08d}.safetensors"


def _fill(folder: Path, state: TrainingState, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    folder.mkdir(parents=True)
    save_tensors(model.state_dict(), folder / MODEL)
    save_tensors(_optimiser_tensors(optimiser), folder / OPTIMISER)
    record = {**dataclasses.asdict(state), "sha256": {name: sha256(folder / name) for name in (MODEL, OPTIMISER)}}
    (folder / STATE).write_text(json.dumps(record), encoding="utf-8")
    for name in (MODEL, OPTIMISER, STATE):
        sync(folder / name)
    sync(folder)


def sync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_weights(digest: hashlib._Hash, parameters: Iterable[Tensor]) -> None:
    """Takes weights, bit by bit, into a checksum."""
    for weight in parameters:
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by "parameter number/name"."""
    state = optimiser.state_dict()["state"]
    return {f"{number}/{name}": torch.as_tensor(value) for number, values in state.items() for name, value in values.items()}


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = tensor
    try:
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"does not fit the model ({error})", where=str(path)) from error
