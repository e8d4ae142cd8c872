"""How far a policy has moved from its anchor, and how undecided it is.

Logits may hold -inf (disallowed tokens); such tokens have probability 0 and add nothing, in the value and in the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_exact(logits: Tensor, anchor_logits: Tensor) -> Tensor:
    """KL(policy || anchor) of next-token distributions, summed over the vocabulary, in nats.

    Args:
        logits: [..., vocabulary].
        anchor_logits: [..., vocabulary].

    Returns:
        [...]; +inf where the policy may write a token that the anchor may not.
    """
    log_prob, anchor_log_prob = logits.log_softmax(-1), anchor_logits.log_softmax(-1)
    disallowed = logits == -torch.inf
    ratio = log_prob.masked_fill(disallowed, 0.0) - anchor_log_prob.masked_fill(disallowed, 0.0)
    return (log_prob.exp() * ratio).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of next-token distributions, in nats: [..., vocabulary] -> [...]."""
    log_prob = logits.log_softmax(-1)
    return -(log_prob.exp() * log_prob.masked_fill(logits == -torch.inf, 0.0)).sum(-1)


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
