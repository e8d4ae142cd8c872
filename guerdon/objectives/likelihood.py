"""Maximum likelihood with label smoothing, as sums, so that any cut of an optimiser step adds up to the same loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError

_IGNORED = -100


@dataclass(frozen=True)
class LikelihoodSums:
    """What one micro-batch adds to an optimiser step.

    Attributes:
        loss: scalar with a gradient: the smoothed negative log-likelihood, summed over the target tokens, in nats.
        nll: scalar without a gradient: the plain negative log-likelihood, summed likewise. exp(nll / tokens) is the perplexity.
        tokens: number of target tokens summed over.
    """

    loss: Tensor
    nll: Tensor
    tokens: int


def label_smoothed_nll(logits: Tensor, targets: Padded, smoothing: float = 0.0) -> LikelihoodSums:
    """Cross-entropy against a target distribution that gives a share of its mass to every allowed token.

    Szegedy et al. 2016 (Rethinking the Inception architecture), section 7: q'(k) = (1 - s) [k = target] + s / K. A token is
    allowed where its logit is not -inf, and K counts the allowed tokens of the position, so that no mass is asked for
    what the model cannot write.

    Args:
        logits: [batch, length, vocabulary], -inf for disallowed tokens. Computed in float32 at least.
        targets: [batch, length]; what stands beyond a row's length is not read.
        smoothing: s, in [0, 1).

    Returns:
        Sums, not means: divide by the target tokens of the whole optimiser step. ``loss`` is not finite where a target
        is itself a disallowed token, which the training loop reports like any other non-finite loss.

    Raises:
        ConfigurationError: when ``smoothing`` is outside [0, 1).
    """
    if not 0.0 <= smoothing < 1.0:
        raise ConfigurationError(f"label smoothing is {smoothing}", cure="choose a number from 0 (none) to below 1; 0.1 is usual")
    mask = targets.mask.flatten()
    flat = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    ids = targets.ids.flatten().masked_fill(~mask, _IGNORED)
    nll = functional.cross_entropy(flat, ids, reduction="none", ignore_index=_IGNORED)
    loss = nll
    if smoothing:
        # The mean of -log p over the allowed tokens is nll + chosen - (mean of their logits): no second softmax is needed.
        chosen = flat.gather(1, ids.clamp(min=0)[:, None]).squeeze(1)
        loss = nll + smoothing * torch.where(mask, chosen - _mean_allowed(flat), 0.0)
    return LikelihoodSums(loss.sum(), nll.detach().sum(), targets.tokens())


def _mean_allowed(logits: Tensor) -> Tensor:
    """The mean over the logits that are not -inf: [rows, vocabulary] -> [rows]."""
    disallowed = logits == -torch.inf
    count = (~disallowed).sum(-1).clamp(min=1)
    return logits.masked_fill(disallowed, 0.0).sum(-1) / count
