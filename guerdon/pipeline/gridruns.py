"""The work of a comparison: what a grid's runs need, checked, trained and written, as far as it is not there yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

from guerdon.data.files import write_jsonl
from guerdon.errors import ConfigurationError
from guerdon.pipeline.grid import reinforcement, samples_per_step
from guerdon.pipeline.gridfolder import SYSTEMS, GridFolder
from guerdon.pipeline.prepare import check_records, measured_split, new_tokenizer, normalisation
from guerdon.pipeline.run import Run
from guerdon.pipeline.start import Start
from guerdon.pipeline.systems import Writer, Written
from guerdon.stages.gradient_noise import gradient_noise
from guerdon.stages.reinforce import trainee_of
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import Control
from guerdon.training.runlog import writing

WARMUP = 4  # steps drawn before gradients are measured, for what an estimator keeps between steps


class GridRuns:
    """The runs of one comparison.

    Args:
        where: its folder.
        progress: what a person sees.
    """

    def __init__(self, where: GridFolder, progress: Progressing) -> None:
        self.where, self.progress = where, progress
        self.plan, self.recipe, self.given = where.plan, where.recipe, where.given

    @cached_property
    def base(self) -> Run:
        """The run of the first cell's recipe that reads the data, builds the reward, and trains the start policy."""
        return Run(self.recipe, self.where.folder / "start", self.progress, self.given)

    def check(self) -> None:
        """Refuses what any cell would stop at, before anything is trained or written.

        Raises:
            InputError: for whatever in recipe, data or start policy a run would stop at.
            RewardError: where the reward cannot judge the first validation references.
        """
        recipe, base = self.recipe, self.base
        if self.given is None and not (recipe.finetune or recipe.pretrain or "load" in recipe.model):
            raise ConfigurationError("there is no policy to begin with", where="finetune", cure="add it, or give --start")
        for cell in self.plan.cells:
            check_records(cell.recipe, base.records, base.reward, base.slots)
        if self.given is not None and "load" not in recipe.model:
            self.given.check_vocabulary(new_tokenizer(recipe, base.examples("train")))
        _ = base.facts

    @cached_property
    def start(self) -> Start:
        """The policy that every run begins with, trained where it is not yet."""
        if self.given is not None:
            return self.given
        recipe, base = self.recipe, self.base
        if recipe.finetune is None and recipe.pretrain is None:
            return Start(recipe.resolve(recipe.model["load"]))
        stage = "pretrain" if recipe.finetune is None else "finetune"
        if not base.files.finished(stage):
            self._held(base, base.finetuned)
        return Start(base.folder / stage)

    def train(self) -> None:
        """Every run and control that is not finished, and what it writes for the test sources; seed by seed."""
        if self.recipe.reward_model is not None or self.recipe.audit is not None:
            self._held(self.base, self.base.ready)
        runs = [(seed, cell) for seed in self.plan.seeds for cell in self.plan.cells]
        for number, (seed, cell) in enumerate(runs, 1):
            controls: list[Control] = ["none", *(self.where.controls if cell is self.plan.cells[0] else ())]
            folder = self.where.run_folder(cell, seed)
            if all(self.where.model(folder, c).is_file() and self.where.outputs(folder, c).is_file() for c in controls):
                continue
            self.progress.say(f"run {number} of {len(runs)}: {cell.label}, seed {seed}")
            recipe = cell.recipe.model_copy(update={"seed": seed})
            run = Run(recipe, folder, self.progress, self.start, like=self.base)
            self._held(run, partial(self._train, run, controls))

    def _train(self, run: Run, controls: Sequence[Control]) -> None:
        for control in controls:
            policy, path = run.reinforced(control), self.where.outputs(run.folder, control)
            if not path.is_file():
                self._keep(path, self.writer.outputs(SYSTEMS[control], policy))

    def _held(self, run: Run, work: Callable[[], object]) -> None:
        try:
            run.begin()
            work()
        finally:
            run.files.release()

    @cached_property
    def writer(self) -> Writer:
        """Writes and judges outputs for the test sources."""
        examples, recipe = self.base.examples(measured_split(self.recipe)), self.recipe
        return Writer(examples, self.base.reward, normalisation(recipe), self.base.slots, recipe.decoding, self.progress)

    def _keep(self, path: Path, outputs: Sequence[Written]) -> None:
        """Writes outputs as records, whole or not at all."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        about = ({"id": e.id, "source": e.source, "references": list(e.references)} for e in self.writer.examples)
        write_jsonl(path, ({**row, "output": o.text, "finished": o.finished} for row, o in zip(about, outputs, strict=True)))

    def sample(self) -> None:
        """The start policy's own outputs, and what best-of-n chooses among its samples, drawn anew for each seed."""
        policy = self.start.open(self.recipe.decoding)
        if not self.where.start_outputs.is_file():
            self._keep(self.where.start_outputs, self.writer.outputs("start policy", policy))
        choices = self.plan.choices(len(self.writer.examples))
        for seed in self.plan.seeds if self.plan.controls else ():
            if not self.where.best_outputs(seed).is_file():
                writer = replace(self.writer, decoding=replace(self.recipe.decoding, seed=seed))
                (best,) = writer.of_samples(["best_of_n"], policy, choices, self.recipe.controls.temperature)
                self._keep(self.where.best_outputs(seed), list(map(Written, best.outputs, best.finished or ())))

    def measure_gradients(self) -> None:
        """The noise of each cell's gradient on the start policy, where it is not measured yet."""
        for cell in self.plan.cells if self.plan.gradients else ():
            if self.where.noise(cell):
                continue
            self.progress.say(f"gradients of the start policy: {cell.label}")
            policy, base = self.start.open(self.recipe.decoding), self.base
            assert base.reward is not None, "a recipe with reinforcement and no reward is refused when it is read"
            config, held = replace(reinforcement(cell), control="none", overlap=False), base.judged_at_validation()
            trainee = trainee_of(policy, base.reward, base.prompts(policy), config, held, seed=self.plan.seeds[0])
            found = gradient_noise(trainee, self.plan.gradients, WARMUP)
            about = {"samples": samples_per_step(cell), "seed": self.plan.seeds[0], **asdict(found)}
            self.where.files.write(
                str(self.where.noise_file(cell).relative_to(self.where.folder)), json.dumps(about, indent=2) + "\n"
            )
