"""Maximum likelihood with label smoothing, as sums, so that any cut of an optimiser step adds up to the same loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError


@dataclass(frozen=True)
class LikelihoodSums:
    """What one micro-batch adds to an optimiser step.

    Attributes:
        loss: scalar with a gradient: the smoothed negative log-likelihood, summed over the target tokens, in nats.
        nll: scalar without a gradient: the plain negative log-likelihood, summed likewise; exp(nll / tokens) is the perplexity.
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
        logits: [tokens, vocabulary], one row per position of ``targets`` that counts, row by row, as
            `guerdon.models.policy.Policy.logits` gives them; -inf for disallowed tokens. Computed in float32 at least.
        targets: [batch, length]; what stands beyond a row's length is not read.
        smoothing: s, in [0, 1).

    Returns:
        Sums, not means: divide by the target tokens of the whole optimiser step. ``loss`` is not finite where a target
        is itself a disallowed token, which the training loop reports like any other non-finite loss.

    Raises:
        ConfigurationError: when ``smoothing`` is outside [0, 1).
    """
    if not 0.0 <= smoothing < 1.0:
        raise ConfigurationError(f"label smoothing is {smoothing}", cure="choose a number from 0 (none) to below 1")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ids = targets.ids[targets.mask]
    nll = functional.cross_entropy(wide, ids, reduction="sum")
    loss = nll
    if smoothing:
        # -log p averaged over the allowed tokens is -log p(target) + its logit - their mean logit: no second softmax needed.
        chosen = wide.gather(-1, ids[:, None])[:, 0]
        loss = nll + smoothing * (chosen - _mean_allowed(wide)).sum()
    return LikelihoodSums(loss, nll.detach(), len(ids))


def _mean_allowed(logits: Tensor) -> Tensor:
    """The mean over the logits that are not -inf: [tokens, vocabulary] -> [tokens]."""
    disallowed = logits == -torch.inf
    return logits.masked_fill(disallowed, 0.0).sum(-1) / (~disallowed).sum(-1)
