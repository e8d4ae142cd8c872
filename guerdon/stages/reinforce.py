"""Reinforcement by policy gradient (FORMULAS 3.5.3, 4.3.1, 5): ascend E[r(y, y*)] over y ~ p_θ(y | x).

`Reinforce.losses` is the whole algorithm: draw, judge, normalise, compare with a baseline, and weigh log-probabilities.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from guerdon.data.batches import source_batches
from guerdon.data.draws import generator as random_generator
from guerdon.data.draws import key
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.decoding import SamplingOptions
from guerdon.errors import DataError
from guerdon.generator import Generator
from guerdon.models.policy import Policy
from guerdon.objectives.advantage import (
    Advantages,
    RunningMean,
    estimate,
    no_baseline,
    shuffle_within_groups,
)
from guerdon.objectives.divergence import sequence_kl
from guerdon.objectives.likelihood import label_smoothed_nll
from guerdon.objectives.policy_gradient import kl_loss, reinforce_loss
from guerdon.rewards.base import Reward
from guerdon.rewards.normalise import Normaliser
from guerdon.training.around import surroundings
from guerdon.training.loop import Loop, Outcome
from guerdon.training.monitors import Alarm, Monitors
from guerdon.training.precision import autocast
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import MicroBatch, Prompts, Rollout, draw, greedy_texts
from guerdon.training.supervised import Validate
from guerdon.training.watch import Watch


class Reinforce:
    """The policy gradient as a `guerdon.training.loop.Trainee`."""

    begins_trained = True

    def __init__(
        self, name: str, generator: Generator, anchor: Policy, reward: Reward, prompts: Prompts, watch: Watch,
        config: ReinforceConfig, seed: int,
    ) -> None:  # fmt: skip
        self.name, self.generator, self.model, self.anchor = name, generator, generator.policy, anchor
        self.reward, self.prompts, self.watch, self.config, self.seed = reward, prompts, watch, config, seed
        self.normaliser, self.running_mean = Normaliser(config.normalisation), RunningMean(config.running_decay)
        self.monitors = Monitors(config.monitors)
        self._steps: Iterator[tuple[int, int, list[int]]] | None = None
        self._next = 0
        self._rollout: Rollout | None = None
        self._metrics: dict[str, float] = {}
        self._durations: dict[str, float] = {}

    def fingerprint(self) -> str:
        """See `Trainee`: the options, the examples, and the anchor, which on resuming must be the one it began with."""
        digest = hashlib.sha256()
        for weight in self.anchor.parameters():
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        for example in [*self.prompts.examples, *self.watch.validation.examples]:
            digest.update(repr((example.source, example.references)).encode())
        return f"{getattr(self.model, 'options', '')} {self.config} {self.reward.name} {digest.hexdigest()}"

    def losses(self, step: int) -> Iterator[Tensor]:
        """One step of REINFORCE. Advantages are computed before the samples are cut into micro-batches."""
        config, clock = self.config, time.perf_counter
        self.model.eval()  # no dropout: the gradient weighs the distribution that was drawn from
        began = clock()
        numbers = self._sources(step)
        rollout = self._rollout = self._draw(numbers, step)
        drawn = clock()
        judged = self.prompts.judged(rollout.numbers, rollout.texts, rollout.samples.finished.tolist())
        judgement = self.reward.judge(judged)
        scored = clock()
        anchor_log_prob = self._anchor_log_prob(rollout)
        divergence = sequence_kl(rollout.samples.log_prob, anchor_log_prob, rollout.samples.tokens.mask)
        advantages = self._advantages(step, rollout, judgement, divergence, numbers)
        self._metrics = self.watch.rollout_metrics(rollout, judged, judgement, advantages, divergence)
        entropy = 0.0
        for part in rollout.micro_batches(config.micro_batch_tokens):
            loss, entropies = self._policy_loss(part, advantages)
            entropy += entropies
            yield loss
        if config.mle_weight:
            yield self._mle_loss(step, numbers)
        self._metrics["entropy"] = entropy / rollout.samples.tokens.tokens()
        self._durations = {"rollout": drawn - began, "reward": scored - drawn, "update": clock() - scored}

    # --- the parts of a step

    def _sources(self, step: int) -> list[int]:
        if self._steps is None or step != self._next:
            self._steps = source_batches(len(self.prompts), self.config.sources_per_step, self.seed, start_step=step - 1)
        self._next = step + 1
        return next(self._steps)[2]

    def _draw(self, numbers: Sequence[int], step: int) -> Rollout:
        config, options = self.config, SamplingOptions(temperature=self.config.temperature)
        return draw(self.generator, self.prompts, numbers, config.samples_per_source, options, config.limit, self.seed, step)

    @torch.no_grad()
    def _anchor_log_prob(self, rollout: Rollout) -> Tensor:
        """The anchor's log-probability of each sampled token, [rows, length]."""
        found = torch.zeros_like(rollout.samples.log_prob)
        for part in rollout.micro_batches(self.config.micro_batch_tokens):
            seen = self.anchor.evaluate(part.sources, part.targets, None, self.config.temperature, part.of_source)
            found[part.rows, : seen.log_prob.shape[1]] = seen.log_prob.to(found.dtype)
        return found

    def _advantages(
        self, step: int, rollout: Rollout, judgement: Any, divergence: Tensor, numbers: Sequence[int]
    ) -> Advantages:
        """r̄ - β KL less the baseline; what the log and the gradient see is the same."""
        config = self.config
        penalty = config.kl.coefficient * divergence.cpu() if config.kl.place == "reward" else torch.zeros(len(divergence))
        groups = rollout.groups.cpu()
        if config.control == "constant":
            return no_baseline(torch.ones(len(groups)) - penalty, torch.ones(len(groups), dtype=torch.bool))
        rewards, kept = self.normaliser.apply(judgement, groups)
        if config.control == "shuffled":
            source = torch.Generator().manual_seed(key(self.seed, "shuffled rewards", step))
            rewards = shuffle_within_groups(rewards, kept, groups, source)
        rewards = rewards - penalty
        greedy = self._greedy_rewards(numbers) if config.baseline == "self_critical" else None
        advantages = estimate(config.baseline, rewards, kept, groups, self.running_mean, greedy)
        self.running_mean.update(rewards, kept)
        return advantages

    def _greedy_rewards(self, numbers: Sequence[int]) -> Tensor:
        """The normalised reward of each source's greedy output, on the scale of the samples' moments: [groups]."""
        texts, finished = greedy_texts(self.generator, self.prompts, numbers, self.config.limit)
        judgement = self.reward.judge(self.prompts.judged(numbers, texts, finished))
        return self.normaliser.rescale(judgement, torch.arange(len(numbers)))

    def _policy_loss(self, part: MicroBatch, advantages: Advantages) -> tuple[Tensor, float]:
        """The loss of some sample groups, and the sum of their entropies."""
        config = self.config
        anchor = self.anchor if config.kl.place == "loss" and config.kl.coefficient else None
        with autocast(self.generator.device, config.precision):
            seen = self.generator.policy.evaluate(part.sources, part.targets, anchor, config.temperature, part.of_source)
        weights = advantages.values.to(seen.log_prob)[part.rows]
        loss = reinforce_loss(seen.log_prob, seen.mask, weights, max(1, advantages.samples))
        if seen.kl is not None:
            counted = advantages.counted.to(seen.mask.device)[part.rows, None] & seen.mask
            loss = loss + config.kl.coefficient * kl_loss(seen.kl, counted, max(1, advantages.samples))
        return loss, float(seen.entropy.detach().sum())

    def _mle_loss(self, step: int, numbers: Sequence[int]) -> Tensor:
        """The negative log-likelihood per token of one reference of each source, drawn anew at each step."""
        drawn = random_generator(self.seed, "mle reference", step)
        chosen = [self.prompts.examples[i].references for i in numbers]
        texts = [references[int(drawn.integers(len(references)))] for references in chosen]
        targets = Padded.from_lists(self.generator.encode_targets(texts), self.generator.policy.pad_id, self.generator.device)
        with autocast(self.generator.device, self.config.precision):
            logits = self.generator.policy.logits(self.prompts.padded(numbers, self.generator), targets)
        return self.config.mle_weight * label_smoothed_nll(logits, targets).loss / targets.tokens()

    # --- what the loop asks

    def metrics(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._metrics

    def durations(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._durations

    def validate(self, step: int) -> Mapping[str, float]:
        """See `Trainee`."""
        return self.watch.validate(self.generator, self.anchor)

    def observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> Sequence[Alarm]:
        """See `Trainee`."""
        return self.monitors.observe(step, kind, figures)

    def stop_reason(self) -> str | None:
        """See `Trainee`."""
        return self.monitors.stop_reason

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`."""
        return self.watch.take_samples()

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`: the sources and outputs of the step."""
        if self._rollout is None:
            return []
        rows = zip(self._rollout.numbers, self._rollout.texts, strict=True)
        return [{"example": i, "source": self.prompts.examples[i].source, "output": text} for i, text in rows]

    def state(self) -> dict[str, Any]:
        """See `Trainee`: the moments of normalisation and baseline, and what the monitors follow."""
        return {
            "normaliser": self.normaliser.state_dict(),
            "running_mean": self.running_mean.state_dict(),
            "monitors": self.monitors.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Trainee`."""
        self.normaliser.load_state_dict(state["normaliser"])
        self.running_mean.load_state_dict(state["running_mean"])
        self.monitors.load_state_dict(state["monitors"])


def reinforce(
    generator: Generator,
    reward: Reward,
    examples: Sequence[Example],
    config: ReinforceConfig,
    validation: Sequence[Example],
    validate: Validate | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Optimises the generator's policy, in place, for ``reward`` on the sources of ``examples``.

    Args:
        generator: its policy ends with the weights that validated best by ``config.loop.criterion``.
        reward: what is optimised.
        examples: sources, with references where the reward or ``mle_weight`` reads them.
        config: the options.
        validation: examples whose greedy outputs are judged by the same reward.
        validate: further validation figures.
        folder, seed, progress, tensorboard: as `guerdon.stages.finetune.finetune`; a control's stage is named
            "reinforce-shuffled" or "reinforce-constant".

    Raises:
        DataError: without examples or validation examples, or where references are needed and missing.
        RewardError: when the reward fails.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    if not examples or not validation:
        raise DataError(
            "needs training and validation sources", where="reinforce", cure="give examples and validation examples"
        )
    if config.mle_weight or reward.needs_references:
        _check_references([*examples, *validation], "mle_weight" if config.mle_weight else f"reward {reward.name!r}")
    name = "reinforce" if config.control == "none" else f"reinforce-{config.control}"
    prompts = Prompts.of(generator, examples)
    watch = Watch(reward, Prompts.of(generator, validation), config.limit, validate)
    anchor = copy.deepcopy(generator.policy).eval().requires_grad_(False)
    trainee = Reinforce(name, generator, anchor, reward, prompts, watch, config, seed)
    with surroundings(folder, name, seed, progress, tensorboard) as around:
        return Loop(trainee, config.steps, config.loop, config.optimiser, around).run()


def _check_references(examples: Sequence[Example], reader: str) -> None:
    for number, example in enumerate(examples):
        if not example.references:
            raise DataError(
                f"example {number} ({example.source[:60]!r}) has no references, which {reader} reads",
                where="reinforce",
                cure="give every record at least one reference, or choose rewards that need none",
            )
