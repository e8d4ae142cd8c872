"""Losses whose gradients estimate the gradient of the expected reward.

All are sums divided by ``samples``, the number of scored samples of the *whole* optimiser step: micro-batches and ranks add
up to the same gradient however the step is cut.

Axes: n samples, length tokens of an output. ``mask`` bool [n, length] is True where a position counts; the end token of a
finished output does. What stands elsewhere is never read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.objectives.sums import positive


def reinforce_loss(log_prob: Tensor, mask: Tensor, advantages: Tensor, samples: int) -> Tensor:
    """-(1 / samples) sum_i sum_t A_it log p(y_it | y_i<t, x_i), whose negative gradient is REINFORCE (Williams 1992, eq. 11).

    Args:
        log_prob: [n, length], per token, with a gradient.
        mask: bool [n, length].
        advantages: without a gradient; [n], one for all tokens of a sample, or [n, length], one for each token; 0 for
            samples that leave the loss. Those of tokens are unbiased when each is the reward that is still to come less
            anything that its prefix alone determines (Sutton et al. 2000, theorem 1).
        samples: the scored samples of the whole optimiser step.

    Returns:
        A scalar.

    Raises:
        TrainingError: when ``samples`` is 0.
    """
    return -(_per_token(advantages, mask) * torch.where(mask, log_prob, 0.0)).sum() / positive(samples)


def clipped_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    mask: Tensor,
    advantages: Tensor,
    samples: int,
    low: float,
    high: float,
    average_tokens: bool = False,
) -> tuple[Tensor, Tensor]:
    """-(1 / samples) sum_i sum_t min(ρ_it A_it, clip(ρ_it, 1 - low, 1 + high) A_it), with ρ = p / p_old.

    Schulman et al. 2017 (Proximal policy optimization algorithms), eq. 7, token by token. Two bounds as in Yu et al. 2025
    (DAPO), eq. 8. Where the policy is still the one that drew the samples, ρ is 1 and the gradient is that of
    `reinforce_loss`. A token's ratio corrects that token's probability only, not the prefix's: away from the old policy the
    expectation is the gradient of this surrogate, not of the expected reward.

    Args:
        log_prob: [n, length], per token, with a gradient.
        old_log_prob: [n, length], of the policy that drew the samples, without a gradient.
        mask: bool [n, length].
        advantages: as for `reinforce_loss`.
        samples: the scored samples of the whole optimiser step.
        low: how far below 1 the ratio counts, from 0 to 1.
        high: how far above 1 the ratio counts, from 0.
        average_tokens: the mean over each output's own tokens instead of their sum (GRPO: Shao et al. 2024, eq. 3). A long
            output's tokens then weigh less than a short one's.

    Returns:
        A scalar; and how many counted tokens took the clipped branch, where there is no gradient (int64 scalar).

    Raises:
        TrainingError: when ``samples`` is 0.
    """
    weights = _per_token(advantages, mask)
    ratio = torch.where(mask, log_prob - old_log_prob.detach(), 0.0).exp()
    plain, bounded = ratio * weights, ratio.clamp(1.0 - low, 1.0 + high) * weights
    active = bounded < plain
    terms = torch.where(active, bounded, plain)
    if average_tokens:
        terms = terms / mask.sum(-1, keepdim=True).clamp(min=1)
    return -torch.where(mask, terms, 0.0).sum() / positive(samples), active.sum()


def kl_loss(kl: Tensor, mask: Tensor, samples: int) -> Tensor:
    """(1 / samples) sum_i sum_t KL_it, the divergence from the anchor as a term of the loss.

    Its gradient pulls each next-token distribution towards the anchor's at the prefixes that were sampled; unlike the KL
    in the reward, it does not weigh which prefixes the policy reaches.

    Args:
        kl: [n, length], per token, with a gradient: any `guerdon.objectives.divergence.kl_estimate`.
        mask: bool [n, length]; False throughout for samples that leave the loss.
        samples: the scored samples of the whole optimiser step.

    Returns:
        A scalar.

    Raises:
        TrainingError: when ``samples`` is 0.
    """
    return torch.where(mask, kl, 0.0).sum() / positive(samples)


def entropy_loss(entropy: Tensor, mask: Tensor, samples: int) -> Tensor:
    """-(1 / samples) sum_i sum_t H_it: the entropy bonus as a term of the loss (Williams and Peng 1991).

    Like `kl_loss` it sees the next-token distributions at the prefixes that were sampled, not which prefixes are reached.

    Args:
        entropy: [n, length], of the next-token distributions, in nats, with a gradient.
        mask: bool [n, length]; False throughout for samples that leave the loss.
        samples: the scored samples of the whole optimiser step.

    Returns:
        A scalar.

    Raises:
        TrainingError: when ``samples`` is 0.
    """
    return -torch.where(mask, entropy, 0.0).sum() / positive(samples)


def _per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """[n] or [n, length] -> [n, length], without a gradient, 0 where nothing counts."""
    weights = advantages.detach()
    return torch.where(mask, weights[:, None] if weights.dim() == 1 else weights, 0.0)
