"""Losses that learn from pairs of outputs, of which one is preferred, and draw no samples.

Axes: n pairs of one micro-batch. A log-probability is that of a whole output, summed over its tokens, the end token included.
All losses are sums over the pairs: divide them by the number of pairs of the *whole* optimiser step, and any cut into
micro-batches gives the same gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError


@dataclass(frozen=True)
class PreferenceSums:
    """What one micro-batch adds to an optimiser step.

    Attributes:
        loss: scalar with a gradient, summed over the pairs, each times its weight.
        margin: [n] without a gradient: how much more the policy's implied reward gives the chosen output.
        correct: [n] without a gradient: 1 where the margin is above 0, ½ where it is 0, else 0; its mean is the accuracy.
    """

    loss: Tensor
    margin: Tensor
    correct: Tensor


def sequence_log_prob(logits: Tensor, targets: Padded) -> Tensor:
    """The log-probability of whole targets, [batch], with a gradient.

    Args:
        logits: [tokens, vocabulary], one row per position of ``targets`` that counts, row by row, as
            `guerdon.models.policy.Policy.logits` gives them; -inf for disallowed tokens. Computed in float32 at least.
        targets: [batch, length].
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    mask = targets.mask
    of_token = -functional.cross_entropy(wide, targets.ids[mask], reduction="none")
    return of_token.new_zeros(mask.shape).masked_scatter(mask, of_token).sum(-1)


def dpo_loss(
    chosen_log_prob: Tensor,
    rejected_log_prob: Tensor,
    anchor_chosen: Tensor,
    anchor_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> PreferenceSums:
    """-Σ w log σ(m), with the margin m = β log p(y_w)/q(y_w) - β log p(y_l)/q(y_l) of policy p and anchor q.

    Direct preference optimisation, Rafailov et al. 2023, eq. 7. Where preferences follow Bradley and Terry with the reward r,
    its optimum is the policy of KL-regularised reinforcement, p(y) ∝ q(y) exp(r(y) / β) (their eq. 4). With label smoothing s
    (Mitchell 2023, "conservative DPO", eq. 3) a share s of the labels is taken to be wrong:
    -(1 - s) log σ(m) - s log σ(-m).

    Args:
        chosen_log_prob, rejected_log_prob: [n], of the policy, with a gradient.
        anchor_chosen, anchor_rejected: [n], of the anchor.
        beta: β, above 0: the larger, the nearer the policy stays to its anchor.
        label_smoothing: s, from 0 to below ½.
        weight: [n], how much each pair counts; None is 1 for all.

    Raises:
        ConfigurationError: for a β or s out of range.
    """
    check_positive("beta", beta)
    check_label_smoothing(label_smoothing)
    margin = beta * _log_ratio(chosen_log_prob, rejected_log_prob, anchor_chosen, anchor_rejected)
    losses = -(1.0 - label_smoothing) * functional.logsigmoid(margin)
    if label_smoothing:
        losses = losses - label_smoothing * functional.logsigmoid(-margin)
    return _sums(losses, margin, weight)


def ipo_loss(
    chosen_log_prob: Tensor,
    rejected_log_prob: Tensor,
    anchor_chosen: Tensor,
    anchor_rejected: Tensor,
    tau: float,
    weight: Tensor | None = None,
) -> PreferenceSums:
    """Σ w (h - 1 / 2τ)², with h = log p(y_w)/q(y_w) - log p(y_l)/q(y_l) of policy p and anchor q.

    Identity preference optimisation, Azar et al. 2024, eq. 17. The margin that pulls the two outputs apart is finite: a pair
    that is preferred in a share π of the judgements ends at h = (2π - 1) / 2τ, where DPO without smoothing drives a pair that
    all agree on ever further. The implied reward of an output is τ log p/q.

    Args:
        chosen_log_prob, rejected_log_prob: [n], of the policy, with a gradient.
        anchor_chosen, anchor_rejected: [n], of the anchor.
        tau: τ, above 0: the larger, the nearer the policy stays to its anchor.
        weight: [n], how much each pair counts; None is 1 for all.

    Raises:
        ConfigurationError: for a τ out of range.
    """
    check_positive("tau", tau)
    ratio = _log_ratio(chosen_log_prob, rejected_log_prob, anchor_chosen, anchor_rejected)
    return _sums((ratio - 0.5 / tau).square(), tau * ratio, weight)


def orpo_loss(
    chosen_log_prob: Tensor,
    rejected_log_prob: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    odds_weight: float,
    weight: Tensor | None = None,
) -> PreferenceSums:
    """Σ w (-log P(y_w) - λ log σ(m)), with m = log odds(y_w)/odds(y_l), odds = P / (1 - P), P the mean probability of a token.

    Odds ratio preference optimisation, Hong et al. 2024, eq. 6 and 7; log P is the output's log-probability divided by its
    tokens (their eq. 3), so that the first term is the negative log-likelihood per token of the chosen output. There is no
    anchor: likelihood and preference are learnt at once.

    Args:
        chosen_log_prob, rejected_log_prob: [n], of the policy, with a gradient.
        chosen_tokens, rejected_tokens: [n], the tokens of each output, end token included.
        odds_weight: λ, above 0.
        weight: [n], how much each pair counts; None is 1 for all.

    Raises:
        ConfigurationError: for a λ out of range.
    """
    check_positive("odds_weight", odds_weight)
    chosen, rejected = chosen_log_prob / chosen_tokens, rejected_log_prob / rejected_tokens
    margin = log_odds(chosen) - log_odds(rejected)
    return _sums(-chosen - odds_weight * functional.logsigmoid(margin), margin, weight)


def log_odds(log_prob: Tensor) -> Tensor:
    """log (P / (1 - P)) from log P, exact for P near 0 and near 1; finite at P = 1, where rounding alone can bring it."""
    below_one = log_prob.clamp(max=-torch.finfo(log_prob.dtype).eps)
    return below_one - log1mexp(below_one)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, in the form that loses no digits (Mächler 2012, eq. 7)."""
    near = x > -math.log(2.0)
    inside = torch.where(near, x, -1.0)  # each branch sees only what it can bear, or its gradient would be nan · 0
    outside = torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(inside)), torch.log1p(-torch.exp(outside)))


def check_positive(name: str, value: float) -> None:
    """Refuses, as a `ConfigurationError`, a factor that is not above 0 and finite."""
    if not 0.0 < value < math.inf:
        raise ConfigurationError(f"{value} is out of range", where=name, cure="give a finite number above 0")


def check_label_smoothing(share: float) -> None:
    """Refuses, as a `ConfigurationError`, a share of wrong labels that leaves nothing to learn."""
    if not 0.0 <= share < 0.5:
        raise ConfigurationError(
            f"{share} is out of range", where="label_smoothing", cure="give 0 to below 0.5, the share of labels that are wrong"
        )


def _log_ratio(chosen: Tensor, rejected: Tensor, anchor_chosen: Tensor, anchor_rejected: Tensor) -> Tensor:
    return (chosen - anchor_chosen.detach()) - (rejected - anchor_rejected.detach())


def _sums(losses: Tensor, margin: Tensor, weight: Tensor | None) -> PreferenceSums:
    seen = margin.detach()
    weighted = losses if weight is None else losses * weight
    return PreferenceSums(weighted.sum(), seen, 0.5 * (1.0 + seen.sign()))
