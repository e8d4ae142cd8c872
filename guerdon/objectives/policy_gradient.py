"""Losses whose gradients estimate the gradient of the expected reward.

All are sums divided by ``samples``, the number of scored samples of the *whole* optimiser step: micro-batches and ranks add
up to the same gradient however the step is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.errors import TrainingError


def reinforce_loss(log_prob: Tensor, mask: Tensor, advantages: Tensor, samples: int) -> Tensor:
    """-(1 / samples) sum_i A_i sum_t log p(y_it | y_i<t, x_i), whose negative gradient is REINFORCE (Williams 1992, eq. 11).

    Args:
        log_prob: [n, length], per token, with a gradient.
        mask: bool [n, length], True where the position counts; the end token of a finished output does.
        advantages: [n], without a gradient; 0 for samples that leave the loss.
        samples: the scored samples of the whole optimiser step.

    Returns:
        A scalar.
    """
    sequence_log_prob = torch.where(mask, log_prob, 0.0).sum(-1)
    return -(advantages.detach() * sequence_log_prob).sum() / _positive(samples)


def kl_loss(kl: Tensor, mask: Tensor, samples: int) -> Tensor:
    """(1 / samples) sum_i sum_t KL_it, the divergence from the anchor as a term of the loss.

    Its gradient pulls each next-token distribution towards the anchor's at the prefixes that were sampled; unlike the KL
    in the reward, it does not weigh which prefixes the policy reaches.

    Args:
        kl: [n, length], exact per token, with a gradient.
        mask: bool [n, length], True where the position counts; False throughout for samples that leave the loss.
        samples: the scored samples of the whole optimiser step.

    Returns:
        A scalar.
    """
    return torch.where(mask, kl, 0.0).sum() / _positive(samples)


def _positive(samples: int) -> int:
    if samples < 1:
        raise TrainingError(
            "no scored sample is left in this step",
            cure="skip the step, or look in the run's samples for why every output was dropped",
        )
    return samples
