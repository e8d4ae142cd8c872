"""The one training loop: every stage is a `Trainee` that supplies losses, and the loop does what all stages share.

A step is a function of (weights, optimiser, seed, step): draws are named by the step, the seed of dropout too, so that a run
that is killed and resumed computes the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from guerdon.data.draws import key
from guerdon.errors import ConfigurationError, TrainingError
from guerdon.models.transformer import Transformer
from guerdon.training.checkpoint import CheckpointStore, TrainingState
from guerdon.training.progress import Progressing
from guerdon.training.runlog import RunLog
from guerdon.training.schedule import OptimiserOptions, build_optimiser, learning_rate
from guerdon.training.trainee import LoopOptions, Trainee
from guerdon.training.usage import Usage


@dataclass(frozen=True)
class Surroundings:
    """Where a stage runs.

    Attributes:
        log: the run's logs.
        checkpoints: the stage's checkpoints.
        progress: what a person sees.
        seed: of the run.
    """

    log: RunLog
    checkpoints: CheckpointStore
    progress: Progressing
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: steps done, why, the validation figures of the final weights, and steps skipped."""

    steps: int
    reason: str
    validation: Mapping[str, float]
    skipped: int


class Loop:
    """Trains a `Trainee` for ``steps`` optimiser steps, until its criterion no longer rises, or until it asks to stop."""

    def __init__(
        self, trainee: Trainee, steps: int, options: LoopOptions, optimiser: OptimiserOptions, around: Surroundings
    ) -> None:
        self.trainee, self.steps, self.options, self.around = trainee, steps, options, around
        self.optimiser_options = optimiser
        _set_recompute(trainee, options.recompute)
        self.optimiser = build_optimiser(trainee.model, optimiser)
        chosen = f"{trainee.name} {steps} {options} {optimiser} {around.seed} {trainee.fingerprint()}"
        self.usage = Usage(next(iter(trainee.model.parameters())).device)
        self.state = TrainingState(options=hashlib.sha256(chosen.encode()).hexdigest())

    def run(self) -> Outcome:
        """Trains, resuming where a checkpoint is, and leaves the final weights in the model.

        Raises:
            TrainingError: when too many steps in a row had to be skipped, or the disk cannot be written.
            CheckpointError: when the checkpoint to resume from is damaged or belongs to other options.
        """
        self._begin()
        while not self.state.finished:
            if self.state.step >= self.steps:
                self.state.finished = "all steps done"
            else:
                self._step(self.state.step + 1)
            self._end_of_step()
        return self._finish()

    # --- begin and end

    def _begin(self) -> None:
        found = self.around.checkpoints.load(self.trainee.model, self.optimiser, self.state.options)
        self.around.progress.begin(self.trainee.name, self.steps, found.step if found else 0)
        if found is None:
            self._decide()
            self._checkpoint()  # before anything is logged: it says where the logs are cut back to
        else:
            self.state = found
            self.trainee.load_state(found.trainee)
            if found.final is None:  # otherwise what follows in the logs is of later stages
                self.around.log.cut_back(found.offsets)
        if self.trainee.begins_trained and not self.state.validations:
            self._validate()
            self._checkpoint()

    def _decide(self) -> None:
        """Lets the trainee measure what it chooses. Rates differ from one hour to the next: they go beside the durations."""
        if decided := self.trainee.decide():
            self.around.log.timing(self.trainee.name, event="decided", sentence=decided.sentence, rates=decided.rates)
            self.around.progress.say(f"{self.trainee.name}: {decided.sentence}")
            self.usage.lap("measuring")

    def _finish(self) -> Outcome:
        state = self.state
        if state.final is None:
            state.final = dict(self._choose())
            self.usage.lap("validation")
            self.around.log.metrics(self.trainee.name, state.step, "final", state.final)
            self._checkpoint()
        self.around.log.timing(self.trainee.name, event="usage", parts=self.usage.row(), peaks=self.usage.peaks)
        if told := self.usage.sentence():
            self.around.progress.say(f"{self.trainee.name}: {told}")
        self.around.progress.end(f"({state.finished})")
        return Outcome(state.step, state.finished, state.final, state.skipped)

    def _choose(self) -> Mapping[str, float]:
        """Puts the final weights into the model: the mean of the best, or the best where that validates better."""
        best = self.state.best
        if not best:
            return self.trainee.validate(self.state.step)
        model, store = self.trainee.model, self.around.checkpoints
        single = store.average(best[:1])
        model.load_state_dict(single)
        final = self.trainee.validate(self.state.step)
        if len(best) > 1:
            model.load_state_dict(store.average(best))
            averaged = self.trainee.validate(self.state.step)
            if self._sign * (averaged[self.options.criterion] - final[self.options.criterion]) >= 0:
                return averaged
            model.load_state_dict(single)
        return final

    # --- one step

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        torch.manual_seed(key(self.around.seed, f"dropout {self.trainee.name}", step))
        rate = learning_rate(self.optimiser_options, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses, norms = zip(*(self._update(step, update) for update in self.trainee.updates(step)), strict=True)
        self.state.step = step
        values = {
            "loss": sum(losses) / len(losses),
            "learning_rate": rate,
            "grad_norm": sum(norms) / len(norms),
            "skipped": self.state.skipped,
            **self.trainee.metrics(),
        }
        self.around.log.metrics(self.trainee.name, step, "train", values)
        self._observe(step, "train", values)
        self.around.log.samples(self.trainee.name, step, self.trainee.samples())
        parts = self.trainee.usage()
        if parts is None:
            self.usage.lap("step")
        else:
            self.usage.took(parts)
            self.usage.restart()
        seconds = {} if parts is None else parts.row()
        self.around.log.timing(self.trainee.name, step=step, seconds=time.perf_counter() - began, **seconds)
        shown = ("loss", "reward", "kl")
        self.around.progress.advance(step, {name: values[name] for name in shown if name in values})

    def _update(self, step: int, parts: Iterator[Tensor]) -> tuple[float, float]:
        """One update of the weights, unless a number is not finite: its loss and the norm of its gradient."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        for part in parts:
            loss += part.item()
            part.backward()
        norm = self._gradient_norm()
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimiser.step()
            self.state.skipped_in_a_row = 0
        else:
            self._skip(step, f"loss {loss}, gradient norm {norm}")
        return loss, norm

    def _gradient_norm(self) -> float:
        """The 2-norm of the whole gradient, which is cut to ``clip_norm`` where it is longer."""
        limit = self.optimiser_options.clip_norm
        return float(nn.utils.clip_grad_norm_(self.trainee.model.parameters(), math.inf if limit is None else limit))

    def _skip(self, step: int, reason: str) -> None:
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self.around.log.skipped_step(self.trainee.name, step, reason, self.trainee.batch())
        self.around.progress.say(f"{self.trainee.name}: step {step} skipped ({reason})")
        if self.state.skipped_in_a_row >= self.options.max_skipped:
            raise TrainingError(
                f"{self.state.skipped_in_a_row} steps in a row had a loss or gradient that is not finite (last: {reason})",
                where=f"{self.trainee.name}, step {step}",
                cure="see skipped_steps.jsonl in the run folder; lower the learning rate, or clip",
            )

    # --- between steps

    def _end_of_step(self) -> None:
        step, options = self.state.step, self.options
        self._heed()
        validated = [at for at, _ in self.state.validations]
        if (step % options.validate_every == 0 or self.state.finished) and step not in validated:
            self._validate()
            self._checkpoint()
        elif step % options.checkpoint_every == 0 or self.state.finished:
            self._checkpoint()

    def _validate(self) -> None:
        step = self.state.step
        figures = self.trainee.validate(step)
        value = figures.get(self.options.criterion)
        if value is None or not math.isfinite(value):
            raise TrainingError(
                f"validation gave no finite {self.options.criterion!r} (it gave: {', '.join(figures)})",
                where=f"{self.trainee.name}, step {step}",
                cure="choose another criterion, or look at the outputs in samples.jsonl",
            )
        self.around.log.metrics(self.trainee.name, step, "validation", figures)
        self._observe(step, "validation", figures)
        self.around.log.samples(self.trainee.name, step, self.trainee.samples())
        shown = "  ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
        self.around.progress.say(f"{self.trainee.name}: step {step} validation  {shown}")
        self.state.validations.append((step, value))
        self._rank(step)
        if self._settled():
            self.state.finished = f"{self.options.criterion} no longer improves"
        self._heed()
        self.usage.lap("validation")

    def _observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> None:
        """Shows the figures to the trainee, and writes down what it raises an alarm for."""
        alarms = self.trainee.observe(step, kind, figures)
        self.around.log.alarms(self.trainee.name, step, [dataclasses.asdict(alarm) for alarm in alarms])
        for alarm in alarms:
            self.around.progress.say(f"{self.trainee.name}: step {step} alarm ({alarm.monitor}): {alarm.sentence}")

    def _heed(self) -> None:
        """Ends the stage where the trainee asks for it."""
        self.state.finished = self.state.finished or self.trainee.stop_reason() or ""

    def _rank(self, step: int) -> None:
        """Keeps the weights of this step where it is among the best; of equal values the earlier one."""
        ranked = sorted(self.state.validations, key=lambda pair: (-self._sign * pair[1], pair[0]))
        self.state.best = [at for at, _ in ranked[: self.options.average_best]]
        if step in self.state.best:
            self.around.checkpoints.keep_best(step, self.trainee.model)

    def _settled(self) -> bool:
        """True after ``patience`` validations whose smoothed criterion did not rise above the best before by ``tolerance``."""
        if self.options.patience is None:
            return False
        values = [self._sign * value for _, value in self.state.validations]
        width = self.options.smoothing
        smooth = [sum(values[i - width : i]) / width for i in range(width, len(values) + 1)]
        recent, before = smooth[-self.options.patience :], smooth[: -self.options.patience]
        return bool(before) and max(recent) <= max(before) + self.options.tolerance

    def _checkpoint(self) -> None:
        self.state.offsets = self.around.log.offsets()
        self.state.trainee = self.trainee.state()
        self.around.checkpoints.save(dataclasses.replace(self.state), self.trainee.model, self.optimiser)
        self.usage.lap("checkpoint")

    @property
    def _sign(self) -> float:
        return 1.0 if self.options.higher_is_better else -1.0


def _set_recompute(trainee: Trainee, recompute: bool) -> None:
    found = [module for module in trainee.model.modules() if isinstance(module, Transformer)]
    for module in found:
        module.recompute = recompute
    if recompute and not found:
        raise ConfigurationError(
            "there is no layer of guerdon's own to recompute", where=f"{trainee.name}.loop.recompute", cure="take it out"
        )
