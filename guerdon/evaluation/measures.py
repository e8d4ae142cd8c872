"""The measures of one evaluation, each over a system's outputs: texts, rewards and other numbers through one door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from guerdon.errors import InputError
from guerdon.metrics.base import FloatArray, MeanMetric, Measure, Metric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.diversity import Distinct, Diversity, Length, WordEntropy
from guerdon.metrics.rouge import RougeL
from guerdon.metrics.significance import (
    Comparison,
    Interval,
    bootstrap_interval,
    jackknife_interval,
    paired_bootstrap,
    paired_jackknife,
)
from guerdon.metrics.ter import Ter
from guerdon.rewards.base import Judgement

References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class SystemOutputs:
    """What one system wrote for the test sources; every list has one entry per source.

    Attributes:
        name: short, as in ``outputs/<name>.jsonl``.
        label: as people call it.
        outputs: the texts.
        decoding: how they were found, in words.
        generated: outputs generated in all, those not chosen included; one per source where left out.
        finished: False where an output was cut at the length limit.
        judgement: what the reward says of the outputs.
        numbers: further numbers per output, by the name of their `~guerdon.metrics.base.MeanMetric`.
    """

    name: str
    label: str
    outputs: Sequence[str]
    decoding: str = ""
    generated: int | None = None
    finished: Sequence[bool] | None = None
    judgement: Judgement | None = None
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Measured(Protocol):
    """A measure with all it needs to measure any of the systems."""

    @property
    def about(self) -> Measure | Diversity:
        """The measure: its name, label and good direction."""
        ...

    def interval(self, system: SystemOutputs) -> Interval:
        """The system's value with its 95% interval."""
        ...

    def compare(self, a: SystemOutputs, b: SystemOutputs) -> Comparison:
        """The paired difference a − b."""
        ...


class Resampled:
    """A measure that is a function of a sum over outputs; its statistics are computed once per system.

    Where systems bring the outputs of several ``runs``, one after the other, a source's statistics are summed over them:
    what is resampled are sources, each with all its outputs.
    """

    def __init__(
        self,
        about: Measure,
        statistics: Callable[[SystemOutputs], FloatArray],
        samples: int = 1000,
        seed: int = 0,
        runs: int = 1,
    ) -> None:
        self.about, self._make, self._samples, self._seed, self.runs = about, statistics, samples, seed, runs
        self._kept: dict[str, FloatArray] = {}

    def over(self, runs: int) -> Resampled:
        """The same measure of systems that bring the outputs of so many runs."""
        return Resampled(self.about, self._make, self._samples, self._seed, runs)

    def of_runs(self, system: SystemOutputs) -> list[float]:
        """The value in each run."""
        return [float(value) for value in self.about.aggregate(self._of_each(system).sum(1))]

    def interval(self, system: SystemOutputs) -> Interval:
        """See `Measured`."""
        return bootstrap_interval(self.about, self._statistics(system), self._samples, self._seed)

    def compare(self, a: SystemOutputs, b: SystemOutputs) -> Comparison:
        """See `Measured`."""
        return paired_bootstrap(self.about, self._statistics(a), self._statistics(b), self._samples, self._seed)

    def _statistics(self, system: SystemOutputs) -> FloatArray:
        return self._of_each(system).sum(0) if self.runs > 1 else self._of_each(system)[0]

    def _of_each(self, system: SystemOutputs) -> FloatArray:
        """[runs, n, k]."""
        if system.name not in self._kept:
            made = self._make(system)
            self._kept[system.name] = made.reshape(self.runs, -1, made.shape[1])
        return self._kept[system.name]


@dataclass(frozen=True)
class LeftOut:
    """A measure of all outputs together."""

    about: Diversity

    def interval(self, system: SystemOutputs) -> Interval:
        """See `Measured`."""
        return jackknife_interval(self.about, system.outputs)

    def compare(self, a: SystemOutputs, b: SystemOutputs) -> Comparison:
        """See `Measured`."""
        return paired_jackknife(self.about, a.outputs, b.outputs)


class WeightedReward(Measure):
    """The weighted sum of the means of a reward's parts, each over the samples that it applies to, as a run logs it.

    Statistics: for each part the summed scores and their number.
    """

    name, label, higher_is_better = "reward", "reward", True

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    def score(self, summed: Sequence[float]) -> float:
        """Σ weight · mean; a part that applies to no sample of a resample adds nothing to it."""
        pairs = zip(self.weights, summed[::2], summed[1::2], strict=True)
        return sum(weight * total / count for weight, total, count in pairs if count)


def default_metrics(
    lowercase: bool = False, tokenize: str = "13a", split: Callable[[str], Sequence[str]] = str.split
) -> list[Metric | Diversity]:
    """BLEU, chrF, ROUGE-L, TER, length, distinct-1 and -2, entropy of words.

    Args:
        lowercase: whether BLEU and chrF score lower-cased texts (TER and ROUGE-L always do).
        tokenize: of BLEU; for another than "13a" and "intl" ROUGE-L, which knows only a-z and 0-9, is left out.
        split: cuts texts into words for length, distinct and entropy.
    """
    rouge = [RougeL()] if tokenize in ("13a", "intl") else []
    overlap: list[Metric] = [Bleu(lowercase, tokenize), Chrf(lowercase=lowercase), *rouge, Ter()]
    return [*overlap, Length(split), Distinct(1, split), Distinct(2, split), WordEntropy(split)]


def text_measures(
    metrics: Sequence[Metric | Diversity], references: References | None, samples: int, seed: int
) -> list[Measured]:
    """Metrics of texts; those that read references only where there are any."""
    given = references is not None and any(references)
    made: list[Measured] = []
    for metric in metrics:
        if isinstance(metric, Diversity):
            made.append(LeftOut(metric))
        elif given or isinstance(metric, Length):
            made.append(_of_texts(metric, references or (), samples, seed))
    return made


def _of_texts(metric: Metric, references: References, samples: int, seed: int) -> Resampled:
    return Resampled(metric, lambda system: metric.statistics(system.outputs, references), samples, seed)


def number_measures(metrics: Sequence[MeanMetric], samples: int, seed: int) -> list[Measured]:
    """Means of the numbers that systems come with."""
    return [_of_numbers(metric, samples, seed) for metric in metrics]


def _of_numbers(metric: MeanMetric, samples: int, seed: int) -> Resampled:
    def statistics(system: SystemOutputs) -> FloatArray:
        if metric.name not in system.numbers:
            raise InputError(f"there are no numbers for {metric.name!r}", where=f"system {system.name!r}")
        return metric.statistics_of(system.numbers[metric.name])

    return Resampled(metric, statistics, samples, seed)


def finished_measure(samples: int, seed: int) -> Measured:
    """The percentage of outputs that ended by themselves."""
    metric = MeanMetric("finished", label="finished (%)", higher_is_better=None)

    def statistics(system: SystemOutputs) -> FloatArray:
        return metric.statistics_of([100.0 * ended for ended in system.finished or ()])

    return Resampled(metric, statistics, samples, seed)


def reward_measures(judgement: Judgement, samples: int, seed: int) -> list[Measured]:
    """The reward as a whole and each part; any system's judgement tells which parts there are."""
    names = [name for name, part in judgement.parts.items() if bool(part.applies.any())]
    parts = [_of_part(name, samples, seed) for name in names]
    if len(names) < 2 and all(judgement.parts[name].weight == 1 for name in names):
        return parts

    def statistics(system: SystemOutputs) -> FloatArray:
        found = [_part(system, name) for name in names]
        return np.stack([column for scores, applies in found for column in (scores * applies, applies)], axis=1)

    whole = WeightedReward([judgement.parts[name].weight for name in names])
    return [Resampled(whole, statistics, samples, seed), *parts]


def _of_part(name: str, samples: int, seed: int) -> Measured:
    metric = MeanMetric(f"reward/{name}", label=f"reward part {name}")

    def statistics(system: SystemOutputs) -> FloatArray:
        scores, applies = _part(system, name)
        return metric.statistics_of(scores[applies > 0].tolist())

    return Resampled(metric, statistics, samples, seed)


def _part(system: SystemOutputs, name: str) -> tuple[FloatArray, FloatArray]:
    """Scores and whether they apply, float64 [n] each."""
    if system.judgement is None or name not in system.judgement.parts:
        raise InputError(f"has no scores of the reward part {name!r}", where=f"system {system.name!r}")
    part = system.judgement.parts[name]
    return part.scores.to(torch.float64).numpy(), part.applies.to(torch.float64).numpy()
