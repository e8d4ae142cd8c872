"""What came of a grid of runs over several seeds, in figures: each cell's logs, and its verdict against the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from guerdon.errors import DataError
from guerdon.evaluation.results import CONTROLS, FINETUNED, REINFORCED, SEARCHES, Evaluation, MeasureInfo
from guerdon.evaluation.runfolder import RunFolder
from guerdon.evaluation.seeds import Band, Curve, Spread, band, first_reaching, t_interval, welch_interval
from guerdon.evaluation.verdict import Verdict, judge

REWARD = "reward"  # the figure of validation that curves show


@dataclass(frozen=True)
class Noise:
    """The gradient of one cell's estimator on the policy that all cells begin with.

    Attributes:
        samples: that one gradient is made from.
        estimates: gradients that were drawn.
        covariance, signal, cosine: see `guerdon.stages.gradient_noise.GradientNoise`.
    """

    samples: int
    estimates: int
    covariance: float
    signal: float
    cosine: float

    def ratio(self, samples: int) -> float | None:
        """Noise to signal of the mean of as many gradients as take so many samples; None without a measurable signal."""
        return self.covariance / self.signal * self.samples / samples if self.signal > 0 else None


@dataclass(frozen=True)
class ComparedCell:
    """The runs of one cell, or of one control of the first cell, a run for each seed.

    Attributes:
        name: of its system in the evaluation.
        label: as people read it.
        samples_per_step: outputs that a step draws.
        runs: what each run's folder holds.
        stage: that the logs are read of.
        noise: of its gradient, where it was measured.
    """

    name: str
    label: str
    samples_per_step: int
    runs: Sequence[RunFolder]
    stage: str = "reinforce"
    noise: Noise | None = None

    def curve(self, samples: bool = False) -> list[Band]:
        """The validation reward over steps, or over the samples drawn until then."""
        factor = self.samples_per_step if samples else 1
        return [Band(b.x * factor, b.mean, b.low, b.high) for b in band([self._validations(run) for run in self.runs])]

    def steps(self) -> list[int]:
        """The optimiser steps of each run."""
        return [int(max((x for x, _ in run.points(self.stage, "train", "loss")), default=0)) for run in self.runs]

    def samples(self) -> list[float]:
        """The outputs that each run drew to learn from."""
        return [float(steps * self.samples_per_step) for steps in self.steps()]

    def final(self, name: str) -> list[float]:
        """A validation figure of each run's final weights; empty where one has none."""
        found = [run.points(self.stage, "final", name) for run in self.runs]
        return [points[-1][1] for points in found] if all(found) else []

    def seconds_per_step(self) -> list[float]:
        """The mean over the steps of each run, validation left out; empty where one has no timings."""
        each = [self._seconds(run) for run in self.runs]
        return [sum(seconds.values()) / len(seconds) for seconds in each] if all(each) else []

    def reaching(self, target: float) -> list[tuple[int, float] | None]:
        """For each run the step of the first validation at ``target`` or above, and the seconds of steps until then."""
        found: list[tuple[int, float] | None] = []
        for run in self.runs:
            step = first_reaching(self._validations(run), target)
            seconds = self._seconds(run)
            spent = sum(value for at, value in seconds.items() if step is not None and at <= step)
            found.append(None if step is None else (int(step), spent))
        return found

    def _validations(self, run: RunFolder) -> Curve:
        return run.points(self.stage, "validation", REWARD)

    def _seconds(self, run: RunFolder) -> dict[int, float]:
        """Of each step; one that a kill made the run do twice counts once."""
        own = [row for row in run.timings if row.get("stage") == self.stage and "step" in row]
        return {int(row["step"]): float(row["seconds"]) for row in own}


@dataclass(frozen=True)
class Comparison:
    """A grid of runs that begin with one policy.

    Attributes:
        name: of the recipe.
        seeds: of each cell's runs.
        cells: in the order of the grid.
        controls: of the first cell.
        evaluation: all systems on the same sources, each over the runs of all its seeds.
        recipe: of the first cell, as plain values.
        start: what all begin with, in words.
        best_of: how the n of best-of-n was chosen, in a sentence; "" where it was not run.
        target: the validation reward to count steps to; None takes `reachable`.
        warmup: steps that were drawn before gradients were measured.
    """

    name: str
    seeds: Sequence[int]
    cells: Sequence[ComparedCell]
    controls: Sequence[ComparedCell]
    evaluation: Evaluation
    recipe: Mapping[str, Any]
    start: str
    best_of: str = ""
    target: float | None = None
    warmup: int = 0

    def spread(self, system: str, measure: str) -> Spread:
        """A measure of a system over seeds."""
        return t_interval(self.values(system, measure))

    def values(self, system: str, measure: str) -> Sequence[float]:
        """A measure of a system for each seed."""
        found = self.evaluation.system(system)
        if found is None or measure not in found.metrics:
            raise DataError(f"measures no {measure!r} of {system!r}", where="evaluation.json", cure="compare again")
        return found.runs.get(measure) or [found.metrics[measure].value]

    @cached_property
    def judged_by(self) -> MeasureInfo:
        """The measure that cells are ranked by: the reward."""
        return next(m for m in self.evaluation.measures if m.name == "reward" or m.name.startswith("reward/"))

    @cached_property
    def ranked(self) -> list[ComparedCell]:
        """The cells, the highest mean reward first."""
        name = self.judged_by.name
        return sorted(self.cells, key=lambda cell: -self.spread(cell.name, name).mean)

    @cached_property
    def twins(self) -> list[list[str]]:
        """The labels of cells that have every measure of every seed in common, group by group."""
        groups = dict[str, list[str]]()
        for cell in self.cells:
            figures = repr([list(self.values(cell.name, m.name)) for m in self.evaluation.measures if self._measured(cell, m)])
            groups.setdefault(figures, []).append(cell.label)
        return [labels for labels in groups.values() if len(labels) > 1]

    def _measured(self, cell: ComparedCell, measure: MeasureInfo) -> bool:
        found = self.evaluation.system(cell.name)
        return found is not None and measure.name in found.metrics

    def ahead(self, cell: ComparedCell) -> Spread:
        """How far the best cell's reward lies above that of ``cell``, over seeds."""
        name = self.judged_by.name
        return welch_interval(self.values(self.ranked[0].name, name), self.values(cell.name, name))

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """For each cell what may be said of it against start policy, controls and best-of-n."""
        found = {cell.name: judge(_as_reinforced(self.evaluation, cell.name)) for cell in self.cells}
        return {name: verdict for name, verdict in found.items() if verdict is not None}

    def outcome(self, cell: str, measure: str) -> str:
        """Of the verdict on a cell; "" where it says nothing of the measure."""
        findings = self.verdicts[cell].findings if cell in self.verdicts else []
        return next((finding.outcome for finding in findings if finding.measure == measure), "")

    @cached_property
    def reachable(self) -> float | None:
        """The lowest final validation reward of the cells' means: every cell has it in the end, on average."""
        means = [sum(final) / len(final) for cell in self.cells if (final := cell.final(REWARD))]
        return min(means) if means else None

    @cached_property
    def first_reward(self) -> float | None:
        """The validation reward of the policy that all cells begin with."""
        curve = self.cells[0].curve()
        return curve[0].mean if curve and curve[0].x == 0 else None


def _as_reinforced(evaluation: Evaluation, cell: str) -> Evaluation:
    """The evaluation of one cell alone, as that of a run."""
    kept = {FINETUNED: FINETUNED, cell: REINFORCED, **{name: name for name in (*CONTROLS, *SEARCHES)}}
    return replace(
        evaluation,
        systems=[replace(system, name=kept[system.name]) for system in evaluation.systems if system.name in kept],
        comparisons=[
            replace(c, system=kept[c.system], baseline=kept[c.baseline])
            for c in evaluation.comparisons
            if c.system in kept and c.baseline in kept
        ],
    )
