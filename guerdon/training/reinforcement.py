"""The options of reinforcement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from guerdon.decoding import LengthLimit, SamplingOptions
from guerdon.errors import ConfigurationError
from guerdon.models.precision import Precision, check_precision
from guerdon.objectives.advantage import Baseline
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.rewards.weighting import ConstraintOptions, ScheduleOptions
from guerdon.training.deciding import RolloutPrecision, check_rollout_precision
from guerdon.training.engines import EngineOptions, check_engine
from guerdon.training.estimators import Estimator, Shaping, ValueOptions, check_estimator
from guerdon.training.holding import EntropyOptions, KlOptions
from guerdon.training.monitors import MonitorOptions
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

Control = Literal["none", "shuffled", "constant"]


@dataclass(frozen=True)
class ReinforceConfig:
    """Options of reinforcement.

    Attributes:
        steps: steps at the most, a rollout each; ``loop.patience`` stops earlier, when the validation reward has converged.
        sources_per_step, samples_per_source: a step draws their product.
        temperature, top_p: of the distribution that is drawn from, and whose log-probabilities the gradient weighs.
        limit: the longest output.
        estimator: of the gradient; see `guerdon.training.estimators.Estimator`.
        baseline: what rewards are compared with, for the estimator reinforce; left out, leave_one_out.
        running_decay: of the running mean's memory of earlier batches; for ``baseline="running_mean"``.
        value: the value head, for the estimator ppo; left out, its defaults.
        sharpness: the exponent α of minimum risk training; left out, 0.005 as in the paper.
        updates_per_rollout: optimiser updates from the same outputs; from the second on the ratio of the policy's
            probabilities, now to when they were drawn, weighs each token, clipped.
        clip_low, clip_high: a token counts no further once its ratio has left [1 - low, 1 + high] the way its advantage pulls.
        shaping: "prefix" gives each token the rise of the reward that it brought, for rewards that score prefixes.
        normalisation: of the rewards, before the baseline.
        schedules, constraints: by reward part: a weight that moves, or one that holds the part above a bound.
        kl: the hold on the anchor.
        entropy: a bonus for it.
        mle_weight: weight of the negative log-likelihood (per token) of one reference of each source, added to the loss.
        overlap: whether the outputs of the next step are drawn and judged while the policy is updated, with the weights from
            before the update; `guerdon.training.ahead` says what that does to the gradient.
        control: none, or a control that differs only in the reward: "shuffled" permutes the normalised rewards within
            each sample group (within the batch where a group has one sample), "constant" gives every sample +1 with no
            baseline and no normalisation.
        micro_batch_tokens: padded positions of a micro-batch; changes speed and memory only.
        precision: of the gradient's pass.
        rollout_precision: of the pass that draws outputs. In bfloat16 the policy that draws is a coarser one than the one
            that is trained: ``mismatch`` in the metrics says by how much. The anchor's is float32 wherever it acts, and the
            gradient's where the KL is only measured (a coefficient of 0). "auto" draws the first step's outputs in both, a few
            times, and takes bfloat16 where it is faster by more than 5%; the run keeps to it.
        rollout_engine: what draws outputs.
        monitors: what is watched for while it trains.
        optimiser, loop: see there.
    """

    steps: int = 200
    sources_per_step: int = 32
    samples_per_source: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    limit: LengthLimit = field(default_factory=lambda: LengthLimit(absolute=96))
    estimator: Estimator = "reinforce"
    baseline: Baseline | None = None
    running_decay: float = 0.95
    value: ValueOptions | None = None
    sharpness: float | None = None
    updates_per_rollout: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    shaping: Shaping = "none"
    normalisation: NormaliserOptions = field(default_factory=NormaliserOptions)
    schedules: Mapping[str, ScheduleOptions] = field(default_factory=dict)
    constraints: Mapping[str, ConstraintOptions] = field(default_factory=dict)
    kl: KlOptions = field(default_factory=KlOptions)
    entropy: EntropyOptions = field(default_factory=EntropyOptions)
    mle_weight: float = 0.0
    overlap: bool = False
    control: Control = "none"
    micro_batch_tokens: int = 8192
    precision: Precision = "float32"
    rollout_precision: RolloutPrecision = "float32"
    rollout_engine: EngineOptions = field(default_factory=EngineOptions)
    monitors: MonitorOptions = field(default_factory=MonitorOptions)
    optimiser: OptimiserOptions = field(
        default_factory=lambda: OptimiserOptions(learning_rate=1e-4, warmup_steps=10, schedule="constant", weight_decay=0.0)
    )
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(validate_every=25, criterion="reward", higher_is_better=True))

    def __post_init__(self) -> None:
        for name in ("steps", "sources_per_step", "samples_per_source", "updates_per_rollout", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} is too few", where=f"reinforce.{name}", cure="give at least 1")
        if self.control not in get_args(Control):
            raise ConfigurationError(
                f"there is no {self.control!r}", where="reinforce.control", cure=f"choose {', '.join(get_args(Control))}"
            )
        check_precision(self.precision)
        check_rollout_precision(self.rollout_precision)
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
        if not (0 < self.clip_low <= 1 and 0 < self.clip_high < math.inf):
            raise ConfigurationError(
                f"[1 - {self.clip_low}, 1 + {self.clip_high}] is no range of ratios",
                where="reinforce.clip_low, clip_high",
                cure="give more than 0, and clip_low at most 1",
            )
        check_estimator(self.estimator, self.baseline, self.samples_per_source, self.value, self.sharpness, self.shaping)
        drawn = self.sources_per_step * self.samples_per_source
        if self.kl.target is not None and drawn >= 5 * self.kl.horizon:
            raise ConfigurationError(
                f"a step draws {drawn} samples, and the horizon is {self.kl.horizon}",
                where="reinforce.kl.horizon",
                cure="choose a horizon of several steps' samples",
            )
        check_engine(self.rollout_engine, self.sampling, self.estimator, self.rollout_precision)
        if self.overlap:
            self._check_overlap()

    def _check_overlap(self) -> None:
        """Refuses what no ratio of a token's probabilities corrects."""
        held = self.kl.coefficient > 0
        sampled = self.kl.place == "loss" and self.kl.chosen_estimator != "exact"
        for refused, what, cure in (
            (self.estimator == "minimum_risk", "minimum_risk weighs sets of outputs, not tokens", "choose another estimator"),
            (self.rollout_engine.kind != "own", "an engine's outputs weigh by the policy that drew them", "set kind: own"),
            (self.top_p < 1, "top_p below 1 leaves out tokens that the policy might draw one update later", "set top_p: 1"),
            (held and sampled, f"{self.kl.estimator} in the loss reads tokens as though it had drawn them", "choose exact"),
            (
                held and self.kl.place == "reward" and self.kl.moves,
                "the penalty would hold outputs of an earlier policy to an anchor that has moved on",
                "put the KL in the loss, or keep the anchor fixed",
            ),
        ):
            if refused:
                raise ConfigurationError(what, where="reinforce.overlap", cure=f"{cure}, or leave overlap out")

    @property
    def sampling(self) -> SamplingOptions:
        """The distribution that outputs are drawn from."""
        return SamplingOptions(temperature=self.temperature, top_p=self.top_p)
