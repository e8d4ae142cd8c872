"""How far a policy has moved from its anchor, estimated from its own samples.

The exact divergence of next-token distributions is ``kl`` of `guerdon.models.policy.Evaluation`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_sampled(log_prob: Tensor, anchor_log_prob: Tensor) -> Tensor:
    """The plain estimate of KL(policy || anchor) from the policy's own samples: log p - log q, of the inputs' shape.

    Schulman 2020 (Approximating KL divergence), k1: unbiased, negative for some samples.
    """
    return log_prob - anchor_log_prob


def sequence_kl(log_prob: Tensor, anchor_log_prob: Tensor, mask: Tensor) -> Tensor:
    """`kl_sampled` of whole outputs: [n, length] -> [n], without a gradient.

    Taken off the reward (r - beta * sequence_kl), it makes REINFORCE ascend E[r] - beta * KL(policy || anchor) exactly
    (Ziegler et al. 2019, eq. 2): what the gradient of log p inside the reward would add is zero in expectation.
    """
    return torch.where(mask, kl_sampled(log_prob, anchor_log_prob), 0.0).sum(-1).detach()
