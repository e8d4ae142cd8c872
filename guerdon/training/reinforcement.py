"""The options of reinforcement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from guerdon.decoding import LengthLimit, SamplingOptions
from guerdon.errors import ConfigurationError
from guerdon.objectives.advantage import Baseline, check_baseline
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.training.monitors import MonitorOptions
from guerdon.training.precision import Precision, check_precision
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

Control = Literal["none", "shuffled", "constant"]


@dataclass(frozen=True)
class KlOptions:
    """How the policy is held near its anchor, the frozen policy that the stage begins with.

    Attributes:
        coefficient: β; 0 only measures.
        place: "reward" takes β · Σ log p/q of each output off its reward (Ziegler et al. 2019), whose gradient is that of
            E[r] - β KL exactly; "loss" adds β times the exact per-token KL at the sampled prefixes.
    """

    coefficient: float = 0.05
    place: Literal["reward", "loss"] = "reward"

    def __post_init__(self) -> None:
        if not 0.0 <= self.coefficient < float("inf"):
            raise ConfigurationError(
                f"{self.coefficient} is no coefficient", where="reinforce.kl.coefficient", cure="0 or more"
            )
        if self.place not in ("reward", "loss"):
            raise ConfigurationError(f"there is no place {self.place!r}", where="reinforce.kl.place", cure="reward or loss")


@dataclass(frozen=True)
class ReinforceConfig:
    """Options of reinforcement.

    Attributes:
        steps: optimiser steps at the most; ``loop.patience`` stops earlier, when the validation reward has converged.
        sources_per_step, samples_per_source: a step draws their product.
        temperature: of the distribution that is drawn from, and whose log-probabilities the gradient weighs.
        limit: the longest output.
        baseline: what rewards are compared with.
        running_decay: of the running mean's memory of earlier batches; for ``baseline="running_mean"``.
        normalisation: of the rewards, before the baseline.
        kl: the hold on the anchor.
        mle_weight: weight of the negative log-likelihood (per token) of one reference of each source, added to the loss.
        control: none, or a control that differs only in the reward: "shuffled" permutes the normalised rewards within
            each sample group (within the batch where a group has one sample), "constant" gives every sample +1 with no
            baseline and no normalisation.
        micro_batch_tokens: padded positions of a micro-batch; changes speed and memory only.
        precision: of the gradient's pass; rollouts are float32.
        monitors: what is watched for while it trains.
        optimiser, loop: see there.
    """

    steps: int = 200
    sources_per_step: int = 32
    samples_per_source: int = 4
    temperature: float = 1.0
    limit: LengthLimit = field(default_factory=lambda: LengthLimit(absolute=96))
    baseline: Baseline = "leave_one_out"
    running_decay: float = 0.95
    normalisation: NormaliserOptions = field(default_factory=NormaliserOptions)
    kl: KlOptions = field(default_factory=KlOptions)
    mle_weight: float = 0.0
    control: Control = "none"
    micro_batch_tokens: int = 8192
    precision: Precision = "float32"
    monitors: MonitorOptions = field(default_factory=MonitorOptions)
    optimiser: OptimiserOptions = field(
        default_factory=lambda: OptimiserOptions(learning_rate=1e-4, warmup_steps=10, schedule="constant", weight_decay=0.0)
    )
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(validate_every=25, criterion="reward", higher_is_better=True))

    def __post_init__(self) -> None:
        for name in ("steps", "sources_per_step", "samples_per_source", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} is too few", where=f"reinforce.{name}", cure="give at least 1")
        if self.control not in get_args(Control):
            raise ConfigurationError(
                f"there is no {self.control!r}", where="reinforce.control", cure=f"choose {', '.join(get_args(Control))}"
            )
        check_precision(self.precision)
        if self.loop.criterion == "nll":
            raise ConfigurationError(
                "nothing measures 'nll'", where="reinforce.loop.criterion", cure="choose reward, with higher_is_better: true"
            )
        if not 0 <= self.mle_weight < float("inf"):
            raise ConfigurationError("a weight must not be negative", where="reinforce.mle_weight", cure="give 0 or more")
        if self.normalisation.kind == "group" and self.samples_per_source == 1:
            raise ConfigurationError(
                "a group of one sample has no spread to normalise by",
                where="reinforce.normalisation.kind",
                cure="draw more samples_per_source, or normalise by running or batch",
            )
        check_baseline(self.baseline, self.samples_per_source)
        SamplingOptions(temperature=self.temperature)
