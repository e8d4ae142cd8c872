"""The loss of one update of reinforcement, from a rollout's micro-batches and its targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guerdon.models.actor import Actor, ValueHead
from guerdon.models.evaluation import target_log_prob
from guerdon.models.policy import Evaluation, Policy
from guerdon.models.precision import autocast
from guerdon.objectives.divergence import kl_estimate
from guerdon.objectives.minimum_risk import minimum_risk_loss
from guerdon.objectives.policy_gradient import clipped_loss, entropy_loss, kl_loss, reinforce_loss
from guerdon.objectives.value import value_loss
from guerdon.training.estimators import DEFAULT_SHARPNESS, ValueOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import MicroBatch, Rollout, dealt
from guerdon.training.signals import Seen, Targets
from guerdon.training.tally import Tally


class Updating:
    """Evaluates the actor and its anchor, and makes losses of what they say.

    Args:
        config: the options.
        policy: what is trained.
        anchor: what it is held to.
    """

    def __init__(self, config: ReinforceConfig, policy: Policy, anchor: Policy) -> None:
        self.config, self.anchor = config, anchor
        weight, value = next(policy.parameters()), None
        self.device = weight.device
        if config.estimator == "ppo":
            options = config.value or ValueOptions()
            value = ValueHead(policy.width, options.learning_rate_factor, options.trunk)
            value.to(self.device, torch.promote_types(weight.dtype, torch.float32))
        self.actor = Actor(policy, value, anchor if config.kl.moves else None)

    @torch.no_grad()
    def scan(self, rollout: Rollout) -> Seen:
        """What the anchor and, where something reads it, the actor says of each token as it was drawn."""
        kl, like, most = self.config.kl, rollout.samples.log_prob, self.config.micro_batch_tokens
        exact = kl.place == "reward" and kl.chosen_estimator == "exact" and kl.coefficient > 0
        found = {name: torch.zeros_like(like) for name in ("anchor_log_prob", "kl", "value")}

        def keep(part: MicroBatch, **values: Tensor | None) -> None:
            for name, own in values.items():
                if own is not None:
                    found[name][part.rows, : own.shape[1]] = own.to(like.dtype)

        if exact or self.actor.value is not None:
            for part in rollout.micro_batches(most):
                now = self._evaluate(part, self.anchor if exact else None)
                keep(part, anchor_log_prob=now.anchor_log_prob, kl=now.kl, value=now.value)
        asked = math.ceil(kl.measured * len(rollout.sources))
        for part in rollout.micro_batches(most, asked) if not exact else ():
            (anchor_log_prob,) = dealt(self.anchor, self.anchor, part, self._of_anchor)
            keep(part, anchor_log_prob=anchor_log_prob)
        value = found["value"] if self.actor.value is not None else None
        return Seen(found["anchor_log_prob"], asked * rollout.copies, found["kl"] if exact else None, value)

    def _of_anchor(self, part: MicroBatch) -> list[Tensor]:
        # what a coefficient of 0 only measures may be as coarse as the gradient
        with autocast(self.device, "float32" if self.config.kl.coefficient else self.config.precision):
            logits = self.anchor.logits(part.sources, part.targets, part.of_source)
        return [target_log_prob(logits, part.targets, self.config.temperature)]

    def _evaluate(self, part: MicroBatch, anchor: Policy | None) -> Evaluation:
        """What the actor says of some sample groups."""
        config, names = self.config, ["log_prob", "entropy"]
        names += ["kl", "anchor_log_prob"] if anchor is not None else []
        names += ["value"] if self.actor.value is not None else []

        def of_share(part: MicroBatch) -> list[Tensor]:
            with autocast(self.device, config.precision):
                seen = self.actor.evaluate(part.sources, part.targets, anchor, config.temperature, part.of_source, config.top_p)
            return [getattr(seen, name) for name in names]

        found = dealt(self.actor, self.actor.policy, part, of_share)
        return Evaluation(mask=part.targets.mask, **dict(zip(names, found, strict=True)))

    def loss(
        self, part: MicroBatch, targets: Targets, seen: Seen, tally: Tally, first: bool, held: float, bonus: float
    ) -> Tensor:
        """The loss of some sample groups.

        Args:
            part: the groups.
            targets: of the whole step.
            seen: of the whole step.
            tally: takes in what is counted.
            first: whether this is the first update from the rollout.
            held: the coefficient of the KL.
            bonus: the coefficient of the entropy.
        """
        config, kl = self.config, self.config.kl
        in_loss = kl.place == "loss" and held > 0
        now = self._evaluate(part, self.anchor if in_loss and kl.chosen_estimator == "exact" else None)
        advantages, rows = targets.advantages, part.rows
        device, width = now.mask.device, now.mask.shape[1]
        samples = max(1, advantages.samples)
        if first:
            tally.keep(rows, now.log_prob)
        loss = self._estimate(part, now, targets, tally, first)
        counted = advantages.counted.to(device)[rows, None] & now.mask
        share = 1.0 if targets.weights is None else targets.weights.to(now.log_prob)[rows, None]
        if in_loss:
            of_anchor = seen.anchor_log_prob[rows, :width].to(now.log_prob)
            each = kl_estimate(kl.chosen_estimator, now.log_prob, of_anchor, now.kl)
            loss = loss + held * kl_loss(share * each, counted, samples)
        if bonus:
            loss = loss + bonus * entropy_loss(share * now.entropy, counted, samples)
        if now.value is not None and targets.returns is not None and seen.value is not None:
            options = config.value or ValueOptions()
            before, returns = seen.value[rows, :width].to(now.value), targets.returns.to(now.value)[rows, :width]
            squared = value_loss(now.value, before, returns, counted, samples, options.clip)
            tally.count_value(squared)
            loss = loss + options.weight * squared
        tally.count(now)
        return loss

    def _estimate(self, part: MicroBatch, now: Evaluation, targets: Targets, tally: Tally, first: bool) -> Tensor:
        """The estimator's own term of the loss."""
        config, advantages, rows, width = self.config, targets.advantages, part.rows, now.mask.shape[1]
        if targets.distinct is not None:
            rewards, distinct = targets.rewards.to(now.log_prob)[rows], targets.distinct.to(now.mask.device)[rows]
            alpha, sets = config.sharpness or DEFAULT_SHARPNESS, max(1, targets.sets)
            return minimum_risk_loss(now.log_prob, now.mask, rewards, distinct, part.of_source, alpha, sets)
        weights, samples = advantages.values.to(now.log_prob)[rows], max(1, advantages.samples)
        weights = weights[:, :width] if weights.ndim == 2 else weights
        average = config.estimator == "grpo" and config.control != "constant"
        if first and not average and not tally.stale:  # every ratio is 1: the gradient of the clipped surrogate is this one's
            return reinforce_loss(now.log_prob, now.mask, weights, samples)
        drawn = tally.drawn(rows, width).to(now.log_prob)
        loss, clipped = clipped_loss(
            now.log_prob, drawn, now.mask, weights, samples, config.clip_low, config.clip_high, average
        )
        tally.count_clipped(clipped)
        return loss
